"""Somebody's predictions, in whatever form their tool wrote them, as one kind of row."""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.audit.prediction_columns import (
    SAMPLES,
    PredictionColumns,
    find_prediction_columns,
)
from kit.data.csv_rows import text_of
from kit.data.tables import Row, read_table
from kit.errors import DataError, RecordError
from kit.files import strict_json
from kit.prompting.answers import parse_answer

LISTS = ("predictions", "results", "samples", "answers", "data", "outputs", "logs", "rows")
KEY = "id"  # the column of a mapping's keys
NESTED = ("doc", "sample", "annotation", "meta", "metadata")
OWN = {"mode", "text", "answer", "scores", "gold", "valid_json"}  # of a row that evaluate wrote

_THOUGHT = "</think>"
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_KINDS = {
    "json": "answers taken out of a JSON object", "tag": "answers taken out of <answer> tags",
    "boxed": "answers taken out of \\boxed{}", "thought": "answers taken from behind </think>",
    "sampled": "rows of several answers, of which the first counts",
}  # fmt: skip


@dataclass(frozen=True)
class Given:
    """One prediction. ``answer`` is what is compared, ``text`` what was written; ``ids`` are by
    column. What a file does not tell is None."""

    where: str
    number: int
    text: str
    answer: str
    ids: Mapping[str, str] = field(default_factory=dict)
    question: str | None = None
    image: str | None = None
    gold: str | None = None
    dataset: str | None = None
    mode: str = ""


@dataclass
class Predictions:
    """The rows of one file; ``names`` are of its columns, ``notes`` are to be told, and ``broken``
    rows could not be read."""

    path: Path
    rows: list[Given]
    columns: PredictionColumns
    names: list[str]
    notes: list[str]
    broken: list[RecordError]


def read_predictions(
    path: Path, told: Mapping[str, str], *, as_written: bool = False, skip_bad: bool = False
) -> Predictions:
    """Read a file of predictions, or the folder that evaluate wrote one into.

    JSON lines, a list, a mapping of ids to answers or rows, or an object with one list in it;
    CSV, TSV or Parquet.

    Raises:
        DataError: no such file, no row, broken rows, or no column can be the answer.
    """
    if path.is_dir():
        path = path / "predictions.jsonl"
    if not path.exists():
        raise DataError("no such file of predictions", where=path, fix="check the path")
    rows, notes = _rows_of(path)
    broken = [_problem(row) for row in rows if not isinstance(row.value, dict)]
    if broken and not skip_bad:
        what = f"{len(broken)} broken row{'s' if len(broken) > 1 else ''}"
        fix = "fix them, or drop them with --skip_bad"
        raise DataError(what, where=path, fix=fix, problems=broken)
    sound = [(row.where, _flat(row.value)) for row in rows if isinstance(row.value, dict)]
    if not sound:
        raise DataError("holds no prediction", where=path, fix="check the file")
    own = all(value.keys() >= OWN for _, value in sound)
    names = list(dict.fromkeys(name for _, value in sound for name in value))
    columns = find_prediction_columns([n for n in names if not (own and n == "text")], told, path)
    counts: Counter[str] = Counter()
    given = [
        _given(number, where, value, columns, counts, as_written or own)
        for number, (where, value) in enumerate(sound)
    ]
    notes += [columns.in_words()] + [f"{counts[k]} {_KINDS[k]}" for k in _KINDS if counts[k]]
    return Predictions(path, given, columns, names, notes, broken)


def answer_of(text: str) -> tuple[str, str]:
    """The answer within a model's text, and what it was taken out of (empty: it stands alone).

    >>> answer_of('{"reasoning": [], "answer": "Yes"}'), answer_of("left lung")
    (('Yes', 'json'), ('left lung', ''))
    >>> answer_of("<think>Hm.</think> <answer>no</answer>"), answer_of("So \\\\boxed{CT}")
    (('no', 'tag'), ('CT', 'boxed'))
    """
    before, thought, rest = text.rpartition(_THOUGHT)
    body = rest.strip() if thought else text
    if boxed := _BOXED.findall(body):
        return boxed[-1].strip(), "boxed"
    tagged = "<answer>" in body.lower()
    if tagged or "{" in body:
        found = parse_answer(body).answer
        if found != body.strip():
            return found, "tag" if tagged else "json"
    return body, "thought" if thought and before else ""


def written(value: Any, *, samples: bool = False) -> tuple[str, bool]:
    """A predicted value as text, and whether it is the first of several. A list of one is that
    one; of more, the first if they are ``samples``, else all, parted by commas.

    >>> written([["yes"]]), written(True), written(3.0), written("['lung', 'heart']")
    (('yes', False), ('yes', False), ('3', False), ('lung, heart', False))
    """
    if isinstance(value, str) and value.strip().startswith("["):
        for read in (strict_json, ast.literal_eval):
            with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                found = read(value.strip())
                if isinstance(found, list) and found:
                    return written(found, samples=samples)
    if isinstance(value, (list, tuple)):
        if len(value) == 1:
            return written(value[0], samples=samples)
        if samples and value:
            return written(value[0], samples=samples)[0], True
        return ", ".join(written(one)[0] for one in value), False
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False), False
    if isinstance(value, bool):
        return ("yes" if value else "no"), False
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return ("" if value is None else str(value)), False


def _given(
    number: int,
    where: str,
    value: dict,
    columns: PredictionColumns,
    counts: Counter[str],
    as_written: bool,
) -> Given:
    of = columns.of
    samples = of["answer"].strip().lower() in SAMPLES
    text, several = written(value.get(of["answer"]), samples=samples)
    answer, kind = (text, "") if as_written else answer_of(text)
    counts[kind] += 1
    counts["sampled"] += several

    def told(name: str) -> str | None:
        found = value.get(of[name]) if name in of else None
        if isinstance(found, dict):
            found = found.get("path")
        if found is None or isinstance(found, bytes):
            return None
        return written(found)[0].strip() or None

    ids = {name: " ".join(written(value[name])[0].split()) for name in columns.ids if name in value}
    return Given(
        where, number, text, answer, ids, told("question"), told("image"), told("gold"),
        told("dataset"), told("mode") or "",
    )  # fmt: skip


def _rows_of(path: Path) -> tuple[list[Row], list[str]]:
    whole = _whole_object(path) if path.suffix.lower() in (".json", ".jsonl", "") else None
    if whole is None:
        table = read_table(path)
        return table.rows, table.notes
    lists = [name for name in LISTS if _is_rows(whole.get(name))]
    if len(lists) == 1:
        return _numbered(path, whole[lists[0]]), [f"the rows of {lists[0]!r}"]
    if len(whole) == 1 and _is_rows(inner := next(iter(whole.values()))):
        return _numbered(path, inner), [f"the rows of {next(iter(whole))!r}"]
    with contextlib.suppress(DataError):  # one row alone, on a line
        find_prediction_columns(whole, {}, path)
        if not isinstance(next(iter(whole.values()), None), dict):
            return [Row(f"{path}:1", whole, path.parent)], []
    return [
        Row(
            f"{path}[{key}]",
            {KEY: key, **(one if isinstance(one, dict) else {"prediction": one})},
            path.parent,
        )
        for key, one in whole.items()
    ], ["a mapping of ids"]


def _whole_object(path: Path) -> dict | None:
    """The one JSON object that a file is, or None."""
    try:
        with path.open("rb") as stream:
            if not stream.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
                return None
        found = strict_json(text_of(path))
    except (OSError, ValueError, RecursionError, DataError):
        return None  # whoever reads its lines says what is wrong
    return found if isinstance(found, dict) and found else None


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _numbered(path: Path, values: list) -> list[Row]:
    return [Row(f"{path}[{number}]", one, path.parent) for number, one in enumerate(values)]


def _flat(value: dict) -> dict:
    """A row with what its nested record holds, where it has no such column itself."""
    for name in NESTED:
        if isinstance(inner := value.get(name), dict):
            value = {**inner, **value}
    return value


def _problem(row: Row) -> RecordError:
    if isinstance(row.value, RecordError):
        return row.value
    what = f"a prediction must be an object, not {type(row.value).__name__}"
    return RecordError(what, reason="wrong_type", where=row.where)
