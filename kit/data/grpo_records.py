"""The record of a question that reinforcement learning is done on, and its reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.data import choices
from kit.data.columns import ALIASES, Layout
from kit.data.fields import (
    bad_field,
    check_box,
    parse_image_size,
    parse_more_images,
    parse_regions,
    resolve_image,
)
from kit.data.records import PLAIN, BadLines, parse_sft_record, parse_texts, read_records
from kit.data.types import CARRIED, Known, SftRecord
from kit.errors import RecordError


@dataclass(frozen=True)
class GrpoRecord(Known):
    """One question about one image, with what a model answered and what its answer rests on.

    ``image_path``, ``question`` and ``gold`` suffice for training. ``valid_json``,
    ``answer_correct`` (0..1), ``caption`` and ``prediction`` are of the model's own answer.
    ``delta_cf_roi`` is the drop in the model's probability of the gold answer when ``cf_boxes``
    (pixels of the canvas, ``kit.data.canvas``) is inpainted, ``delta_cf_rand`` the mean drop over
    matched random regions; None where there is no evidence or nothing matches it.
    """

    image_path: str
    question: str
    gold: str
    valid_json: bool = False
    answer_correct: float = 0.0
    caption: str = ""
    delta_cf_roi: float | None = None
    delta_cf_rand: float | None = None
    prediction: str = ""
    cf_boxes: tuple[tuple[float, float, float, float], ...] = ()

    @property
    def image(self) -> str:
        return self.image_path

    @property
    def answer(self) -> str:
        return self.gold


def read_grpo_records(
    path: str | Path,
    on_bad: BadLines = "report",
    *,
    decode_images: bool = False,
    layout: Layout = PLAIN,
    prefer: Sequence[str] = (),
) -> tuple[list[GrpoRecord], list[RecordError]]:
    """Read and validate what ``cf_proxy`` wrote, as ``kit.data.records.read_sft_records`` does.

    Anybody's rows and the records of ``prepare_data`` are read too: nothing was measured for them.
    """
    return read_records(
        path,
        parse_grpo_record,
        on_bad,
        decode_images=decode_images,
        layout=layout,
        prefer=prefer,
        is_own=lambda row: "output" not in row and (bool(layout.columns) or not is_measured(row)),
        of_own=_of_sft,
    )


def is_measured(row: dict) -> bool:
    """Whether a row is meant for a :class:`GrpoRecord`: by its names of image or answer, unless
    another column can be that.

    >>> is_measured({"image_path": "x", "gold": "y"})
    True
    >>> is_measured({"image_path": "x", "answer": "y"})
    False
    """
    images, answers = ({name, *ALIASES[name]} for name in ("image", "answer"))
    return ("gold" in row and not row.keys() & (images - {"image_path"})) or (
        "image_path" in row and not row.keys() & (answers - {"gold"})
    )


def parse_grpo_record(value: Any, *, where: str, folder: Path) -> GrpoRecord:
    """Validate one JSON value as a :class:`GrpoRecord`.

    Raises:
        RecordError: names the field and what is wrong with it.
    """
    if isinstance(value, dict) and "image_path" not in value and "output" in value:
        return _of_sft(parse_sft_record(value, where=where, folder=folder))
    text = parse_texts(value, GrpoRecord, where)
    image_size = parse_image_size(value.get("image_size"), where)
    text["image_path"] = str(
        resolve_image(text["image_path"], folder=folder, where=where, field="image_path")
    )
    more = parse_more_images(value.get("more_images", []), folder, where)
    text = choices.of_record(text, value.get("choices"), where, answer="gold")
    valid = value.get("valid_json", False)
    if not isinstance(valid, bool):
        raise bad_field(where, "valid_json", "must be true or false", "wrong_type")
    return GrpoRecord(
        **text,
        valid_json=valid,
        answer_correct=_number(value, "answer_correct", 0.0, 1.0, where) or 0.0,
        delta_cf_roi=_number(value, "delta_cf_roi", -1.0, 1.0, where),
        delta_cf_rand=_number(value, "delta_cf_rand", -1.0, 1.0, where),
        cf_boxes=_boxes(value.get("cf_boxes", []), None if more else image_size, where),
        regions=parse_regions(value.get("regions", []), image_size, where, 1 + len(more)),
        image_size=image_size,
        more_images=more,
    )


def _of_sft(record: SftRecord) -> GrpoRecord:
    return GrpoRecord(
        image_path=record.image,
        question=record.question,
        gold=record.answer,
        **{name: getattr(record, name) for name in CARRIED},
    )


def _number(value: dict, name: str, low: float, high: float, where: str) -> float | None:
    """A number in a range (true and false count as 1 and 0), or None."""
    number = value.get(name)
    if number is None:
        return None
    if not isinstance(number, (int, float)) or not low <= number <= high:
        shown = repr(number)[:120]
        raise bad_field(where, name, f"must be in {low:g}..{high:g}, not {shown}", "bad_number")
    return float(number)


def _boxes(value: Any, image_size: tuple[int, int] | None, where: str) -> tuple:
    if not isinstance(value, list):
        raise bad_field(where, "cf_boxes", "must be a list", "wrong_type")
    for index, box in enumerate(value):
        problem = check_box(box, image_size)
        if problem:
            raise bad_field(where, f"cf_boxes[{index}]", problem, "bad_box")
    return tuple(tuple(float(v) for v in box) for box in value)
