"""How the test's data wrote its answers, where its records have them in other words: true and
false, and the choices' own keys. Predictions and their gold answers are taken the same way."""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kit.audit.prediction_files import Given
from kit.data.audit import normalize_question
from kit.data.choices import (
    LETTERS,
    letter_alone,
    letter_and_text,
    parse_choices,
    plain,
    with_choices,
    without_choices,
)
from kit.data.columns import Columns, Layout, find_columns
from kit.data.tables import Row, read_table
from kit.data.types import SftRecord
from kit.errors import RecordError
from kit.prompting.normal import same_text

_YES_NO = {"true": "yes", "false": "no"}
_TRUTH = re.compile(r"\s*(true|false)(?=\s*(?:[.,;:!]|$))", re.IGNORECASE)
_OF_TRUTH = re.compile(r"\b(?:true|false)\b", re.IGNORECASE)  # of whose answers are left
# A number that stands alone or before what it stands for, as a choice's: "2", "(2)", "2. Lung"
_NUMBERED = re.compile(
    r"\s*(?:the\s+)?(?:(?:correct|right|best|final)\s+)?(?:answer|option|choice)?(?:\s+is)?\s*:?\s*"
    r"(?:option\s+|choice\s+)?[(\[]?(?P<key>\d{1,2})(?:[)\]]?\s*[.:)]?\s*|"
    r"(?:[)\]]|\s*[.:)])[.:]?\s+(?P<text>\S.*))",
    re.IGNORECASE | re.DOTALL,
)

Asked = tuple[str, tuple[str, ...]]  # a question and its choices


@dataclass(frozen=True)
class Wording:
    """``truth``: whether answers were written true and false; ``keys``: of the choices of a
    question, where they are not A, B, C and so on without a gap."""

    truth: bool = False
    keys: Mapping[Asked, tuple[str, ...]] = field(default_factory=dict)

    def of_record(self, text: str, record: SftRecord, asked: str | None) -> str:
        """An answer to a record as the record would have it; ``asked`` is what a prediction's file
        says of the question: where it shows the record's letters, these count."""
        if record.choices:
            keys = self.keys.get(_asked(record.question, record.choices))
            if not keys or (asked and with_choices("", record.choices) in asked):
                return text
            return by_keys(text, keys, record.choices)
        polar = self.truth and record.answer.casefold() in _YES_NO.values()
        if not polar or _OF_TRUTH.search(record.question):
            return text
        return _TRUTH.sub(lambda found: _YES_NO[found[1].lower()], text, count=1)


def wording_of(
    path: str, layout: Layout, records: Sequence[SftRecord], rows: Iterable[Given]
) -> Wording:
    """What the rows of a data file that were not prepared were written as; the file is read again
    only where that could matter."""
    if not any(record.choices for record in records) and not any(
        _TRUTH.match(text) for row in rows for text in (row.answer, row.gold or "")
    ):
        return Wording()
    table = read_table(path)
    own = [r for r in table.rows if isinstance(r.value, dict) and "output" not in r.value]
    if not own:
        return Wording()
    names = dict.fromkeys(name for row in own for name in row.value)
    columns = find_columns(names, layout.columns, table.path)
    found: dict[Asked, set[tuple[str, ...]]] = defaultdict(set)
    for row in own:
        with contextlib.suppress(RecordError):  # which has no record
            if choices := _choices(row, columns):
                question = plain(row.value.get(columns.of["question"]), row.where, "question")
                found[_asked(question, tuple(choices.values()))].add(tuple(choices))
    keys = {
        asked: one
        for asked, (one, *others) in found.items()
        if not others and one != tuple(LETTERS[: len(one)])
    }
    return Wording(any(_is_truth(row.value.get(columns.of["answer"])) for row in own), keys)


def by_keys(text: str, keys: Sequence[str], choices: Sequence[str]) -> str:
    """The text of the choice that an answer names by a key of the data's. A letter that is no key
    where keys are letters names nothing, whatever place it has in the alphabet.

    >>> [by_keys(said, "12", ["Liver", "Lung"]) for said in ("2", "(2) lung", "b", "2 cm", "lung")]
    ['Lung', 'Lung', 'b', '2 cm', 'lung']
    >>> [by_keys(said, "AD", ["Liver", "Lung"]) for said in ("d", "D. Lung", "B", "D. Liver")]
    ['Lung', 'Lung', 'B (no choice)', 'D. Liver']
    """
    if text.strip().casefold() in [choice.casefold() for choice in choices]:
        return text
    key, told = letter_alone(text), None
    if both := letter_and_text(text) if not key else None:
        key, told = both
    elif numbered := _NUMBERED.fullmatch(text):
        key, told = numbered["key"], numbered["text"]
    if key and key in keys:
        choice = choices[keys.index(key)]
        return choice if not told or same_text(told, choice) else text
    lettered = key and not told and key in LETTERS and all(one in LETTERS for one in keys)
    return f"{text.strip()} (no choice)" if lettered else text


def _asked(question: str, choices: Sequence[str]) -> Asked:
    return normalize_question(without_choices(question, choices)), tuple(choices)


def _choices(row: Row, columns: Columns) -> dict[str, str]:
    there = {k: row.value[name] for k, name in columns.choices.items() if name in row.value}
    found = there or row.value.get(columns.of.get("choices", ""))
    return parse_choices(found, row.where) if found else {}


def _is_truth(value: object) -> bool:
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    return str(value).strip().casefold() in _YES_NO
