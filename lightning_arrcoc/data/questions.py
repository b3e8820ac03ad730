"""What sources of questions from outside have in common: parts, pictures, and bad samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Literal, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from lightning_arrcoc.data.images import decode_image
from lightning_arrcoc.data.picture_folder import PictureFolder
from lightning_arrcoc.data.records import Record, check_columns, read_record, value_of
from lightning_arrcoc.data.sample import Sample
from lightning_arrcoc.data.splits import Rows, check_split, rows_by_column, rows_by_share

# What a sample itself can be at fault for. Another OSError, or a package that is missing, would be
# so for many, and for no longer than somebody takes to mend it.
FAULTS = (ValueError, FileNotFoundError)


class Skipped(NamedTuple):
    """A sample that was left out.

    Attributes:
        file: where it stands.
        line: the line of a file, or the row of a table, from 1.
        reason: what is wrong with it.
    """

    file: str
    line: int
    reason: str


class Questions(Dataset[Sample], ABC):
    """Rows of questions with the names of their pictures, opened when they are asked for.

    What is bad about a row (no answer; a picture that is missing, damaged, animated, of another
    format, too large or outside the folder) either stops the run, with file and line, or is left
    out. What is left out is found before anything is drawn, by opening everything once, so that
    length and order are the same in every epoch, worker and process, and the rows that stay keep
    their order. A `VqaDataModule` shares that work between workers and processes, and lists what
    it left out; whoever uses a source without one finds it in `skipped`.

    Args:
        folder: where names of pictures lead.
        columns: our word (`image`, `images`, `question`, `answer`, `answers`, `conversations`,
            `family`) -> the name it has in the data, as far as they differ.
        on_bad_sample: "error" or "skip".
        split: take only this part of the rows, as told by one of the next two.
        shares: split -> share of the pictures; no picture lies in two splits. Reads all of them.
        split_column: or the column that names the split.

    Raises:
        ValueError: an argument cannot be, or no row belongs to the split.
    """

    def __init__(
        self,
        folder: PictureFolder,
        columns: Mapping[str, str] | None,
        on_bad_sample: Literal["error", "skip"],
        split: str | None,
        shares: Mapping[str, float] | None,
        split_column: str | None,
    ) -> None:
        if on_bad_sample not in ("error", "skip"):
            raise ValueError(f"on_bad_sample={on_bad_sample!r}; choose 'error' or 'skip'.")
        self.columns = dict(columns or {})
        check_columns(self.columns)
        check_split(split, shares, split_column)
        self.folder, self.on_bad_sample = folder, on_bad_sample
        self.is_checked = on_bad_sample == "error"
        self.skipped: tuple[Skipped, ...] = ()
        self.rows: Rows = np.array(self._all_rows(), dtype=np.int64)
        if not len(self.rows):
            raise ValueError(f"{self.where(0)[0]!r} has no samples.")
        if split is not None and split_column is not None:
            self.rows = self.rows[rows_by_column(self._names_of_splits(split_column), split)]
        elif split is not None and shares is not None:
            self.rows = self.rows[rows_by_share(self._digests(), shares, split)]

    @abstractmethod
    def _all_rows(self) -> Sequence[int]:
        """Numbers of all rows, in their order."""

    @abstractmethod
    def _read(self, row: int) -> Mapping[str, Any]:
        """A row's values by column; ValueError where it is damaged."""

    @abstractmethod
    def where(self, row: int) -> tuple[str, int]:
        """File and line of a row."""

    def __len__(self) -> int:
        self._check_alone()
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        row = int(self.rows[index])
        try:
            return self._sample(row)
        except FAULTS as error:
            raise self._blame(row, error) from error
        except OSError as error:
            raise self._named(row, error) from error

    def judge(self, row: int) -> str | None:
        """What is wrong with a row, found by opening all of it; None where nothing is."""
        found = self.attempt(row)
        return found if isinstance(found, str) else None

    def attempt(self, row: int) -> Sample | str:
        """A row's sample, or what is wrong with it.

        Raises:
            OSError: it could not be read, which is no fault of its own.
        """
        try:
            return self._sample(row)
        except FAULTS as error:
            return str(error)
        except OSError as error:
            raise self._named(row, error) from error

    def leave_out(self, bad: Mapping[int, str]) -> None:
        """Take rows away, each for its reason; after that the source counts as checked.

        Raises:
            ValueError: none would be left.
        """
        if len(bad) == len(self.rows):
            first = min(bad)
            file, line = self.where(first)
            raise ValueError(
                f"All {len(bad)} samples are bad; the first, {file}, line {line}: {bad[first]}"
            )
        left_out = [Skipped(*self.where(row), reason) for row, reason in bad.items()]
        self.skipped = tuple(sorted([*self.skipped, *left_out]))
        self.rows = self.rows[~np.isin(self.rows, list(bad))]
        self.is_checked = True

    def _check_alone(self) -> None:
        """Open everything here, where nobody has shared that work out."""
        if not self.is_checked:
            found = {row: self.judge(row) for row in self.rows.tolist()}
            self.leave_out({row: reason for row, reason in found.items() if reason is not None})

    def _sample(self, row: int) -> Sample:
        record = self._record(row)
        images, digests = [], []
        for picture in record.pictures:
            name, content = self.folder.encoded(picture)
            images.append(decode_image(content, name))
            digests.append(sha256(content).hexdigest())
        return Sample(tuple(images), record.turns, record.family, digests=tuple(digests))

    def _record(self, row: int) -> Record:
        return read_record(self._read(row), self.columns)

    def _blame(self, row: int, error: object) -> ValueError:
        file, line = self.where(row)
        return ValueError(
            f"{file}, line {line}: {error} Mend it, or leave such samples out with "
            "on_bad_sample=skip."
        )

    def _named(self, row: int, error: OSError) -> OSError:
        file, line = self.where(row)
        return OSError(f"{file}, line {line}: {error}")

    # ------------------------------------------------------------------------------ splitting

    def _names_of_splits(self, column: str) -> list[str | None]:
        """The split of every row; None for a row that cannot say, which is bad for all splits."""
        names: list[str | None] = []
        for row in self.rows.tolist():
            try:
                name = value_of(self._read(row), column)
                if name is None:
                    raise ValueError(f"no {column!r}, which names the split.")
                names.append(str(name))
            except ValueError as error:
                if self.on_bad_sample == "error":
                    raise self._blame(row, error) from error
                self.skipped += (Skipped(*self.where(row), str(error)),)
                names.append(None)
        return names

    def _digests(self) -> list[list[str]]:
        """For each row the sha256 of its pictures; of its number where they cannot be read."""
        known: dict[str, str] = {}  # many rows ask about the same picture

        def digest(picture: Any) -> str:
            if not isinstance(picture, str):
                return sha256(self.folder.encoded(picture)[1]).hexdigest()
            if picture not in known:
                known[picture] = sha256(self.folder.read(picture)).hexdigest()
            return known[picture]

        digests = []
        for row in self.rows.tolist():
            try:
                digests.append([digest(picture) for picture in self._record(row).pictures])
            except FAULTS:
                digests.append([sha256(str(row).encode()).hexdigest()])
        return digests
