"""Boxes as people write them in a table: what the four numbers are is told, or plain from them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kit.data.boxes import GRID, box_to_pixels, xywh_to_xyxy
from kit.data.fields import bad_field, check_box
from kit.data.types import Region
from kit.errors import DataError, RecordError
from kit.files import strict_json

UNNAMED = "marked region"  # a box without a label
MOST_MISTYPED = 1 / 3  # of a table's boxes; where more are no corners, they are sides

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_CORNERS = (
    (("x1", "y1", "x2", "y2"), "xyxy"),
    (("xmin", "ymin", "xmax", "ymax"), "xyxy"),
    (("x_min", "y_min", "x_max", "y_max"), "xyxy"),
    (("left", "top", "right", "bottom"), "xyxy"),
    (("x", "y", "w", "h"), "xywh"),
    (("x", "y", "width", "height"), "xywh"),
    (("left", "top", "width", "height"), "xywh"),
)
_NUMBERS = {
    "box": "",
    "bbox": "",
    "box_xyxy": "xyxy",
    "box_xyxy_pixels": "xyxy",
    "bbox_xywh": "xywh",
}
_LABELS = ("label", "name", "class", "category", "class_name")


@dataclass(frozen=True)
class WrittenBox:
    """Four numbers, their label, their order where the row says it (else empty), and the number of
    the image that they are of."""

    label: str
    numbers: tuple[float, float, float, float]
    order: str = ""
    image: int = 1


def parse_boxes(value: Any, where: str, field: str = "boxes") -> list[WrittenBox]:
    """Boxes in any of these forms, or as JSON text of one: four numbers, a list of such, an object
    with corners or ``box`` and maybe a label, a list of such, labels with their boxes. Of several
    images a box is of the first, but where it names another: ``image`` of an object, or a number
    before the four.

    Raises:
        RecordError: none of these.

    >>> parse_boxes("[1, 2, 3, 4]", "w") == parse_boxes("1 2 3 4", "w")
    True
    >>> parse_boxes({"label": "Nodule", "x": 1, "y": 2, "w": 3, "h": 4}, "w")
    [WrittenBox(label='Nodule', numbers=(1.0, 2.0, 3.0, 4.0), order='xywh', image=1)]
    """
    if isinstance(value, str):
        value = _of_text(value)
    if isinstance(value, dict):
        value = [value] if _corners(value) else list(value.items())
    if not isinstance(value, (list, tuple)):
        raise _no_box(value, where, field)
    if len(value) == 4 and all(_is_number(v) for v in value):
        value = [value]
    found: list[WrittenBox] = []
    for item in value:
        label = UNNAMED
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
            label, item = item
            if isinstance(item, (list, tuple)) and all(isinstance(v, (list, dict)) for v in item):
                found += [_one(each, label, where, field) for each in item]
                continue
        found.append(_one(item, label, where, field))
    return found


@dataclass(frozen=True)
class BoxRule:
    """What all boxes of a table are: a convention of ``kit.data.boxes``, and their order."""

    convention: str
    order: str

    def regions(
        self, boxes: Sequence[WrittenBox], sizes: Sequence[tuple[int, int]], where: str
    ) -> tuple[Region, ...]:
        """The boxes in pixels of the ``(width, height)`` images of a question.

        Raises:
            RecordError: one is inverted, leaves its image, or is of none.
        """
        found = []
        for index, box in enumerate(boxes):
            numbers, image_size = box.numbers, size_of(box, sizes, where)
            if (box.order or self.order) == "xywh":
                numbers = xywh_to_xyxy(list(numbers))
            pixels = box_to_pixels(numbers, self.convention, image_size)
            if problem := check_box(pixels, image_size):
                what = f"{problem}, read as {self.convention}, {box.order or self.order}"
                raise bad_field(where, f"boxes[{index}]", what, "bad_box")
            found.append(Region(box.label, pixels, box.image))
        return tuple(found)


def size_of(box: WrittenBox, sizes: Sequence[tuple[int, int]], where: str) -> tuple[int, int]:
    """The ``(width, height)`` of the image that a box is of."""
    if not 1 <= box.image <= len(sizes):
        what = f"is of image {box.image}, but the question shows {len(sizes)}"
        raise bad_field(where, "boxes", what, "bad_box")
    return sizes[box.image - 1]


def rule_of(
    boxes: Iterable[tuple[WrittenBox, tuple[int, int]]],
    convention: str | None,
    order: str | None,
    where: object,
) -> BoxRule:
    """What is told, else what the boxes of all images (``(width, height)``) can only be: shares of
    sides where no number is above 1, pixels where one is above 1000; corners where sides would
    lead out of the image, sides where corners would be inverted: several, and a third of all, since
    fewer may be mistyped.

    Raises:
        DataError: they could be either.
    """
    boxes = list(boxes)
    most = max((max(box.numbers) for box, _ in boxes), default=0.0)
    if convention is None and boxes:
        if 0 < most <= 1:
            convention = "unit"
        elif most > GRID:
            convention = "pixels"
        else:
            what = "boxes may count pixels or thousandths of the image's sides"
            fix = "say which: --box_convention pixels (or grid_1000)"
            raise DataError(what, where=where, fix=fix)
    open_ones = [(box, size) for box, size in boxes if not box.order]
    if order is None and open_ones:
        inverted = [
            b.numbers
            for b, _ in open_ones
            if b.numbers[2] <= b.numbers[0] or b.numbers[3] <= b.numbers[1]
        ]
        outside = any(_leaves(box, size, convention) for box, size in open_ones)
        many = len(inverted) > 1 and len(inverted) >= MOST_MISTYPED * len(open_ones)
        if outside == bool(inverted) or (inverted and not many):
            what = "boxes may be (x1, y1, x2, y2) or (x, y, width, height)"
            if inverted:
                first = ", ".join(f"{number:g}" for number in inverted[0])
                what += f"; as corners {len(inverted)} of {len(open_ones)} are inverted: [{first}]"
                what += ", ..." * (len(inverted) > 1)
            raise DataError(what, where=where, fix="say which: --box_format xyxy (or xywh)")
        order = "xywh" if inverted else "xyxy"
    return BoxRule(convention or "pixels", order or "xyxy")


def _leaves(box: WrittenBox, size: tuple[int, int], convention: str) -> bool:
    """Whether it were outside of its image if its last numbers were sides."""
    pixels = box_to_pixels(xywh_to_xyxy(list(box.numbers)), convention, size)
    return pixels[2] > size[0] + 1 or pixels[3] > size[1] + 1


def _one(item: Any, label: str, where: str, field: str) -> WrittenBox:
    order, image = "", 1
    if isinstance(item, dict):
        image = item.get("image", 1)
        numbers, order = _corners(item) or ((), "")
        named = [str(item[key]) for key in _LABELS if item.get(key)]
        item, label = numbers, (named or [label])[0]
    if isinstance(item, str):
        item = _of_text(item)
    if isinstance(item, (list, tuple)) and len(item) == 5:  # as a model names its image
        image, *item = item
    if not isinstance(item, (list, tuple)) or len(item) != 4 or not all(map(_is_number, item)):
        raise _no_box(item, where, field)
    if type(image) is not int:
        raise bad_field(where, field, f"must name an image by number: {image!r}", "bad_box")
    name = " ".join(label.split()) or UNNAMED
    return WrittenBox(name, tuple(float(v) for v in item), order, image)


def _corners(item: dict) -> tuple[list, str] | None:
    """The numbers of an object that is a box, and their order."""
    lower = {str(key).lower(): value for key, value in item.items()}
    for names, order in _CORNERS:
        if all(name in lower for name in names):
            return [lower[name] for name in names], order
    for name, order in _NUMBERS.items():
        if name in lower:
            return lower[name], order
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _of_text(text: str) -> Any:
    try:
        return strict_json(text.replace("(", "[").replace(")", "]"))
    except (ValueError, RecursionError):
        numbers = [float(number) for number in _NUMBER.findall(text)]
        return numbers if not re.search(r"[^\W\d_]", text) else text


def _no_box(value: Any, where: str, field: str) -> RecordError:
    shown = repr(value)[:80]
    what = f"is no box of four numbers, nor a list of such: {shown}"
    return bad_field(where, field, what, "bad_box")
