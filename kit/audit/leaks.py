"""What a training file gives away of the test: questions that it asks too, and its images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kit.data import audit
from kit.data.choices import without_choices
from kit.data.likeness import near_duplicates
from kit.data.questions import RawQuestion
from kit.data.types import SftRecord
from kit.data.words import CHINESE
from kit.files import sha256_of

EXAMPLES = 5


@dataclass(frozen=True)
class Leaks:
    """Of each test record how the training file gives it away (``kit.data.audit.LEAK_KINDS``,
    None: not) and by which row; the records whose image it has (``shared``, by content) or nearly
    has (``near``); how many training rows give something away, by kind; what could not be read."""

    kinds: list[str | None]
    by: list[str]
    shared: frozenset[int]
    near: frozenset[int]
    training_rows: Counter[str]
    n_training: int
    unread: int

    @property
    def of_known_image(self) -> frozenset[int]:
        return self.shared | self.near

    def to_json(self, records: Sequence[SftRecord]) -> dict:
        """The counts, and a few examples."""
        counts = Counter(kind for kind in self.kinds if kind)
        images = {
            name: len({records[n].image for n in numbers})
            for name, numbers in (("shared", self.shared), ("near", self.near))
        }
        found = [n for n, kind in enumerate(self.kinds) if kind][:EXAMPLES]
        return {
            "training_rows": self.n_training,
            "test_records": {kind: counts[kind] for kind in audit.LEAK_KINDS},
            "training_rows_that_leak": {k: self.training_rows[k] for k in audit.LEAK_KINDS},
            "images_shared": images["shared"],
            "records_of_shared_images": len(self.shared),
            "images_nearly_the_same": images["near"],
            "records_of_nearly_the_same_images": len(self.near),
            "images_not_read": self.unread,
            "examples": [
                {"qid": records[n].qid, "kind": self.kinds[n], "training_row": self.by[n]}
                for n in found
            ],
        }


def leaks_of(
    train: Sequence[SftRecord],
    test: Sequence[SftRecord],
    thumbnails: Mapping[Path, np.ndarray],
) -> Leaks:
    """Compare a training file with the test, images by their content and their thumbnails (of the
    images of both)."""
    sums: dict[str, str] = {}
    for record in (*test, *train):
        for path in record.images:
            if path not in sums:
                sums[path] = sha256_of(path)
    asked = [_question(r, sums, f"test record {n}") for n, r in enumerate(test)]
    known = [_question(r, sums, r.qid or f"row {n}") for n, r in enumerate(train)]
    found = {leak.row.where: leak for leak in audit.find_leaks(asked, known)}
    kinds = [found[row.where].kind if row.where in found else None for row in asked]
    by = [found[row.where].test_where if row.where in found else "" for row in asked]
    of_training = Counter(leak.kind for leak in audit.find_leaks(known, asked))
    train_sums = {path for row in known for path in row.images}
    shared = {n for n, row in enumerate(asked) if train_sums.intersection(row.images)}
    small = {Path(sums[str(path)]): pixels for path, pixels in thumbnails.items()}
    unread = len({*sums.values()} - {str(digest) for digest in small})
    near_images = near_duplicates(
        {p: small[p] for row in asked for p in row.images if p in small and p not in train_sums},
        {p: small[p] for p in train_sums if p in small},
    )
    near = {n for n, row in enumerate(asked) if near_images.keys() & set(row.images)} - shared
    return Leaks(kinds, by, frozenset(shared), frozenset(near), of_training, len(train), unread)


def _question(record: SftRecord, sums: dict[str, str], where: str) -> RawQuestion:
    """A record as the leak finder takes it. Images go by their content, whatever the dataset."""
    first, *more = (Path(sums[path]) for path in record.images)
    text = without_choices(record.question, record.choices)
    return RawQuestion(
        dataset="", qid=record.qid, split=record.split, question=text, answer=record.answer,
        answer_type=record.answer_type, image=first, image_size=record.image_size or (1, 1),
        where=where, language="zh" if CHINESE.search(text) else "en", more_images=tuple(more),
    )  # fmt: skip
