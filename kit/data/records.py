"""Reading and writing the data files of each stage, prepared or anybody's; every broken line is
named. The types of records are in ``kit.data.types``."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from kit.data import choices
from kit.data.columns import Layout
from kit.data.fields import (
    bad_field,
    check_target,
    check_text,
    parse_image_size,
    parse_more_images,
    parse_regions,
    resolve_image,
)
from kit.data.images import open_image
from kit.data.own import OwnReader, fixed_in_words
from kit.data.tables import Row, Table, read_table
from kit.data.targets import to_sft_record
from kit.data.types import Region as Region  # the name under which others know it
from kit.data.types import SftRecord, to_json
from kit.errors import DataError, ImageError, RecordError
from kit.files import write_jsonl

BadLines = Literal["report", "strict", "skip"]
Record = TypeVar("Record")
PLAIN = Layout()


def write_records(path: str | Path, records: list) -> None:
    """Write records as JSON lines, whole or not at all."""
    write_jsonl(path, (to_json(r) for r in records))


def read_sft_records(
    path: str | Path,
    on_bad: BadLines = "report",
    *,
    decode_images: bool = False,
    layout: Layout = PLAIN,
    prefer: Sequence[str] = (),
) -> tuple[list[SftRecord], list[RecordError]]:
    """Read and validate a data file, a prepared one or anybody's; image paths come back absolute.

    ``on_bad``: ``strict`` raises at the first broken line, ``report`` after the whole file was
    checked (all of them listed), ``skip`` drops them and returns them as second value.
    ``decode_images``: a line is also broken if its image cannot be decoded, or is not of the
    line's ``image_size``; each image is decoded once (a few milliseconds). ``layout``: of rows that
    were not prepared, ``prefer``: their split, the first of these that is there, where they are of
    several and the layout names none.

    Raises:
        DataError: no such file, no record in it, no column for what is needed, or broken lines.
    """
    return read_records(
        path, parse_sft_record, on_bad, decode_images=decode_images, layout=layout, prefer=prefer
    )


def read_records(
    path: str | Path,
    parse: Callable[..., Record],
    on_bad: BadLines = "report",
    *,
    decode_images: bool = False,
    layout: Layout = PLAIN,
    prefer: Sequence[str] = (),
    is_own: Callable[[dict], bool] = lambda row: "output" not in row,
    of_own: Callable[[SftRecord], Record] = lambda record: record,
) -> tuple[list[Record], list[RecordError]]:
    """:func:`read_sft_records` for records of any kind with an ``image`` and an ``image_size``.

    ``parse(value, where=..., folder=...)`` gives the record of one JSON value, or raises
    :class:`RecordError`. Rows that ``is_own`` holds for are anybody's: ``of_own`` gives the record
    of what they come to.
    """
    table = read_table(path)
    own = [row for row in table.rows if isinstance(row.value, dict) and is_own(row.value)]
    of_rows = iter(_own_records(table, own, layout))
    own_rows = set(map(id, own))
    lines: list[tuple[str, Record | RecordError]] = []
    for row in table.rows:
        try:
            if isinstance(row.value, RecordError):
                raise row.value
            if id(row) not in own_rows:
                found = parse(row.value, where=row.where, folder=row.folder)
            elif isinstance(found := next(of_rows), RecordError):
                raise found
            else:
                found = of_own(found)
            lines.append((row.where, found))
        except RecordError as problem:
            lines.append((row.where, problem))
            if on_bad == "strict":
                break
    if prefer or layout.split:
        lines = of_split(lines, layout.split, prefer, path)
    if decode_images:
        lines = _with_image_problems(lines)
    records = [line for _, line in lines if not isinstance(line, RecordError)]
    problems = [line for _, line in lines if isinstance(line, RecordError)]
    if problems and on_bad != "skip":
        raise DataError(
            f"{len(problems)} broken line{'s' if len(problems) > 1 else ''}",
            where=path,
            fix="fix them, or drop them with --skip_bad",
            problems=problems,
        )
    if not records:
        fix = "check prepare_data's report"
        raise DataError("no record in the data file", where=path, fix=fix, problems=problems)
    return records, problems


def _own_records(
    table: Table, rows: Sequence[Row], layout: Layout
) -> list[SftRecord | RecordError]:
    """The records of rows that were not prepared."""
    if not rows:
        return []
    reader = OwnReader(rows, layout, table.images, table.path)
    found = [
        raw
        if isinstance(raw, RecordError)
        else replace(
            to_sft_record(raw, raw.image.parent),
            image=str(raw.image),
            more_images=tuple(map(str, raw.more_images)),
        )
        for raw in reader.questions(rows)
    ]
    told = [*table.notes, reader.columns.in_words(), fixed_in_words(reader.fixed)]
    if words := "; ".join(filter(None, told)):
        tell(f"{table.path}: {words}")
    return found


def of_split(
    lines: list[tuple[str, Record | RecordError]],
    wanted: str | None,
    prefer: Sequence[str],
    path: str | Path,
) -> list[tuple[str, Record | RecordError]]:
    """The lines of the split that is wanted, or of the first of ``prefer`` that is there where
    there are several, and the broken ones.

    Raises:
        DataError: it is not there.
    """
    there = Counter(line.split for _, line in lines if not isinstance(line, RecordError))
    if wanted == "all" or not there or (wanted is None and (len(there) == 1 or not prefer)):
        return lines
    chosen = wanted or next((split for split in prefer if split in there), None)
    if chosen not in there:
        shown = ", ".join(f"{split or 'none'} ({count})" for split, count in there.items())
        what = f"no row is of the split {chosen or ' or '.join(prefer)}; there are {shown}"
        raise DataError(what, where=path, fix="say which to take: --data_split all (or a split)")
    if len(there) > 1:
        tell(f"{path}: {there[chosen]} of {there.total()} rows, those of the split {chosen}")
    return [(w, r) for w, r in lines if isinstance(r, RecordError) or r.split == chosen]


@functools.cache
def tell(line: str) -> None:
    """Print a line once, from the first process alone."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(line, flush=True)


def parse_sft_record(value: Any, *, where: str, folder: Path) -> SftRecord:
    """Validate one JSON value as an :class:`SftRecord`.

    Raises:
        RecordError: names the field and what is wrong with it.
    """
    text = parse_texts(value, SftRecord, where)
    image_size = parse_image_size(value.get("image_size"), where)
    more = parse_more_images(value.get("more_images", []), folder, where)
    regions = parse_regions(value.get("regions", []), image_size, where, 1 + len(more))
    check_target(text["output"], where, 1 + len(more))
    text["image"] = str(resolve_image(text["image"], folder=folder, where=where))
    text = choices.of_record(text, value.get("choices"), where)
    return SftRecord(**text, regions=regions, image_size=image_size, more_images=more)


def parse_texts(value: Any, record: type, where: str) -> dict[str, str]:
    """The text fields of a record type out of one JSON value; those without a default are
    required, and must say something.

    Raises:
        RecordError: names the field and what is wrong with it.
    """
    if not isinstance(value, dict):
        raise bad_field(
            where, None, f"a record must be an object, not {type(value).__name__}", "wrong_type"
        )
    text = {}
    for field in dataclasses.fields(record):
        if field.type != "str":
            continue
        required = field.default is dataclasses.MISSING
        if required and field.name not in value:
            raise bad_field(where, field.name, "missing", "missing_field")
        item = value.get(field.name, "")
        if field.name == "qid" and isinstance(item, int) and not isinstance(item, bool):
            item = str(item)
        if not isinstance(item, str):
            raise bad_field(
                where, field.name, f"must be text, not {type(item).__name__}", "wrong_type"
            )
        if required and not item.strip():
            raise bad_field(where, field.name, "is empty", f"empty_{field.name}")
        check_text(item, where, field.name)
        text[field.name] = item
    return text


def _with_image_problems(
    lines: list[tuple[str, Record | RecordError]],
) -> list[tuple[str, Record | RecordError]]:
    """The lines, with a :class:`RecordError` in place of each record whose image is not fit."""
    good = [line for _, line in lines if not isinstance(line, RecordError)]
    images = list(dict.fromkeys(path for record in good for path in record.images))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        decoded = dict(zip(images, pool.map(_size_or_problem, images), strict=True))
    return [
        (
            where,
            line if isinstance(line, RecordError) else _image_problem(line, decoded, where) or line,
        )
        for where, line in lines
    ]


def _size_or_problem(path: str) -> tuple[int, int] | ImageError:
    try:
        return open_image(path).size
    except ImageError as error:
        return error


def _image_problem(
    record: Record, decoded: Mapping[str, tuple[int, int] | ImageError], where: str
) -> RecordError | None:
    for path in record.images:
        found = decoded[path]
        if isinstance(found, ImageError):
            what = f"{found.what}: {path} ({found.fix})"
            return bad_field(where, "image", what, "bad_image")
    found = decoded[record.image]
    if record.image_size is not None and record.image_size != found:
        upright = ", upright," if record.image_size == found[::-1] else ""
        what = (
            f"is {list(record.image_size)}, but the image{upright} is {found[0]}x{found[1]}"
            f" pixels: {record.image} (prepare the data anew: launch/prepare_data.py)"
        )
        return bad_field(where, "image_size", what, "bad_image")
    return None
