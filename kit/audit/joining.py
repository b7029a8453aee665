"""Which prediction belongs to which test record: by id, by image and question, or by order.

Several ways may fit; that counts by which most records find a row whose question, image and gold
answer, where it tells them, do not contradict it. Of a larger set's rows the one that fits a record
best is its own.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from kit.audit.prediction_files import Given, Predictions
from kit.audit.wording import Wording
from kit.data.audit import normalize_question
from kit.data.choices import without_choices
from kit.data.types import SftRecord
from kit.errors import DataError
from kit.prompting.answers import same_answer
from kit.prompting.normal import normalise

MOST_PARTS = 4  # of an image's path that are compared
SURE = 0.95  # share of rows whose gold answer must agree where they are joined by place alone
ENOUGH = 0.5  # share of the rows or of the records that must find each other
SHOWN = 3

Find = Callable[[Given], Sequence[int]]

_BY_KEYS = "answers read by the data's own keys of its choices"
_BY_TRUTH = "answers that are true or false read as yes or no"
_same = functools.lru_cache(maxsize=1 << 16)(same_answer)


@dataclass
class Joined:
    """The prediction of each record (None: it has none), ``by`` what, and what did not fit, in
    numbers: ``rows``, ``matched`` (rows), ``unmatched``, ``duplicates`` (rows of a record that had
    one before, which are not used), ``conflicting`` (of these, with another answer), ``missing``
    (records), ``empty`` (answers), ``other_gold`` (rows in use whose gold answer is another).
    ``notes`` are to be told."""

    answers: list[Given | None]
    by: str
    counts: dict[str, int]
    unmatched: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def said(self) -> list[str | None]:
        """The answer of each record."""
        return [None if row is None else row.answer for row in self.answers]

    @property
    def answered(self) -> int:
        """How many records have a prediction."""
        return len(self.answers) - self.counts["missing"]


class Records:
    """The test records by what a prediction may know them by, and how their data was written."""

    def __init__(self, records: Sequence[SftRecord], wording: Wording | None = None):
        self.records = records
        self.wording = wording or Wording()
        self.questions = [
            normalize_question(without_choices(r.question, r.choices)) for r in records
        ]
        self.golds = [normalise(record.answer) for record in records]
        self.by_id, self.by_question = defaultdict(list), defaultdict(list)
        self._images: dict[tuple[str, ...], set[str]] = defaultdict(set)
        self._of_image = defaultdict(list)
        self._named: dict[str, tuple[str | None, int]] = {}
        for number, record in enumerate(records):
            if record.qid:
                self.by_id[record.qid].append(number)
            self.by_question[self.questions[number]].append(number)
            self._of_image[record.image].append(number)
            for parts in _parts(record.image):
                self._images[parts].add(record.image)

    def fits(self, number: int, row: Given) -> bool:
        """Whether nothing that a row tells contradicts a record. A prompt may say more than the
        question."""
        record, question = self.records[number], self.questions[number]
        if row.dataset and record.dataset and _plain(row.dataset) != _plain(record.dataset):
            return False
        if row.question and question not in normalize_question(row.question):
            return False
        image, _ = self.image_of(row)
        return image is None or image == record.image

    def agrees(self, number: int, row: Given) -> bool:
        """Whether a row's gold answer, if it tells one, is the record's."""
        if row.gold is None:
            return True
        gold, record = self.said(number, row, row.gold), self.records[number]
        return normalise(gold) == self.golds[number] or _same(gold, record.answer, record.choices)

    def said(self, number: int, row: Given, text: str) -> str:
        """What a row has as an answer, as the record would have it."""
        return self.wording.of_record(text, self.records[number], row.question)

    def image_of(self, row: Given) -> tuple[str | None, int]:
        """The image of the test that a row names, if that is plain, and by how many parts of its
        path."""
        if not row.image or len(row.image) > 1000:  # an encoded image
            return None, 0
        if row.image not in self._named:
            there = (parts for parts in _parts(row.image) if parts in self._images)
            parts = next(there, ())
            found = self._images.get(parts, ())
            self._named[row.image] = (*found, len(parts)) if len(found) == 1 else (None, 0)
        return self._named[row.image]

    def by_image(self, rows: Sequence[Given]) -> Find:
        """Finds the records of the image that a row names, unless another row names that by more
        parts of its path: then the row's own is one of the same name elsewhere."""
        most: Counter[str | None] = Counter()
        for row in rows:
            image, parts = self.image_of(row)
            most[image] = max(most[image], parts)

        def find(row: Given) -> Sequence[int]:
            image, parts = self.image_of(row)
            return self._of_image[image] if image and parts == most[image] else ()

        return find


def join(given: Predictions, rows: Sequence[Given], test: Records, how: str) -> Joined:
    """Give each record its prediction.

    Raises:
        DataError: too few find each other, or nothing tells which belongs to which.
    """
    best: tuple[int, Joined] | None = None
    for by, find, by_place in _ways(given, rows, test, how):
        places = _places(rows, test, find)
        if by_place and how == "auto" and not _verified(rows, test, places):
            continue
        joined = _joined(rows, test, places, by)
        sound = joined.answered - joined.counts["other_gold"]
        if joined.answered and (best is None or sound > best[0]):
            best = sound, joined
    if best is None:
        raise _nothing_in_common(given, rows, test)
    _, joined = best
    few = max(joined.answered / len(rows), joined.answered / len(test.records))
    if few < ENOUGH and how == "auto":
        raise _nothing_in_common(given, rows, test, joined)
    return joined


def _ways(
    given: Predictions, rows: Sequence[Given], test: Records, how: str
) -> Iterator[tuple[str, Find, bool]]:
    """What rows may be joined by, the surest first, how, and whether that is by place alone."""
    known = {name: any(getattr(row, name) for row in rows) for name in ("question", "image")}
    if how in ("auto", "id"):
        for column in given.columns.ids:
            yield (
                f"the id in {column!r}",
                lambda row, column=column: test.by_id.get(row.ids.get(column, ""), ()),
                False,
            )
    if how in ("auto", "image_question") and all(known.values()):
        yield "image and question", test.by_image(rows), False
    if how == "auto" and known["question"]:
        alone = {q: places for q, places in test.by_question.items() if len(places) == 1}
        yield (
            "the question, where it is asked once",
            lambda row: alone.get(normalize_question(row.question or ""), ()),
            False,
        )
    if how == "auto":
        for column in given.columns.ids:
            for first in (0, 1):
                yield (
                    f"the place in {column!r}, counted from {first}",
                    lambda row, column=column, first=first: _at(row.ids.get(column), first, test),
                    True,
                )
    if how in ("auto", "order") and len(rows) == len(test.records):
        order = {row.number: place for place, row in enumerate(rows)}
        yield "their order", lambda row: (order[row.number],), True


def _places(rows: Sequence[Given], test: Records, find: Find) -> list[int | None]:
    """The record of each row; of several that fit alike, one that no row has yet. A row is not of
    a record that another names better: by more parts of its image's path, or by its question
    alone."""
    found: list[tuple[list[int], tuple[int, bool]]] = []
    best: dict[int, tuple[int, bool]] = {}
    for row in rows:
        fitting = [number for number in find(row) if test.fits(number, row)]
        asked = normalize_question(row.question or "")
        exact = [number for number in fitting if test.questions[number] == asked]
        fitting = exact or fitting
        if len({(test.records[n].shown, test.questions[n]) for n in fitting}) != 1:
            fitting = []
        rank = test.image_of(row)[1], bool(exact)
        best |= {number: max(best.get(number, rank), rank) for number in fitting}
        found.append((fitting, rank))
    taken: Counter[int] = Counter()
    places: list[int | None] = []
    for fitting, rank in found:
        if not fitting or any(best[number] > rank for number in fitting):
            places.append(None)
            continue
        place = min(fitting, key=lambda number: (taken[number], number))
        taken[place] += 1
        places.append(place)
    return places


def _joined(rows: Sequence[Given], test: Records, places: list[int | None], by: str) -> Joined:
    answers: list[Given | None] = [None] * len(test.records)
    counts = Counter(rows=len(rows), duplicates=0, conflicting=0, other_gold=0)
    reworded: Counter[str] = Counter()
    unmatched = []
    for row, place in zip(rows, places, strict=True):
        if place is None:
            unmatched.append(row.where)
            continue
        answer = test.said(place, row, row.answer)
        if (before := answers[place]) is not None:
            counts["duplicates"] += 1
            counts["conflicting"] += normalise(before.answer) != normalise(answer)
            continue
        answers[place] = replace(row, answer=answer)
        counts["other_gold"] += not test.agrees(place, row)
        if answer != row.answer:
            reworded[_BY_KEYS if test.records[place].choices else _BY_TRUTH] += 1
    counts["unmatched"] = len(unmatched)
    counts["matched"] = len(rows) - len(unmatched)
    counts["missing"] = answers.count(None)
    counts["empty"] = sum(row is not None and not row.answer.strip() for row in answers)
    notes = [f"{count} {kind}" for kind, count in reworded.items()]
    return Joined(answers, by, dict(counts), unmatched[:SHOWN], notes)


def _verified(rows: Sequence[Given], test: Records, places: Sequence[int | None]) -> bool:
    """Whether rows that are joined by place say enough to show that it is the right one."""
    pairs = [(row, place) for row, place in zip(rows, places, strict=True) if place is not None]
    sound = sum(test.agrees(place, row) for row, place in pairs)
    told = [row for row, _ in pairs if row.gold or row.question]
    return len(told) == len(pairs) > 0 and sound >= SURE * len(pairs)


def _at(written: str | None, first: int, test: Records) -> Sequence[int]:
    try:
        place = int(written or "") - first
    except ValueError:
        return ()
    return (place,) if 0 <= place < len(test.records) else ()


def _parts(image: str) -> Iterator[tuple[str, ...]]:
    """The last parts of a path, the most first, with and without the file's ending."""
    path = PurePosixPath(image.replace("\\", "/").lower())
    parts = [part for part in path.parts if part not in ("/", ".", "..")]
    for count in range(min(MOST_PARTS, len(parts)), 0, -1):
        yield tuple(parts[-count:])
        yield (*parts[-count:-1], PurePosixPath(parts[-1]).stem)


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def _nothing_in_common(
    given: Predictions, rows: Sequence[Given], test: Records, joined: Joined | None = None
) -> DataError:
    """An error that shows what the two sides look like."""
    row, record = rows[0], test.records[0]
    said = {**row.ids, "image": row.image, "question": row.question}
    shown = ", ".join(f"{k} {v[:60]!r}" for k, v in said.items() if v) or "no id, image or question"
    what = "no prediction belongs to a test record"
    if joined:
        what = f"only {joined.answered} of {len(test.records)} test records find one of the "
        what += f"{len(rows)} predictions (by {joined.by}), "
        what += f"{joined.counts['matched']} of which belong to a test record"
    what += (
        f": the first prediction has {shown}; the first record has qid {record.qid!r}, image "
        f"{PurePosixPath(record.image).name!r}, question {record.question[:60]!r}"
    )
    fix = "give the test file that was answered as --data, or say which column is what: "
    fix += "--prediction_columns id=... image=... question=..."
    if len(rows) == len(test.records):
        fix += "; if the predictions are in the order of the test file, give --join order"
    if joined and joined.counts["duplicates"]:
        fix += "; if several are of one record, of which the first counts, give --join id"
        fix += " (or image_question)"
    return DataError(what, where=given.path, fix=fix)
