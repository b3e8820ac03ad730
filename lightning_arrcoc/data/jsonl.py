"""Questions in a file of JSON lines, beside a folder of pictures."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning_arrcoc.data.picture_folder import PictureFolder
from lightning_arrcoc.data.questions import Questions

MOST_LINE_BYTES = 16 * 2**20  # chosen by us: a line is a few questions, not a whole data set
HOW_TO_MAKE_LINES = "A list of samples becomes lines by: jq -c '.[]' list.json > lines.jsonl"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class JsonlQuestions(Questions):
    """One sample a line: ``{"image": "cat.jpg", "question": "What is it?", "answer": "a cat"}``.

    `images` holds several pictures, `answers` several answers that count as right, and
    `conversations` a dialogue as LLaVA writes it; see `read_record`. Lines stay in the file: only
    where each begins is held in memory. Every line is read once at the start, so that a bad one is
    told before anything else is done; what is wrong with a picture shows when it is opened.

    Args:
        path: the file of lines, UTF-8.
        images: the folder that names of pictures start from, or its URL; None takes the file's own.
        allow_outside: let names lead out of that folder.
        protocols: kinds of URL that lines may name, such as ``[https, s3]``.
        columns, on_bad_sample, split, shares, split_column: as for `Questions`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is bad and `on_bad_sample` is "error", or as for `Questions`.
    """

    def __init__(
        self,
        path: str | Path,
        images: str | Path | None = None,
        *,
        allow_outside: bool = False,
        protocols: Sequence[str] = (),
        columns: Mapping[str, str] | None = None,
        on_bad_sample: Literal["error", "skip"] = "error",
        split: str | None = None,
        shares: Mapping[str, float] | None = None,
        split_column: str | None = None,
    ) -> None:
        self.path = str(path)
        if "://" in self.path:
            raise ValueError(f"path={self.path!r} is a URL; download the file of lines first.")
        if not Path(path).is_file():
            raise FileNotFoundError(f"No file {self.path!r}; expected one JSON object a line.")
        folder = PictureFolder(
            Path(path).parent if images is None else images,
            allow_outside=allow_outside,
            protocols=protocols,
        )
        self._starts, self._filled, self._state = index_lines(self.path)
        super().__init__(folder, columns, on_bad_sample, split, shares, split_column)
        if on_bad_sample == "error":
            self._check_words()

    def where(self, row: int) -> tuple[str, int]:
        return self.path, row + 1

    def _all_rows(self) -> Sequence[int]:
        return self._filled

    def _read(self, row: int) -> Mapping[str, Any]:
        with Path(self.path).open("rb") as file:
            if state_of(file.fileno()) != self._state:
                raise OSError(
                    f"{self.path!r} has changed since it was opened. Start anew, with a file that "
                    "stays as it is."
                )
            file.seek(self._starts[row])
            line = file.read(self._starts[row + 1] - self._starts[row])
        try:
            found = json.loads(line.removeprefix(BYTE_ORDER_MARK))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"no JSON: {error}.") from error
        if not isinstance(found, dict):
            raise ValueError(
                f"a JSON {type(found).__name__}; expected one object a line. {HOW_TO_MAKE_LINES}"
            )
        return found

    def _check_words(self) -> None:
        for row in self.rows.tolist():
            try:
                self._record(row)
            except ValueError as error:
                raise self._blame(row, error) from error


def index_lines(path: str | Path) -> tuple[array[int], array[int], tuple[int, int]]:
    """Where lines begin, in bytes, with the end of the file last; which are not blank; its state.

    Raises:
        ValueError: a line is too long to be one sample.
    """
    starts, filled = array("q", [0]), array("q")
    with Path(path).open("rb") as file:
        state = state_of(file.fileno())
        while line := file.readline(MOST_LINE_BYTES + 1):
            if len(line) > MOST_LINE_BYTES:
                raise ValueError(
                    f"{str(path)!r}, line {len(starts)} is longer than {MOST_LINE_BYTES // 2**20} "
                    f"MiB; expected one sample a line. {HOW_TO_MAKE_LINES}"
                )
            if line.strip():
                filled.append(len(starts) - 1)
            starts.append(starts[-1] + len(line))
    return starts, filled, state


def state_of(descriptor: int) -> tuple[int, int]:
    """Size and time of change of an open file: another means another content."""
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns
