"""Which convention of boxes explains where a model says that something is.

A box that is read in a wrong convention may lie near what it should show by chance, and so may a
model's habit of naming one place. So what counts is how much better a box fits its own image's
shape than the shapes of the other images: that is 0 on average for answers that do not depend on
the image, in every convention.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kit.data.boxes import CONVENTIONS, Convention, box_to_pixels
from kit.report.statistics import CONFIDENCE, FEWEST, mean_interval
from kit.scoring.grounding import iou

PixelBox = tuple[float, float, float, float]
SPAN = (-1.0, 1.0)  # of a difference of two IoU

_NUMBER = r"(\d+(?:\.\d+)?)"
_NEXT = r"\s*,\s*"
# [1, 2, 3, 4] and (1, 2, 3, 4); (1,2),(3,4) as Qwen2-VL writes it between its marks; [[1,2],[3,4]]
_BOX = re.compile(
    rf"[\[(]\s*{_NUMBER}{_NEXT}{_NUMBER}\s*(?:[\])]\s*,?\s*[\[(]|,)\s*{_NUMBER}{_NEXT}{_NUMBER}"
    r"\s*[\])]"
)


def first_box(text: str) -> PixelBox | None:
    """The first four numbers in a text that are written as a box and not inverted, in any of the
    forms in which models write one, whatever they count.

    >>> first_box('```json\\n[{"bbox_2d": [12, 30, 1400, 2000], "label": "spot"}]\\n```')
    (12.0, 30.0, 1400.0, 2000.0)
    >>> first_box("the spot(176,106),(232,160)"), first_box("[0.1, 0.2, 0.3, 0.4]")
    ((176.0, 106.0, 232.0, 160.0), (0.1, 0.2, 0.3, 0.4))
    >>> first_box("at [1, 2]"), first_box("[30, 0, 10, 5]")
    (None, None)
    """
    for found in _BOX.finditer(text):
        x1, y1, x2, y2 = map(float, found.groups())
        if x1 < x2 and y1 < y2:
            return x1, y1, x2, y2
    return None


@dataclass(frozen=True)
class Spot:
    """An image with one shape: its ``(width, height)``, that of it as the model sees it, and where
    the shape is, in pixels of the image."""

    size: tuple[int, int]
    resized: tuple[int, int]
    box: PixelBox

    def read(self, box: PixelBox, convention: Convention) -> PixelBox:
        """What a model wrote, in pixels of the image."""
        return box_to_pixels(box, convention, self.size, self.resized)


@dataclass(frozen=True)
class Fit:
    """Over the answers with a box: the mean IoU of what is read in one convention with the shape,
    its 95% interval (None below ten images), and the IoU with other images' shapes."""

    iou: float
    low: float | None
    high: float | None
    by_chance: float


@dataclass(frozen=True)
class Finding:
    """What the answers to one way of asking tell.

    ``convention`` is the one that explains the boxes better than each other one, or None where
    that cannot be told; ``reason`` says why not.
    """

    asked: int
    readable: int
    fits: dict[str, Fit]
    convention: Convention | None
    reason: str | None


def judge(shown: Sequence[Spot], boxes: Sequence[PixelBox | None]) -> Finding:
    """What the boxes that a model wrote for images count; None where it wrote none."""
    pairs = [(image, box) for image, box in zip(shown, boxes, strict=True) if box is not None]
    if not pairs:
        return Finding(len(shown), 0, {}, None, "no answer has a box")
    own, gained = {}, {}
    for name in CONVENTIONS:
        overlaps = _overlaps(shown, pairs, name)
        own[name] = overlaps[:, 0]
        gained[name] = overlaps[:, 0] - overlaps[:, 1]
    fits = {
        name: Fit(
            float(values.mean()),
            *(mean_interval(values, range(len(values))) or (None, None)),
            by_chance=float((values - gained[name]).mean()),
        )
        for name, values in own.items()
    }
    convention, reason = _verdict(gained)
    return Finding(len(shown), len(pairs), fits, convention, reason)


def _overlaps(
    shown: Sequence[Spot], pairs: Sequence[tuple[Spot, PixelBox]], convention: str
) -> np.ndarray:
    """``(answers, 2)``: the IoU of each answer with its own image's shape, and on average with
    those of the others, as if they were there."""
    rows = []
    for image, box in pairs:
        read = image.read(box, convention)
        others = [
            iou(read, _moved(other.box, other.size, image.size))
            for other in shown
            if other is not image
        ]
        rows.append((iou(read, image.box), sum(others) / max(1, len(others))))
    return np.array(rows)


def _moved(box: PixelBox, size: tuple[int, int], to: tuple[int, int]) -> PixelBox:
    """The same place of an image of another size."""
    x1, y1, x2, y2 = (v * new / old for v, old, new in zip(box, size * 2, to * 2, strict=True))
    return x1, y1, x2, y2


def _verdict(gained: dict[str, np.ndarray]) -> tuple[Convention | None, str | None]:
    """The convention by which boxes fit better than by chance and than by each other convention,
    each of these surely (Bonferroni, as there are four to choose from), or why there is none."""
    confidence = 1 - (1 - CONFIDENCE) / len(gained)

    def is_surely_positive(values: np.ndarray) -> bool:
        low, _ = mean_interval(values, range(len(values)), SPAN, confidence)
        return low > 0

    best = max(gained, key=lambda name: gained[name].mean())
    n_images = len(gained[best])
    if n_images < FEWEST:
        return None, f"only {n_images} answers have a box, and it takes {FEWEST}"
    if not is_surely_positive(gained[best]):
        return None, "in no convention do the boxes fit their images better than others"
    rivals = [
        name
        for name, values in gained.items()
        if name != best and not is_surely_positive(gained[best] - values)
    ]
    if rivals:
        return None, f"{best} fits best, but not surely better than {' and '.join(rivals)}"
    return best, None
