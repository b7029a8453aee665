"""The rows of a CSV, whichever program wrote it: with commas, semicolons, tabs or bars, a byte
order mark or none, in Unicode or as Windows of Western Europe has it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kit.errors import DataError, RecordError
from kit.text import decoded

DELIMITERS = (",", ";", "\t", "|")
MOST_TEXT = 10_000_000  # characters of a field


def csv_rows(path: Path, notes: list[str]) -> Iterator[tuple[str, Any]]:
    """Rows by the header's names, each with the line on which it begins; empty cells are left out.

    Raises:
        DataError: it cannot be opened, or its header names a column twice or none at all.
    """
    text = _csv_text(path, notes)
    told = re.match(r"sep=(.)\r?\n", text, re.IGNORECASE)  # by Excel, for Excel
    skipped = 1 if told else 0
    body = text[told.end() :] if told else text
    delimiter = told[1] if told else _delimiter(body)
    csv.field_size_limit(MOST_TEXT)
    form = {"delimiter": delimiter, "skipinitialspace": True}
    lines = _Lines(body)
    reader = csv.reader(lines, **form)
    header = [name.strip() for name in next(reader, [])]
    if lines.over and header:
        what = "a quotation mark of its header is never closed"
        raise DataError(what, where=f"{path}:{skipped + 1}", fix="close or remove it")
    _check_header(header, delimiter, path)
    before = reader.line_num
    while True:
        where = f"{path}:{skipped + before + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield where, RecordError(f"not CSV: {error}", reason="broken_csv", where=where)
            return
        if cells is None:
            return
        raw, before = lines.all[before : reader.line_num], reader.line_num
        if lines.over:
            begun = before - max(len(_Lines(cells[-1]).all), 1)
            where = f"{path}:{skipped + begun + 1}"
            unread = f"{before - begun - 1} lines after it were not read"
            what = "a quotation mark that begins a field is never closed: close or remove it"
            notes.append(f"line {skipped + begun + 1}: {what}; {unread}")
            yield where, RecordError(f"{what}; {unread}", reason="broken_csv", where=where)
            return
        if _swallows(raw, len(header), form):
            what = (
                f"a quotation mark that begins a field is closed within a text {len(raw) - 1} "
                "lines below: close or remove it"
            )
            yield where, RecordError(what, reason="broken_csv", where=where)
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(header) and any(cell.strip() for cell in cells[len(header) :]):
            what = (
                f"has {len(cells)} fields where the header has {len(header)}: put a text that "
                f"holds {delimiter!r} into quotation marks"
            )
            yield where, RecordError(what, reason="broken_csv", where=where)
            continue
        pairs = zip(header, cells, strict=False)
        yield where, {name: cell for name, cell in pairs if name and cell.strip()}


class _Lines:
    """The lines of a text, for a reader; ``over`` once it asked for one more than there are. It
    does so with a row in hand only if a quotation mark is open."""

    def __init__(self, text: str):
        self.all = io.StringIO(text, newline="").readlines()
        self.over = False

    def __iter__(self) -> Iterator[str]:
        yield from self.all
        self.over = True


def _swallows(raw: Sequence[str], n_columns: int, form: dict[str, Any]) -> bool:
    """Whether a row of several lines ends in one that looks like a row itself, and a quotation mark
    closes within a text."""
    if len(raw) < 2 or raw[-1].count(form["delimiter"]) < n_columns - 1:
        return False
    try:
        next(csv.reader(raw, **form, strict=True))
    except csv.Error:
        return True
    return False


def _csv_text(path: Path, notes: list[str]) -> str:
    try:
        return text_of(path)
    except DataError as error:
        if not isinstance(error.__cause__, UnicodeDecodeError):
            raise
    notes.append("read as Windows-1252: it is not in Unicode")
    return path.read_bytes().decode("cp1252", "replace")


def _delimiter(text: str) -> str:
    """What parts the header into most columns."""

    def columns(delimiter: str) -> int:
        return len(next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), []))

    return max(DELIMITERS, key=columns)


def _check_header(header: Sequence[str], delimiter: str, path: Path) -> None:
    names = [name for name in header if name]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        what, fix = f"names the column {twice[0]!r} twice", "rename one of them"
        raise DataError(what, where=f"{path}:1", fix=fix)
    if len(names) < 2:
        what = f"its first line names no columns: {(delimiter.join(header))[:80]!r}"
        raise DataError(
            what, where=f"{path}:1", fix="begin it with a line like image,question,answer"
        )


def text_of(path: Path) -> str:
    """A file's text, in any encoding of Unicode.

    Raises:
        DataError: it cannot be opened, or is not in Unicode.
    """
    try:
        return decoded(path.read_bytes()).removeprefix("\ufeff")
    except OSError as error:
        fix = "check the path"
        raise DataError(f"cannot open: {error.strerror}", where=path, fix=fix) from error
    except UnicodeDecodeError as error:
        what, fix = f"not text in Unicode: {error.reason}", "save it as UTF-8"
        raise DataError(what, where=path, fix=fix) from error
