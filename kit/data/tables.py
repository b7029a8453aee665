"""The rows of a data file in any form that people keep them in: JSON lines, a JSON list, CSV,
Parquet, a folder of these, or a data set of the hub. The one place that knows a form by its look.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.data.csv_rows import csv_rows, text_of
from kit.errors import DataError, RecordError
from kit.files import iter_json_lines, strict_json

HUB = "hf:"
TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
SPLITS = {
    "train": "train", "training": "train",
    "validate": "validate", "validation": "validate", "valid": "validate", "val": "validate",
    "dev": "validate", "test": "test", "testing": "test",
}  # fmt: skip

_WORDS = re.compile(r"[^a-z]+")
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True)
class Row:
    """A row as it stands, or what is wrong with it. ``folder``: what its paths are relative to;
    ``split``: that of its file's name, or empty."""

    where: str
    value: dict[str, Any] | Any
    folder: Path
    split: str = ""


@dataclass
class Table:
    """The rows of a data file; ``notes`` are to be told, ``images`` is the folder in which images
    that lie in a column are kept."""

    path: str
    rows: list[Row]
    images: Path
    notes: list[str] = field(default_factory=list)


def read_table(path: str | Path) -> Table:
    """Read any form; a broken row is a row whose value is its :class:`RecordError`.

    Raises:
        DataError: nothing there, or it cannot be read as what it is.
    """
    name = str(path)
    if name.startswith(HUB):
        from kit.data.hub import read_hub  # which takes seconds to import

        return read_hub(name)
    path = Path(path)
    table = Table(name, [], path.with_name(f"{path.name}.images"))
    if path.is_dir():
        table.images = path / ".images"
        for file, split in files_of(path):
            table.rows += _rows_of(file, split, table.notes)
    else:
        table.rows += _rows_of(path, "", table.notes)
    return table


def files_of(folder: Path) -> list[tuple[Path, str]]:
    """The tables of a folder, each with its split: its metadata.csv (as ``imagefolder`` has it),
    else its only table, else those that are named after splits; of folders below it as well.

    Raises:
        DataError: none, or several of which none is named after a split.
    """
    found = sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in TABLES and not _is_hidden(p, folder)
    )
    named = [p for p in found if p.stem.lower() == "metadata"] or found
    splits = [split_named(p.relative_to(folder).with_suffix("").as_posix()) for p in named]
    if len(named) == 1 or (named and all(splits)):
        return list(zip(named, splits, strict=True))
    if not named:
        what, fix = "a folder without questions", f"put one of these into it: *{' *'.join(TABLES)}"
    else:
        what = f"a folder of {len(named)} tables: {', '.join(p.name for p in named[:5])}"
        fix = "give the one that holds the questions, or name each after its split (train.csv, ...)"
    raise DataError(what, where=folder, fix=fix)


def split_named(name: str) -> str:
    """The split that a file or folder is named after, or empty.

    >>> split_named("data/train-00000-of-00002"), split_named("val/metadata"), split_named("all")
    ('train', 'validate', '')
    """
    found = {SPLITS[word] for word in _WORDS.split(name.lower()) if word in SPLITS}
    return found.pop() if len(found) == 1 else ""


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _rows_of(path: Path, split: str, notes: list[str]) -> Iterator[Row]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        rows = parquet_rows(path)
    elif suffix in (".csv", ".tsv", ".txt"):
        rows = csv_rows(path, notes)
    elif suffix in (".xlsx", ".xls", ".ods"):
        fix = "save it as CSV (UTF-8)"
        raise DataError("a spreadsheet, which is not read", where=path, fix=fix)
    elif _begins_with(path, "["):
        rows = _list_rows(path)
    else:
        rows = iter_json_lines(path)
    for where, value in rows:
        yield Row(where, value, path.parent, split)


def _begins_with(path: Path, mark: str) -> bool:
    try:
        with path.open("rb") as stream:
            head = stream.read(4096)
        return (
            head.decode(json.detect_encoding(head), "replace").lstrip("\ufeff \t\r\n")[:1] == mark
        )
    except OSError:
        return False  # the reader of lines says what is wrong


# ---------------------------------------------------------------------- a JSON list


def _list_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """The items of a JSON list, each with the line on which it begins; what follows a broken one
    is not read."""
    text = text_of(path)
    place = _SPACE.match(text, text.index("[") + 1).end()
    line, counted, number = 1, 0, 0
    decoder = _strict_decoder()
    while True:
        line, counted = line + text.count("\n", counted, place), place
        where = f"{path}:{line}"
        if number == 0 and text[place : place + 1] == "]":
            return
        try:
            value, end = decoder.raw_decode(text, place)
            end = _SPACE.match(text, end).end()
            if text[end : end + 1] not in (",", "]") or not text[end : end + 1]:
                raise ValueError("expecting ',' or ']' after an item of the list")
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            what, fix = f"not valid JSON: {reason}", "mend it; what follows was not read"
            yield where, RecordError(what, reason="broken_json", where=where, fix=fix)
            return
        yield where, value
        number += 1
        if text[end] == "]":
            return
        place = _SPACE.match(text, end + 1).end()


def _strict_decoder() -> json.JSONDecoder:
    def refuse(literal: str):
        raise ValueError(f"{literal} is not JSON")

    return json.JSONDecoder(parse_float=strict_json, parse_constant=refuse)


# ---------------------------------------------------------------------- Parquet


def parquet_rows(path: Path) -> Iterator[tuple[str, dict]]:
    """The rows of a Parquet file; what is null or no number is left out.

    Raises:
        DataError: it is broken.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as source:
            values = (
                row for batch in source.iter_batches(batch_size=64) for row in batch.to_pylist()
            )
            for index, row in enumerate(values):
                yield f"{path}[{index}]", without_nulls(row)
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        what = f"broken parquet file: {reason}"
        raise DataError(what, where=path, fix="fetch it again") from error


def without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """The fields that say something.

    >>> without_nulls({"a": 1, "b": None, "c": math.nan})
    {'a': 1}
    """
    return {
        name: value
        for name, value in row.items()
        if not (value is None or (isinstance(value, float) and math.isnan(value)))
    }


def plain_values(value: Any) -> Any:
    """A row with what JSON cannot hold as text: of bytes their sum.

    >>> plain_values({"a": [1, b"x"]})["a"][1][:8]
    '2d711642'
    """
    if isinstance(value, dict):
        return {str(name): plain_values(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(item) for item in value]
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    return value if isinstance(value, (str, int, float, type(None))) else str(value)
