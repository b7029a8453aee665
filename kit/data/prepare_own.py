"""The splits of anybody's data: those that it names, those of a second file, or shares of its
images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from kit.data import likeness
from kit.data.config import PrepareConfig
from kit.data.own import OwnReader
from kit.data.published_sets import LAYOUTS, read_published
from kit.data.questions import SPLITS, Fixed, RawQuestion
from kit.data.questions import Row as Question
from kit.data.tables import read_table
from kit.errors import DataError, RecordError
from kit.files import sha256_of

Thumbnails = Callable[[Iterable[RawQuestion]], Mapping[Path, np.ndarray]]


class OwnSplits:
    """The rows of each split of ``own_data`` and ``test_data``, what was fixed in them, and notes.

    Args:
        thumbnails: gives those of the images of rows, of which slices of one volume are known.

    Raises:
        DataError: a file cannot be read, or what it says of splits contradicts the configuration.
    """

    def __init__(self, config: PrepareConfig, thumbnails: Thumbnails):
        self.config, self.thumbnails = config, thumbnails
        self.fixed: Fixed = Counter()
        self.notes: list[str] = []
        rows = self._read(config.own_data)
        self.broken = [row for row in rows if isinstance(row, RecordError)]
        self.rows = self._parted([row for row in rows if isinstance(row, RawQuestion)])
        if config.test_data:
            self._take_tests(self._read(config.test_data))

    def of(self, split: str) -> list[Question]:
        """The rows of one split or of ``all``, and the broken ones.

        Raises:
            DataError: there is none.
        """
        if split == "all":
            return [*(row for rows in self.rows.values() for row in rows), *self.broken]
        if not self.rows[split] and not self.broken:
            there = ", ".join(f"{name} ({len(rows)})" for name, rows in self.rows.items() if rows)
            fix = "look at its column of splits"
            if split != "train":
                fix = f"give --{split}_share 0.1, the same to each --split"
                fix += ", or --test_data" * (split == "test")
            what = f"holds no row of the {split} split; there are {there}"
            raise DataError(what, where=self.config.own_data, fix=fix)
        return [*self.rows[split], *self.broken]

    def tests_as_in(self, rows: Sequence[RawQuestion]) -> list[RawQuestion]:
        """The test rows; an image that has the content of one of ``rows`` has its path too."""
        first: dict[str, Path] = {}
        for path in dict.fromkeys(path for row in rows for path in row.images):
            first.setdefault(sha256_of(path), path)
        own = {p: first.get(sha256_of(p), p) for row in self.rows["test"] for p in row.images}
        return [
            replace(row, image=own[row.image], more_images=tuple(own[p] for p in row.more_images))
            for row in self.rows["test"]
        ]

    def _take_tests(self, others: list[Question]) -> None:
        """Make the rows of ``test_data`` the test split. Those that cannot be of it, and the test
        rows of ``own_data``, are broken rows of that split and of ``all``."""
        config = self.config
        tests = [r for r in others if isinstance(r, RawQuestion) and r.split in ("", "test")]
        lost = [
            _misplaced(row, "--test_data is the test split alone")
            for row in others
            if isinstance(row, RecordError) or row.split not in ("", "test")
        ]
        replaced = [_misplaced(row, "--test_data is that split") for row in self.rows["test"]]
        self.rows["test"] = [replace(row, split="test") for row in tests]
        if config.split == "test":
            self.broken = lost + replaced
        elif config.split == "all":
            self.broken += lost + replaced
        elif config.split == "train" and lost:
            counts = Counter(row.reason for row in lost)
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
            what = f"{len(lost)} rows were not compared with the training rows: {reasons}"
            self.notes.append(f"{config.test_data}: {what}")

    def _read(self, path: str) -> list[Question]:
        if self.config.dataset in LAYOUTS:
            table, layout = read_published(self.config.dataset, path)
        else:
            table, layout = read_table(path), self.config.layout
        rows = [row for row in table.rows if isinstance(row.value, dict)]
        if not rows:
            raise DataError("holds no question", where=path, fix="see data/README.md for the forms")
        reader = OwnReader(rows, layout, table.images, table.path)
        broken = [_problem(row) for row in table.rows if not isinstance(row.value, dict)]
        found = [*reader.questions(rows), *broken]
        self.fixed.update(reader.fixed)
        told = [*table.notes, reader.columns.in_words()]
        self.notes += [f"{path}: {words}" for words in told if words]
        return found

    def _parted(self, rows: list[RawQuestion]) -> dict[str, list[RawQuestion]]:
        """The rows by split: as they are named, and of those that are train or nothing the shares
        of images that are wanted for others."""
        config = self.config
        named = Counter(row.split for row in rows)
        if "" in named and len(named) > 1:
            first = next(row for row in rows if not row.split)
            what = f"{named['']} of {len(rows)} rows name no split, others do"
            raise DataError(what, where=first.where, fix="name one in each row, or in none")
        shares = {"test": config.test_share, "validate": config.validate_share}
        for split, share in shares.items():
            if share is not None and named[split]:
                what = f"names rows of the split {split} itself"
                raise DataError(what, where=config.own_data, fix=f"leave out --{split}_share")
        pool = [row for row in rows if row.split in ("", "train")]
        parts = {split: [row for row in rows if row.split == split] for split in SPLITS[1:]}
        above = 0.0
        chosen: dict[Path, str] = {}
        groups = self._groups(pool) if any(shares.values()) else {}
        for split, share in shares.items():
            for path, fraction in groups.items():
                if above <= fraction < above + (share or 0):
                    chosen[path] = split
            above += share or 0
        for row in pool:
            split = chosen.get(row.image, "train")
            parts.setdefault(split, []).append(replace(row, split=split))
        return {split: parts.get(split, []) for split in SPLITS}

    def _groups(self, rows: list[RawQuestion]) -> dict[Path, float]:
        """For each image a number in 0..1 that the content of its volume decides: the same for all
        slices of one, and for all images that questions show together."""
        volumes = likeness.volumes(self.thumbnails(rows))
        shown = ({volumes[path] for path in row.images if path in volumes} for row in rows)
        joined = likeness.joined_names(names for names in shown if len(names) > 1)
        group = {path: joined.get(name, name) for path, name in volumes.items()}
        sums: dict[str, str] = {}
        for path, name in group.items():
            sums[name] = min(sha256_of(path), sums.get(name, "~"))
        return {path: likeness.fraction(sums[name]) for path, name in group.items()}


def _misplaced(row: Question, why: str) -> RecordError:
    """What is wrong with a row that names a split which another file gives."""
    if isinstance(row, RecordError):
        return row
    what = f"names the split {row.split}, but {why}"
    return RecordError(what, reason="other_split", where=row.where)


def _problem(row) -> RecordError:
    if isinstance(row.value, RecordError):
        return row.value
    what = f"a row must be an object, not {type(row.value).__name__}"
    return RecordError(what, reason="wrong_type", where=row.where)
