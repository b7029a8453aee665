"""Where the model looked against where the evidence is: intersection over union, and pointing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kit.data.canvas import Canvas

PixelBox = Sequence[float]

HIT = 0.5  # the IoU from which a record counts as found


@dataclass(frozen=True)
class GroundingScores:
    """How well the claimed boxes of one answer cover the gold boxes, each value in 0..1.

    - ``iou``: area of the intersection of the union of all claimed boxes with the union of all
      gold boxes, over the area of both together. Neither splitting nor repeating a box changes
      it, and a gold box that is not claimed lowers it.
    - ``box_iou``: mean over the claimed boxes of the IoU with the gold box that fits best.
    - ``acc_at_half``: 1 if ``iou`` is at least 0.5, else 0.
    - ``pointing``: the share of claimed boxes whose centre lies in (or on the edge of) a gold
      box: the pointing game (Zhang et al. 2016, arXiv 1608.00507) with a box's centre as the
      point.

    All are 0 for an answer that claims no box.
    """

    iou: float
    box_iou: float
    acc_at_half: float
    pointing: float

    def to_json(self) -> dict[str, float]:
        """``iou``, ``box_iou``, ``acc@0.5`` and ``pointing`` as plain numbers."""
        return {
            "iou": self.iou,
            "box_iou": self.box_iou,
            "acc@0.5": self.acc_at_half,
            "pointing": self.pointing,
        }


def grounding_scores(
    claimed: Sequence[Sequence[int]], gold: Sequence[PixelBox], canvas: Canvas
) -> GroundingScores:
    """Score the boxes that an answer claims.

    Args:
        claimed: boxes on the 0..1000 grid, as ``parse_answer`` gives them.
        gold: boxes in pixels of the canvas, at least one.
        canvas: the image, or the images, of the question.

    Raises:
        ValueError: no gold box; such a record has no evidence to look at.

    >>> canvas = Canvas(((200, 100),))
    >>> grounding_scores([(0, 0, 500, 1000)], [(0, 0, 100, 100)], canvas).iou
    1.0
    >>> grounding_scores([], [(0, 0, 100, 100)], canvas).iou
    0.0
    """
    if not gold:
        raise ValueError("a record without gold boxes has no grounding score")
    if not claimed:
        return GroundingScores(0.0, 0.0, 0.0, 0.0)
    boxes = [canvas.claimed(box) for box in claimed]
    fits = [max(iou(box, other) for other in gold) for box in boxes]
    whole = union_iou(boxes, gold)
    return GroundingScores(
        iou=whole,
        box_iou=sum(fits) / len(fits),
        acc_at_half=float(whole >= HIT),
        pointing=sum(_points_into(box, gold) for box in boxes) / len(boxes),
    )


def iou(first: PixelBox, second: PixelBox) -> float:
    """Intersection over union of two ``(x1, y1, x2, y2)`` in one unit; 0 where both are empty.

    >>> iou((0, 0, 2, 2), (1, 0, 3, 2))
    0.3333333333333333
    """
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    common = max(0.0, width) * max(0.0, height)
    total = _area(first) + _area(second) - common
    return common / total if total > 0 else 0.0


def union_iou(first: Sequence[PixelBox], second: Sequence[PixelBox]) -> float:
    """IoU of the area that the one boxes cover together with that of the others; 0 where neither
    covers any. Exact: areas are summed over the cells between all edges.

    >>> union_iou([(0, 0, 1, 2), (1, 0, 2, 2)], [(0, 0, 2, 2)])
    1.0
    """
    every = [*first, *second]
    across = sorted({edge for box in every for edge in (box[0], box[2])})
    down = sorted({edge for box in every for edge in (box[1], box[3])})
    if len(across) < 2 or len(down) < 2:
        return 0.0
    one, other = _cells(first, across, down), _cells(second, across, down)
    areas = np.outer(np.diff(down), np.diff(across))
    total = areas[one | other].sum()
    return float(areas[one & other].sum() / total) if total > 0 else 0.0


def _cells(boxes: Sequence[PixelBox], across: list[float], down: list[float]) -> np.ndarray:
    """``[len(down) - 1, len(across) - 1]`` bool: the cells that the boxes cover."""
    column = {edge: index for index, edge in enumerate(across)}
    row = {edge: index for index, edge in enumerate(down)}
    covered = np.zeros((len(down) - 1, len(across) - 1), dtype=bool)
    for x1, y1, x2, y2 in boxes:
        covered[row[y1] : row[y2], column[x1] : column[x2]] = True
    return covered


def _area(box: PixelBox) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _points_into(box: PixelBox, gold: Sequence[PixelBox]) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return any(g[0] <= x <= g[2] and g[1] <= y <= g[3] for g in gold)
