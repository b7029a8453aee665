"""Typed records of each stage, their validation, reading and writing."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from kit.data.fields import (
    bad_field,
    check_box,
    check_target,
    check_text,
    parse_image_size,
    resolve_image,
)
from kit.data.images import open_image
from kit.errors import DataError, ImageError, RecordError
from kit.files import iter_json_lines, write_jsonl

BadLines = Literal["report", "strict", "skip"]
Record = TypeVar("Record")


@dataclass(frozen=True)
class Region:
    """A labelled box: ``(x1, y1, x2, y2)`` in pixels of the original image."""

    label: str
    box_xyxy_pixels: tuple[float, float, float, float]


@dataclass(frozen=True)
class SftRecord:
    """One question about one image, with the answer that the model is taught to give.

    ``image`` is a path, relative to the data file or absolute; ``regions`` is the evidence of
    this question (may be empty); ``image_size`` is ``(width, height)`` in pixels; ``output`` is
    the JSON string with caption, reasoning, boxes (0..1000 grid) and answer. Fields that a
    dataset does not know are empty strings.
    """

    instruction: str
    input: str
    output: str
    image: str
    question: str
    answer: str
    dataset: str = ""
    qid: str = ""
    split: str = ""
    answer_type: str = ""
    content_type: str = ""
    modality: str = ""
    location: str = ""
    regions: tuple[Region, ...] = ()
    image_size: tuple[int, int] | None = None


def to_json(record) -> dict[str, Any]:
    """A record as plain JSON values."""
    return dataclasses.asdict(record)


def write_records(path: str | Path, records: list) -> None:
    """Write records as JSON lines, whole or not at all."""
    write_jsonl(path, (to_json(r) for r in records))


def read_sft_records(
    path: str | Path, on_bad: BadLines = "report", *, decode_images: bool = False
) -> tuple[list[SftRecord], list[RecordError]]:
    """Read and validate a prepared data file; image paths come back absolute.

    ``on_bad``: ``strict`` raises at the first broken line, ``report`` after the whole file was
    checked (all of them listed), ``skip`` drops them and returns them as second value.
    ``decode_images``: a line is also broken if its image cannot be decoded, or is not of the
    line's ``image_size``; each image is decoded once (a few milliseconds).

    Raises:
        DataError: no such file, no record in it, or broken lines.
    """
    return read_records(path, parse_sft_record, on_bad, decode_images=decode_images)


def read_records(
    path: str | Path,
    parse: Callable[..., Record],
    on_bad: BadLines = "report",
    *,
    decode_images: bool = False,
) -> tuple[list[Record], list[RecordError]]:
    """:func:`read_sft_records` for records of any kind with an ``image`` and an ``image_size``.

    ``parse(value, where=..., folder=...)`` gives the record of one JSON value, or raises
    :class:`RecordError`.
    """
    path = Path(path)
    lines: list[tuple[str, Record | RecordError]] = []
    for where, value in iter_json_lines(path):
        try:
            if isinstance(value, RecordError):
                raise value
            lines.append((where, parse(value, where=where, folder=path.parent)))
        except RecordError as problem:
            lines.append((where, problem))
            if on_bad == "strict":
                break
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
        raise DataError("no record in the data file", where=path, fix="check prepare_data's report")
    return records, problems


def parse_sft_record(value: Any, *, where: str, folder: Path) -> SftRecord:
    """Validate one JSON value as an :class:`SftRecord`.

    Raises:
        RecordError: names the field and what is wrong with it.
    """
    text = parse_texts(value, SftRecord, where, may_be_empty=("input",))
    image_size = parse_image_size(value.get("image_size"), where)
    regions = parse_regions(value.get("regions", []), image_size, where)
    check_target(text["output"], where)
    text["image"] = str(resolve_image(text["image"], folder=folder, where=where))
    return SftRecord(**text, regions=regions, image_size=image_size)


def parse_texts(
    value: Any, record: type, where: str, may_be_empty: Sequence[str] = ()
) -> dict[str, str]:
    """The text fields of a record type out of one JSON value; those without a default are
    required, and must say something unless they are in ``may_be_empty``.

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
        if required and field.name not in may_be_empty and not item.strip():
            raise bad_field(where, field.name, "is empty", f"empty_{field.name}")
        check_text(item, where, field.name)
        text[field.name] = item
    return text


def parse_regions(value: Any, image_size: tuple[int, int] | None, where: str) -> tuple[Region, ...]:
    if not isinstance(value, list):
        raise bad_field(where, "regions", "must be a list", "wrong_type")
    regions = []
    for index, item in enumerate(value):
        name = f"regions[{index}]"
        if not isinstance(item, dict) or not isinstance(item.get("label"), str):
            raise bad_field(where, name, "must be {label, box_xyxy_pixels}", "wrong_type")
        problem = check_box(item.get("box_xyxy_pixels"), image_size)
        if problem:
            raise bad_field(where, f"{name}.box_xyxy_pixels", problem, "bad_box")
        regions.append(Region(item["label"], tuple(float(v) for v in item["box_xyxy_pixels"])))
    return tuple(regions)


def _with_image_problems(
    lines: list[tuple[str, Record | RecordError]],
) -> list[tuple[str, Record | RecordError]]:
    """The lines, with a :class:`RecordError` in place of each record whose image is not fit."""
    good = [line for _, line in lines if not isinstance(line, RecordError)]
    images = list(dict.fromkeys(record.image for record in good))
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
    found = decoded[record.image]
    if isinstance(found, ImageError):
        what = f"{found.what}: {record.image} ({found.fix})"
        return bad_field(where, "image", what, "bad_image")
    if record.image_size is not None and record.image_size != found:
        upright = ", upright," if record.image_size == found[::-1] else ""
        what = (
            f"is {list(record.image_size)}, but the image{upright} is {found[0]}x{found[1]}"
            f" pixels: {record.image} (prepare the data anew: launch/prepare_data.py)"
        )
        return bad_field(where, "image_size", what, "bad_image")
    return None
