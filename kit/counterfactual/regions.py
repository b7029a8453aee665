"""Which part of an image is taken away: the evidence, and random parts to match it.

A random match is the evidence itself put somewhere else: every group of boxes that overlap is
moved as a whole, so that a match has the same shape and area. All boxes here are
``(x1, y1, x2, y2)`` in whole pixels of the original image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from kit.data.boxes import grid_to_pixels

PixelBox = tuple[int, int, int, int]
Source = Literal["gold", "claimed"]

_TRIES = 8  # orders in which the groups of one match are placed before it is given up


def whole_pixels(
    boxes: Sequence[Sequence[float]], image_size: tuple[int, int]
) -> tuple[PixelBox, ...]:
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


def claimed_region(
    boxes: Sequence[Sequence[int]], image_size: tuple[int, int]
) -> tuple[PixelBox, ...]:
    """The boxes of an answer, on the 0..1000 grid, in whole pixels.

    >>> claimed_region([(0, 0, 500, 1000)], (20, 10))
    ((0, 0, 10, 10),)
    """
    return whole_pixels([grid_to_pixels(list(box), image_size) for box in boxes], image_size)


def evidence_region(
    gold: Sequence[Sequence[float]],
    claimed: Sequence[Sequence[int]],
    image_size: tuple[int, int],
) -> tuple[tuple[PixelBox, ...], Source | None]:
    """The boxes to take away, and whose they are: the gold ones (pixels) where there are any,
    else those that the answer claims (0..1000 grid), else none.

    >>> evidence_region([], [(0, 0, 500, 1000)], (20, 10))
    (((0, 0, 10, 10),), 'claimed')
    >>> evidence_region([], [], (20, 10))
    ((), None)
    """
    if region := whole_pixels(gold, image_size):
        return region, "gold"
    if region := claimed_region(claimed, image_size):
        return region, "claimed"
    return (), None


def mask_of(boxes: Sequence[PixelBox], image_size: tuple[int, int]) -> np.ndarray:
    """``(height, width)`` bool, True in the boxes."""
    width, height = image_size
    mask = np.zeros((height, width), dtype=bool)
    for x1, y1, x2, y2 in boxes:
        mask[y1:y2, x1:x2] = True
    return mask


def area_share(boxes: Sequence[PixelBox], image_size: tuple[int, int]) -> float:
    """The part of the image that the boxes cover together, in 0..1.

    >>> area_share([(0, 0, 5, 10), (0, 0, 5, 10)], (10, 10))
    0.5
    """
    return float(mask_of(boxes, image_size).mean())


def matched_regions(
    boxes: Sequence[PixelBox],
    image_size: tuple[int, int],
    *,
    draws: int,
    rng: np.random.Generator,
) -> list[tuple[PixelBox, ...]]:
    """Up to ``draws`` random regions of the same shape and area as ``boxes``, inside the image
    and nowhere touching them.

    Every place that fits is equally likely. The list is empty where nothing fits, as when the
    boxes cover most of the image.

    >>> evidence = [(0, 0, 4, 4)]
    >>> region = matched_regions(evidence, (9, 4), draws=1, rng=np.random.default_rng(0))[0]
    >>> region[0][0] > 4 and region[0][2] - region[0][0] == 4
    True
    """
    if not boxes:
        return []
    groups = _overlapping_groups(boxes)
    found = []
    for _ in range(draws):
        for _ in range(_TRIES):
            region = _move_all(groups, boxes, image_size, rng)
            if region is not None:
                found.append(region)
                break
        else:
            break
    return found


def _overlapping_groups(boxes: Sequence[PixelBox]) -> list[list[PixelBox]]:
    """Boxes that overlap, directly or through others, together."""
    groups: list[list[PixelBox]] = []
    for box in boxes:
        near = [g for g in groups if any(_overlap(box, other) for other in g)]
        groups = [g for g in groups if g not in near] + [[b for g in near for b in g] + [box]]
    return groups


def _overlap(first: PixelBox, second: PixelBox) -> bool:
    across = first[0] < second[2] and second[0] < first[2]
    return across and first[1] < second[3] and second[1] < first[3]


def _move_all(
    groups: list[list[PixelBox]],
    evidence: Sequence[PixelBox],
    image_size: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[PixelBox, ...] | None:
    """Each group somewhere else, in a random order, or None if one finds no place."""
    moved: list[PixelBox] = []
    for index in rng.permutation(len(groups)):
        free = _free_places(groups[index], [*evidence, *moved], image_size)
        places = np.flatnonzero(free)
        if not len(places):
            return None
        down, across = np.unravel_index(places[rng.integers(len(places))], free.shape)
        left = min(b[0] for b in groups[index])
        top = min(b[1] for b in groups[index])
        dx, dy = int(across) - left, int(down) - top
        moved += [(b[0] + dx, b[1] + dy, b[2] + dx, b[3] + dy) for b in groups[index]]
    return tuple(moved)


def _free_places(
    group: list[PixelBox], taken: Sequence[PixelBox], image_size: tuple[int, int]
) -> np.ndarray:
    """Where the top-left corner of a group may lie, ``(rows, columns)`` bool: inside the image,
    with a pixel between it and what is taken."""
    width, height = image_size
    left, top = min(b[0] for b in group), min(b[1] for b in group)
    right, bottom = max(b[2] for b in group), max(b[3] for b in group)
    free = np.ones((height - (bottom - top) + 1, width - (right - left) + 1), dtype=bool)
    for x1, y1, x2, y2 in group:
        for a1, b1, a2, b2 in taken:
            # corners at which this box would touch that one
            columns = slice(max(0, a1 - x2 + left), max(0, a2 - x1 + left + 1))
            rows = slice(max(0, b1 - y2 + top), max(0, b2 - y1 + top + 1))
            free[rows, columns] = False
    return free
