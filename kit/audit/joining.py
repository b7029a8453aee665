"""Which prediction belongs to which test record: by id, by image and question, or by order.

Several ways may fit; that counts by which most rows find a record that their question, image and
gold answer, where they tell them, do not contradict.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from kit.audit.prediction_files import Given, Predictions
from kit.data.audit import normalize_question
from kit.data.choices import without_choices
from kit.data.types import SftRecord
from kit.errors import DataError
from kit.prompting.normal import normalise

MOST_PARTS = 4  # of an image's path that are compared
SURE = 0.95  # share of rows whose gold answer must agree where they are joined by place alone
ENOUGH = 0.5  # share of the rows or of the records that must find each other
SHOWN = 3

Find = Callable[[Given], Sequence[int]]


@dataclass
class Joined:
    """The prediction of each record (None: it has none), ``by`` what, and what did not fit, in
    numbers: ``rows``, ``matched`` (rows), ``unmatched``, ``duplicates`` (rows of a record that had
    one before, which are not used), ``conflicting`` (of these, with another answer), ``missing``
    (records), ``empty`` (answers), ``other_gold`` (matched rows whose gold answer is another)."""

    answers: list[Given | None]
    by: str
    counts: dict[str, int]
    unmatched: list[str]

    @property
    def said(self) -> list[str | None]:
        """The answer of each record."""
        return [None if row is None else row.answer for row in self.answers]


class Records:
    """The test records by what a prediction may know them by."""

    def __init__(self, records: Sequence[SftRecord]):
        self.records = records
        self.questions = [
            normalize_question(without_choices(r.question, r.choices)) for r in records
        ]
        self.golds = [normalise(record.answer) for record in records]
        self.by_id, self.by_question = defaultdict(list), defaultdict(list)
        self._images: dict[tuple[str, ...], set[str]] = defaultdict(set)
        self._of_image = defaultdict(list)
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
        image = self.image_of(row)
        return image is None or image == record.image

    def agrees(self, number: int, row: Given) -> bool:
        """Whether a row's gold answer, if it tells one, is the record's."""
        return row.gold is None or normalise(row.gold) == self.golds[number]

    def image_of(self, row: Given) -> str | None:
        """The image of the test that a row names, if that is plain."""
        if not row.image or len(row.image) > 1000:  # an encoded image
            return None
        for parts in _parts(row.image):
            if found := self._images.get(parts):
                return next(iter(found)) if len(found) == 1 else None
        return None

    def with_image(self, row: Given) -> list[int]:
        return self._of_image.get(self.image_of(row) or "", [])


def join(given: Predictions, rows: Sequence[Given], test: Records, how: str) -> Joined:
    """Give each record its prediction.

    Raises:
        DataError: too few find each other, or nothing tells which belongs to which.
    """
    best: tuple[int, str, list[int | None]] | None = None
    for by, find, by_place in _ways(given, rows, test, how):
        places = _places(rows, test, find)
        pairs = [(r, p) for r, p in zip(rows, places, strict=True) if p is not None]
        sound = sum(test.agrees(place, row) for row, place in pairs)
        if by_place and how == "auto" and not _verified(pairs, sound):
            continue
        if pairs and (best is None or sound > best[0]):
            best = sound, by, places
    if best is None:
        raise _nothing_in_common(given, rows, test)
    joined = _joined(rows, test, best[2], best[1])
    records = len(test.records)
    few = max(joined.counts["matched"] / len(rows), 1 - joined.counts["missing"] / records)
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
        yield "image and question", test.with_image, False
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
    """The record of each row; of several that fit alike, one that no row has yet."""
    taken: Counter[int] = Counter()
    places: list[int | None] = []
    for row in rows:
        fitting = [number for number in find(row) if test.fits(number, row)]
        asked = normalize_question(row.question or "")
        fitting = [n for n in fitting if test.questions[n] == asked] or fitting
        if len({(test.records[n].shown, test.questions[n]) for n in fitting}) != 1:
            places.append(None)
            continue
        place = min(fitting, key=lambda number: (taken[number], number))
        taken[place] += 1
        places.append(place)
    return places


def _joined(rows: Sequence[Given], test: Records, places: list[int | None], by: str) -> Joined:
    answers: list[Given | None] = [None] * len(test.records)
    counts = Counter(rows=len(rows), duplicates=0, conflicting=0, other_gold=0)
    unmatched = []
    for row, place in zip(rows, places, strict=True):
        if place is None:
            unmatched.append(row.where)
        elif (before := answers[place]) is not None:
            counts["duplicates"] += 1
            counts["conflicting"] += normalise(before.answer) != normalise(row.answer)
        else:
            answers[place] = row
            counts["other_gold"] += not test.agrees(place, row)
    counts["unmatched"] = len(unmatched)
    counts["matched"] = len(rows) - len(unmatched)
    counts["missing"] = answers.count(None)
    counts["empty"] = sum(row is not None and not row.answer.strip() for row in answers)
    return Joined(answers, by, dict(counts), unmatched[:SHOWN])


def _verified(pairs: Sequence[tuple[Given, int]], sound: int) -> bool:
    """Whether rows that are joined by place say enough to show that it is the right one."""
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
        what = f"only {joined.counts['matched']} of {len(rows)} predictions belong to a test record"
        what += f" (by {joined.by})"
    what += (
        f": the first prediction has {shown}; the first record has qid {record.qid!r}, image "
        f"{PurePosixPath(record.image).name!r}, question {record.question[:60]!r}"
    )
    fix = "give the test file that was answered as --data, or say which column is what: "
    fix += "--prediction_columns id=... image=... question=..."
    if len(rows) == len(test.records):
        fix += "; if the predictions are in the order of the test file, give --join order"
    return DataError(what, where=given.path, fix=fix)
