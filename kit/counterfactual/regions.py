"""Which part of an image is taken away: the evidence, or what an answer claims.

All boxes here are ``(x1, y1, x2, y2)`` in whole pixels of the original image, or of the canvas on
which a question's images lie (``kit.data.canvas``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from kit.data.canvas import Canvas
from kit.data.types import Region

PixelBox = tuple[int, int, int, int]
Boxes = tuple[PixelBox, ...]
Source = Literal["gold", "claimed"]


def whole_pixels(boxes: Sequence[Sequence[float]], image_size: tuple[int, int]) -> Boxes:
    """Boxes grown to whole pixels and cut to the image; each once, empty ones left out.

    >>> whole_pixels([(1.2, 3.0, 4.5, 9.9), (1, 3, 5, 10), (20, 0, 30, 9)], (12, 12))
    ((1, 3, 5, 10),)
    """
    width, height = image_size
    cut = [
        (
            max(0, math.floor(x1)),
            max(0, math.floor(y1)),
            min(width, math.ceil(x2)),
            min(height, math.ceil(y2)),
        )
        for x1, y1, x2, y2 in boxes
    ]
    return tuple(dict.fromkeys(b for b in cut if b[0] < b[2] and b[1] < b[3]))


def claimed_region(boxes: Sequence[Sequence[int]], canvas: Canvas) -> Boxes:
    """The boxes of an answer, on the 0..1000 grid, in whole pixels.

    >>> claimed_region([(0, 0, 500, 1000)], Canvas(((20, 10),)))
    ((0, 0, 10, 10),)
    """
    return whole_pixels([canvas.claimed(box) for box in boxes], canvas.size)


def gold_region(regions: Sequence[Region], canvas: Canvas) -> Boxes:
    """The labelled boxes of a record in whole pixels."""
    return whole_pixels(canvas.gold(regions), canvas.size)


def evidence_region(
    gold: Sequence[Region], claimed: Sequence[Sequence[int]], canvas: Canvas
) -> tuple[Boxes, Source | None]:
    """The boxes to take away, and whose they are: the gold ones where there are any, else those
    that the answer claims (0..1000 grid), else none.

    >>> evidence_region([], [(0, 0, 500, 1000)], Canvas(((20, 10),)))
    (((0, 0, 10, 10),), 'claimed')
    >>> evidence_region([], [], Canvas(((20, 10),)))
    ((), None)
    """
    if region := gold_region(gold, canvas):
        return region, "gold"
    if region := claimed_region(claimed, canvas):
        return region, "claimed"
    return (), None


def mask_of(boxes: Sequence[PixelBox], image_size: tuple[int, int]) -> np.ndarray:
    """``(height, width)`` bool, True in the boxes."""
    width, height = image_size
    mask = np.zeros((height, width), dtype=bool)
    for x1, y1, x2, y2 in boxes:
        mask[y1:y2, x1:x2] = True
    return mask


def area_share(boxes: Sequence[PixelBox], canvas: Canvas) -> float:
    """The part of the image that the boxes cover together, in 0..1; of several images, of the one
    of which they cover most.

    >>> area_share([(0, 0, 5, 10), (0, 0, 5, 10)], Canvas(((10, 10),)))
    0.5
    >>> area_share([(0, 0, 5, 10), (18, 0, 28, 10)], Canvas(((10, 10), (10, 10))))
    1.0
    """
    of_images = zip(canvas.by_image(boxes), canvas.sizes, strict=True)
    return max(float(mask_of(own, size).mean()) for own, size in of_images)
