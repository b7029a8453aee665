"""Anybody's questions: rows with an image, a question and an answer, and whatever else is known,
from any table (``kit.data.tables``) to the questions that all readers give.

Answers, choices and ids may be numbers or truth values: ``true`` and ``false`` are yes and no
(also written out, unless the question itself speaks of true or false), 3.0 is 3. Each is counted.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from kit.data.box_columns import BoxRule, WrittenBox, parse_boxes, rule_of, size_of
from kit.data.boxes import CONVENTIONS
from kit.data.choices import named_choice, parse_choices, plain
from kit.data.columns import BoxFormat, Columns, Layout, find_columns
from kit.data.fields import (
    bad_field,
    check_text,
    parse_image_size,
    parse_regions,
    resolve_image,
)
from kit.data.images import image_size
from kit.data.questions import Fixed, RawQuestion
from kit.data.stored_images import stored_image
from kit.data.tables import SPLITS, Row
from kit.data.types import Region
from kit.errors import ImageError, RecordError
from kit.files import strict_json

DATASET = "own"

_TRUTH = {"true": "yes", "false": "no"}
_OF_TRUTH = re.compile(r"\b(?:true|false)\b", re.IGNORECASE)
_X_RAY = re.compile(r"x[- ]?rays?|radiographs?", re.IGNORECASE)


_FIXES = {
    "answer_boolean": "answers that are true or false are yes or no",
    "answer_number": "answers that are numbers are text",
    "question_number": "questions that are numbers are text",
    "qid_repeated": "ids that came before got a number",
}


@dataclass(frozen=True)
class _Draft:
    """A question whose boxes wait for what those of all rows are."""

    row: dict[str, Any]
    where: str
    fields: dict[str, Any]
    boxes: list[WrittenBox]
    sizes: tuple[tuple[int, int], ...]


class OwnReader:
    """Reads the rows of one table; what was fixed is counted in ``fixed``.

    Args:
        rows: all of them, of which the names of the columns are taken.
        images: the folder for images that lie in a column.
        where: the table's name.

    Raises:
        DataError: a required column is not there, or two could be it.
    """

    def __init__(self, rows: Sequence[Row], layout: Layout, images: Path, where: str):
        names = dict.fromkeys(name for row in rows for name in row.value)
        self.columns: Columns = find_columns(names, layout.columns, where)
        self.layout, self.images, self.where = layout, images, where
        self.fixed: Fixed = Counter()
        self._sizes: dict[Path, tuple[int, int] | ImageError] = {}
        self._ids: Counter[str] = Counter()

    def questions(self, rows: Iterable[Row]) -> list[RawQuestion | RecordError]:
        """The question of each row, or what is wrong with it.

        Raises:
            DataError: what the boxes of all rows are is neither told nor plain.
        """
        drafts = [self._draft_or_problem(row) for row in rows]
        sound = [draft for draft in drafts if isinstance(draft, _Draft)]
        open_boxes = [
            (box, size_of(box, draft.sizes, draft.where))
            for draft in sound
            for box in draft.boxes
            if self._value(draft.row, "box_convention") is None
        ]
        rule = rule_of(open_boxes, self.layout.box_convention, self.layout.box_format, self.where)
        return [d if isinstance(d, RecordError) else self._finished(d, rule) for d in drafts]

    def _finished(self, draft: _Draft, rule: BoxRule) -> RawQuestion | RecordError:
        try:
            regions = draft.fields.pop("regions") or self._regions(draft, rule)
            return RawQuestion(**draft.fields, regions=regions, evidence=regions)
        except RecordError as error:
            return error

    def _regions(self, draft: _Draft, rule: BoxRule) -> tuple[Region, ...]:
        convention = self._value(draft.row, "box_convention")
        if convention is not None:
            if convention not in CONVENTIONS or convention == "resized_pixels":
                what = f"must be pixels, grid_1000 or unit, not {convention!r}"
                raise bad_field(draft.where, "box_convention", what, "wrong_value")
            rule = rule_of(
                [(box, size_of(box, draft.sizes, draft.where)) for box in draft.boxes],
                convention,
                self.layout.box_format,
                draft.where,
            )
        return rule.regions(draft.boxes, draft.sizes, draft.where)

    def _draft_or_problem(self, row: Row) -> _Draft | RecordError:
        if isinstance(row.value, RecordError):
            return row.value
        try:
            return self._draft(row)
        except RecordError as error:
            return error

    def _draft(self, row: Row) -> _Draft:
        where, counted = row.where, Counter()
        value = self._value
        image, *more = self._images(row)
        question = self._text(row, "question", Counter())
        answer = self._text(row, "answer", counted, question)
        choices = self._choices(row)
        if choices:
            answer = named_choice(
                plain(self._needed(row, "answer"), where, "answer"), choices, where
            )
            counted.clear()
        boxes = value(row.value, "boxes")
        size, *more_sizes = (self._size(path, where) for path in (image, *more))
        told = parse_image_size(value(row.value, "image_size"), where)
        if told is not None and told != size:
            what = f"is {list(told)}, but the image is {size[0]}x{size[1]} pixels: {image}"
            raise bad_field(where, "image_size", what, "bad_image")
        fields = {
            "dataset": self._optional(row, "dataset") or DATASET,
            "qid": self._qid(row),
            "split": self._split(row),
            "question": question,
            "answer": answer,
            "choices": tuple(choices.values()),
            "answer_type": self._answer_type(row, answer, bool(choices)),
            "image": image,
            "image_size": size,
            "where": where,
            "image_field": self.columns.of["image"],
            "content_type": self._optional(row, "content_type"),
            "modality": self._modality(row),
            "location": self._optional(row, "location"),
            "regions": parse_regions(value(row.value, "regions") or [], size, where, 1 + len(more)),
            "more_images": tuple(more),
            "more_sizes": tuple(more_sizes),
        }
        for name in ("question", "answer"):
            check_text(fields[name], where, name)
        self.fixed.update(counted)
        written = parse_boxes(boxes, where, self.columns.of["boxes"]) if boxes is not None else []
        if order := self._optional(row, "box_format"):
            if order not in get_args(BoxFormat):
                what = f"must be xyxy or xywh, not {order!r}"
                raise bad_field(where, self.columns.of["box_format"], what, "wrong_value")
            written = [replace(box, order=box.order or order) for box in written]
        sizes = (size, *more_sizes)
        for box in written:
            size_of(box, sizes, where)
        return _Draft(row.value, where, fields, written, sizes)

    def _value(self, row: dict, name: str) -> Any:
        """What the column of a field holds, or None."""
        column = self.columns.of.get(name)
        return row.get(column) if column else None

    def _needed(self, row: Row, name: str) -> Any:
        found = self._value(row.value, name)
        if found is None:
            raise bad_field(row.where, self.columns.of[name], "missing", f"missing_{name}")
        return found

    def _text(self, row: Row, name: str, counted: Counter, question: str | None = None) -> str:
        found = self._needed(row, name)
        if isinstance(found, list) and len(found) == 1:
            (found,) = found
        text = plain(found, row.where, self.columns.of[name])
        if isinstance(found, bool):
            counted[f"{name}_boolean"] += 1
        elif not isinstance(found, str):
            counted[f"{name}_number"] += 1
        elif question is not None and text.lower() in _TRUTH and not _OF_TRUTH.search(question):
            counted[f"{name}_boolean"] += 1
            text = _TRUTH[text.lower()]
        return text

    def _optional(self, row: Row, name: str) -> str:
        found = self._value(row.value, name)
        if found is None or (isinstance(found, str) and not found.strip()):
            return ""
        return plain(found, row.where, self.columns.of[name])

    def _choices(self, row: Row) -> dict[str, str]:
        letters = self.columns.choices
        if letters:
            there = {k: row.value[name] for k, name in letters.items() if name in row.value}
            return parse_choices(there, row.where, "choices") if there else {}
        found = self._value(row.value, "choices")
        if found is None or found == []:
            return {}
        return parse_choices(found, row.where, self.columns.of["choices"])

    def _images(self, row: Row) -> list[Path]:
        """The first, and those that are shown after it: in a list, or in columns of their own."""
        column = self.columns.of["image"]
        found = self._needed(row, "image")
        if isinstance(found, str) and found.lstrip().startswith("["):
            with contextlib.suppress(ValueError):
                found = strict_json(found)
        if not isinstance(found, list):
            found = [found]
        if not found:
            raise bad_field(row.where, column, "names no image", "image_missing")
        named = [(column, value) for value in found]
        more = ((name, row.value.get(name)) for name in self.columns.more_images)
        named += [(name, value) for name, value in more if value not in (None, "")]
        return [self._image(row, name, value) for name, value in named]

    def _image(self, row: Row, column: str, found: Any) -> Path:
        if isinstance(found, dict):  # as ``datasets`` stores an image
            found = found.get("bytes") or found.get("path")
        if isinstance(found, bytes) and found:
            return stored_image(found, self.images)
        if not isinstance(found, str) or not found.strip():
            what = f"must be a path or an image, not {type(found).__name__}"
            raise bad_field(row.where, column, what, "image_missing")
        return resolve_image(found.strip(), folder=row.folder, where=row.where, field=column)

    def _size(self, image: Path, where: str) -> tuple[int, int]:
        if image not in self._sizes:
            try:
                self._sizes[image] = image_size(image)
            except ImageError as error:
                self._sizes[image] = error
        found = self._sizes[image]
        if isinstance(found, ImageError):
            what = f"{found.what}: {image} ({found.fix})"
            raise bad_field(where, self.columns.of["image"], what, "bad_image")
        return found

    def _qid(self, row: Row) -> str:
        """The id as text; one that came before gets a number, so that each is one row's."""
        qid = self._optional(row, "qid")
        self._ids[qid] += 1
        if not qid or self._ids[qid] == 1:
            return qid
        self.fixed["qid_repeated"] += 1
        return f"{qid}#{self._ids[qid]}"

    def _split(self, row: Row) -> str:
        told = self._optional(row, "split") or row.split
        if told and told.lower() not in SPLITS:
            what = f"must be train, validate or test, not {told!r}"
            column = self.columns.of.get("split", "split")
            fix = "; if it is no split, leave it out: --columns split="
            raise bad_field(row.where, column, what + fix, "wrong_split")
        return SPLITS[told.lower()] if told else ""

    def _answer_type(self, row: Row, answer: str, choices: bool) -> str:
        told = self._optional(row, "answer_type").lower()
        for start, kind in (("open", "OPEN"), ("clos", "CLOSED")):
            if told.startswith(start):
                return kind
        return "CLOSED" if choices or answer.lower() in ("yes", "no") else "OPEN"

    def _modality(self, row: Row) -> str:
        told = self._optional(row, "modality")
        return "X-Ray" if _X_RAY.fullmatch(told) else told


def fixed_in_words(fixed: Fixed) -> str:
    """
    >>> fixed_in_words({"answer_boolean": 2})
    '2 answers that are true or false are yes or no'
    """
    return ", ".join(f"{count} {_FIXES.get(name, name)}" for name, count in sorted(fixed.items()))
