"""What a field of a record may hold, and what is said when it holds something else."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path
from typing import Any

from kit.data.boxes import GRID
from kit.data.types import Region
from kit.errors import RecordError
from kit.files import strict_json

# What a Qwen-VL tokenizer reads as a control token wherever it stands in a text.
CONTROL_TOKEN = re.compile(r"<\|\w+\|>")
_READ_BY_THE_MODEL = ("question", "choices", "output", "answer", "gold")

_HUGE = 1e300  # more than any coordinate, less than what overflows

_OF_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_NOT_A_PATH = re.compile(r"^\s*([a-z][a-z0-9+.-]*://|data:)", re.IGNORECASE)


def resolve_image(image: str, *, folder: Path, where: str, field: str = "image") -> Path:
    """The absolute path of a record's image; only local files, and relative paths stay inside. A
    file that is there under another writing of its name is found: with Windows' ``\\``, or with
    accents as macOS writes them or as others do.

    Raises:
        RecordError: URL or data URI, a relative path that leaves ``folder``, or no such file.
    """
    if _NOT_A_PATH.match(image):
        what = f"is a URL, not a path of a local file: {_shortened(image)}"
        raise bad_field(where, field, what, "image_url")
    if "\0" in image:
        raise bad_field(where, field, "holds a NUL character", "image_path")
    folder = Path(os.path.abspath(folder))
    slashed = image.replace("\\", "/")
    accents = (unicodedata.normalize(form, slashed) for form in ("NFC", "NFD"))
    for name in dict.fromkeys((image, slashed, *accents)):
        path = Path(name)
        if not path.is_absolute():
            path = Path(os.path.normpath(folder / path))
            if not path.is_relative_to(folder):
                what = f"leaves the folder {folder}: {image}"
                raise bad_field(where, field, what, "image_outside")
        try:
            if path.is_file():
                return path
        except OSError as error:  # a name that is too long, a folder that may not be entered
            shown = _shortened(str(path))
            raise bad_field(where, field, f"{error.strerror}: {shown}", "image_path") from error
    if _OF_WINDOWS.match(image):
        what = f"is a path of another machine, with Windows: {image}; make it relative to {folder}"
        raise bad_field(where, field, what, "image_missing")
    raise bad_field(where, field, f"no such file: {path}", "image_missing")


def relative_image(image: Path, folder: Path) -> str:
    """How a data file in ``folder`` names an image: relative where it lies under it, else absolute;
    ``resolve_image`` reads it back."""
    folder, image = Path(os.path.abspath(folder)), Path(os.path.abspath(image))
    return str(image.relative_to(folder) if image.is_relative_to(folder) else image)


def check_box(box: Any, image_size: tuple[int, int] | None) -> str | None:
    """What is wrong with ``(x1, y1, x2, y2)`` in pixels, or None. One pixel over the edge passes.

    >>> check_box([10, 10, 5, 20], (100, 100))
    'is inverted: [10, 10, 5, 20]'
    """
    numbers = isinstance(box, (list, tuple)) and len(box) == 4
    if not numbers or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in box):
        return f"must be four numbers: {_shortened(repr(box))}"
    if not all(abs(v) < _HUGE for v in box):  # also holds for NaN, and for integers of any length
        return f"holds a number that is not finite: {_shortened(repr(box))}"
    x1, y1, x2, y2 = box
    if x2 <= x1 or y2 <= y1:
        return f"is inverted: {list(box)}"
    if image_size is not None:
        width, height = image_size
        if x1 < -1 or y1 < -1 or x2 > width + 1 or y2 > height + 1:
            return f"is outside the image of {width}x{height}: {list(box)}"
    return None


def _shortened(text: str) -> str:
    return text if len(text) <= 120 else text[:117] + "..."


def parse_image_size(value: Any, where: str) -> tuple[int, int] | None:
    """``(width, height)``, or None where the record has none."""
    if value is None:
        return None
    fine = isinstance(value, list) and len(value) == 2
    if not fine or not all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in value):
        raise bad_field(
            where,
            "image_size",
            f"must be [width, height] in pixels: {_shortened(repr(value))}",
            "wrong_type",
        )
    return value[0], value[1]


def parse_more_images(value: Any, folder: Path, where: str) -> tuple[str, ...]:
    """The absolute paths of the images that a question shows after its first."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise bad_field(where, "more_images", "must be a list of paths", "wrong_type")
    return tuple(
        str(resolve_image(item, folder=folder, where=where, field=f"more_images[{number}]"))
        for number, item in enumerate(value)
    )


def parse_regions(
    value: Any, image_size: tuple[int, int] | None, where: str, n_images: int = 1
) -> tuple[Region, ...]:
    """The labelled boxes of a record, in pixels; ``image_size`` is of the first image."""
    if not isinstance(value, list):
        raise bad_field(where, "regions", "must be a list", "wrong_type")
    regions = []
    for index, item in enumerate(value):
        name = f"regions[{index}]"
        if not isinstance(item, dict) or not isinstance(item.get("label"), str):
            raise bad_field(where, name, "must be {label, box_xyxy_pixels}", "wrong_type")
        image = item.get("image", 1)
        if type(image) is not int or not 1 <= image <= n_images:
            what = f"must be the number of an image, 1 to {n_images}: {image!r}"
            raise bad_field(where, f"{name}.image", what, "bad_box")
        problem = check_box(item.get("box_xyxy_pixels"), image_size if image == 1 else None)
        if problem:
            raise bad_field(where, f"{name}.box_xyxy_pixels", problem, "bad_box")
        box = tuple(float(v) for v in item["box_xyxy_pixels"])
        regions.append(Region(item["label"], box, image))
    return tuple(regions)


def check_text(text: str, where: str, field: str) -> None:
    """Raise for what no tokenizer or JSON writer takes as text."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        what = "holds a lone surrogate, which is no character"
        raise bad_field(where, field, what, "bad_text")
    token = CONTROL_TOKEN.search(text) if field in _READ_BY_THE_MODEL else None
    if token:
        what = f"holds {token[0]}, which the model reads as a control token"
        raise bad_field(where, field, what, "bad_text")


def check_target(output: str, where: str, n_images: int = 1) -> None:
    """Raise unless ``output`` is the JSON object that a model is taught to give; a box names its
    image where there are several (``kit.data.canvas``)."""
    try:
        target = strict_json(output)
    except (ValueError, RecursionError) as error:
        raise bad_field(where, "output", f"is not a JSON object: {error}", "bad_output") from error
    expected = {"caption": str, "reasoning": list, "boxes": list, "answer": str}
    for key, kind in expected.items():
        if not isinstance(target, dict) or not isinstance(target.get(key), kind):
            raise bad_field(where, "output", f"lacks {key!r} ({kind.__name__})", "bad_output")
    for text in (target["caption"], target["answer"]):
        check_text(text, where, "output")
    for index, step in enumerate(target["reasoning"]):
        if not isinstance(step, str):
            raise bad_field(where, "output", f"reasoning[{index}] must be text", "bad_output")
        check_text(step, where, "output")
    for index, box in enumerate(target["boxes"]):
        whole = isinstance(box, list) and all(type(v) is int for v in box)
        problem = None if whole else f"must be integers: {_shortened(repr(box))}"
        if whole and n_images > 1:
            number, *box = box or [0]
            if not 1 <= number <= n_images:
                problem = f"must begin with the number of an image, 1 to {n_images}"
        problem = problem or check_box(box, None)
        if problem is None and not (min(box) >= 0 and max(box) <= GRID):
            problem = f"is outside the grid 0..{GRID}: {box}"
        if problem:
            raise bad_field(where, "output", f"boxes[{index}] {problem}", "bad_output")


def bad_field(where: str, field: str | None, what: str, reason: str) -> RecordError:
    """The error of one field (or of the whole row) at ``where``."""
    what = f"field {field!r}: {what}" if field else what
    return RecordError(what, reason=reason, where=where)
