"""Questions in a table: parquet, CSV or JSON files, or a data set of the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning_arrcoc.data.picture_folder import PictureFolder
from lightning_arrcoc.data.questions import Questions
from lightning_arrcoc.data.records import KEYS, check_columns

KINDS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)


class HubQuestions(Questions):
    """One sample a row of a table, columns as for `JsonlQuestions` or named in `columns`.

    A picture is what ``datasets.Image`` stores (encoded bytes or a path), plain bytes, or a name in
    the folder `images`; a list of these is several. They are never decoded by datasets, only by
    `decode_image`. Rows stay on the disk. A bad row shows when it is drawn; with
    ``on_bad_sample="skip"``, before.

    Args:
        path: a file, several, or a folder of files of one kind. Nothing is downloaded.
        hub: or the name of a data set on the hub, which is downloaded. No code of it is run.
        name: its configuration, where it has several.
        revision: its commit or tag; None takes the newest.
        hub_split: its split, also a part of it such as ``train[:1000]``.
        cache: where datasets keeps its own copy of the table; None takes its usual place.
        images: the folder that names of pictures start from, or its URL; None takes that of `path`,
            for a data set of the hub the working folder.
        allow_outside, protocols: as for `JsonlQuestions`.
        columns, on_bad_sample, split, shares, split_column: as for `Questions`.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: datasets is not installed.
        ValueError: not exactly one of `path` and `hub` is given, a column is not there, or as for
            `Questions`.
    """

    def __init__(
        self,
        path: str | Sequence[str] | None = None,
        *,
        hub: str | None = None,
        name: str | None = None,
        revision: str | None = None,
        hub_split: str = "train",
        cache: str | None = None,
        images: str | Path | None = None,
        allow_outside: bool = False,
        protocols: Sequence[str] = (),
        columns: Mapping[str, str] | None = None,
        on_bad_sample: Literal["error", "skip"] = "error",
        split: str | None = None,
        shares: Mapping[str, float] | None = None,
        split_column: str | None = None,
    ) -> None:
        if (path is None) == (hub is None):
            raise ValueError(
                f"path={path!r}, hub={hub!r}: give one of them, files of your own or the name of "
                "a data set on the hub."
            )
        files = [] if path is None else table_files(path)
        check_columns(columns or {})
        if hub is None:
            table = load_files(files, cache)
            self.name = str(path)
        else:
            table = load_from_hub(hub, name, revision, hub_split, cache)
            self.name = f"{hub} ({hub_split})"
        wanted = wanted_columns(table.column_names, columns or {}, split_column)
        self._table = table.select_columns(wanted).with_format("arrow")  # as stored: not decoded
        beside = files[0].parent if files else Path()
        folder = PictureFolder(
            beside if images is None else images, allow_outside=allow_outside, protocols=protocols
        )
        super().__init__(folder, columns, on_bad_sample, split, shares, split_column)

    def where(self, row: int) -> tuple[str, int]:
        return self.name, row + 1

    def _all_rows(self) -> Sequence[int]:
        return range(len(self._table))

    def _read(self, row: int) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._table[row].to_pylist()[0]
        return found


def table_files(path: str | Sequence[str]) -> list[Path]:
    """The files of a table, sorted where they are those of a folder.

    Raises:
        FileNotFoundError: one is not there, or the folder holds none.
        ValueError: it is a URL, or they are of several kinds or of an unknown one.
    """
    named = [path] if isinstance(path, str) else list(path)
    files: list[Path] = []
    for one in map(str, named):
        if "://" in one:
            raise ValueError(f"path={one!r} is a URL; download it first, or name a hub data set.")
        inside = sorted(file for file in Path(one).rglob("*") if file.suffix in KINDS)
        if not inside and not Path(one).is_file():
            raise FileNotFoundError(f"No table {one!r}; expected {', '.join(KINDS)} or a folder.")
        files += inside if Path(one).is_dir() else [Path(one)]
    kinds = {KINDS.get(file.suffix, file.suffix) for file in files}
    if len(kinds) != 1 or not kinds <= set(KINDS.values()):
        raise ValueError(
            f"path={path!r} holds {', '.join(sorted(kinds)) or 'nothing'}; expected files of one "
            f"kind, {', '.join(KINDS)}."
        )
    return files


def load_files(files: Sequence[Path], cache: str | None) -> Any:
    """A table of files of one kind; nothing is downloaded."""
    paths = [str(file.absolute()) for file in files]
    return _datasets().load_dataset(
        KINDS[files[0].suffix], data_files=paths, split="train", cache_dir=cache
    )


def load_from_hub(
    hub: str, name: str | None, revision: str | None, split: str, cache: str | None
) -> Any:
    """A table of the hub.

    Raises:
        ValueError: that is no name of a data set.
    """
    if not HUB_NAME.fullmatch(hub) or Path(hub).exists():
        raise ValueError(
            f"hub={hub!r} is no name of a data set on the hub, or a file of yours; expected "
            "owner/name. Files of your own are named by path=."
        )
    return _datasets().load_dataset(hub, name=name, revision=revision, split=split, cache_dir=cache)


def wanted_columns(
    present: Sequence[str], columns: Mapping[str, str], split_column: str | None
) -> list[str]:
    """Columns that are read at all: those that a row is asked for.

    Raises:
        ValueError: one that was named is not there, or nothing that could hold pictures is.
    """
    named = [*columns.values(), *([split_column] if split_column else [])]
    asked = [*named, *(key for key in KEYS if key not in columns)]
    tops = [name if name in present else name.partition(".")[0] for name in asked]
    missing = [name for name, top in zip(asked, tops, strict=True) if top not in present]
    pictures = [columns.get(key, key) for key in ("image", "images")]
    absent = [name for name in missing if name in named]
    if absent or set(pictures) <= set(missing):
        absent = absent or pictures
        raise ValueError(
            f"No column {', '.join(map(repr, absent))}; the table has {', '.join(present)}. Say "
            "which is which: columns={image: ..., question: ..., answer: ...}."
        )
    return sorted({top for top in tops if top in present})


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            'Tables need another package: pip install "lightning-arrcoc[datasets]"'
        ) from error
    return datasets
