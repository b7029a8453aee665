"""Parts of an image that are not boxes: the very pixels of a thing.

A mask is written as the boxes that fill it (:func:`boxes_of`), and so can be taken out of an image,
cached and counted as any region. Its controls are the same shape elsewhere, each piece that hangs
together moved as a whole, and match it in all that controls of boxes match theirs in.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from kit.counterfactual.controls import RING, Content, apart_from, nearest
from kit.counterfactual.regions import Boxes, PixelBox, mask_of


def boxes_of(mask: np.ndarray) -> Boxes:
    """The boxes that fill a ``(height, width)`` bool mask, none overlapping: the runs of its rows,
    joined where rows are alike.

    >>> mask = np.zeros((4, 5), bool)
    >>> mask[1:3, 1:4] = mask[3, 2] = True
    >>> boxes_of(mask)
    ((1, 1, 4, 3), (2, 3, 3, 4))
    """
    done: list[PixelBox] = []
    open_boxes: dict[tuple[int, int], int] = {}  # by left and right edge: the top
    for y in range(len(mask) + 1):
        row = mask[y] if y < len(mask) else np.zeros_like(mask[0])
        turns = np.flatnonzero(np.diff(np.concatenate([[False], row, [False]])))
        runs = {(int(x1), int(x2)) for x1, x2 in turns.reshape(-1, 2)}
        for run in sorted(open_boxes.keys() - runs):
            done.append((run[0], open_boxes.pop(run), run[1], y))
        open_boxes |= dict.fromkeys(runs - open_boxes.keys(), y)
    return tuple(done)


class MaskContent(Content):
    """What of an image controls of masks are matched by."""

    def _look_at(self, maps: Sequence[np.ndarray]) -> None:
        self._maps = [cv2.copyMakeBorder(each, *[RING] * 4, cv2.BORDER_REPLICATE) for each in maps]
        self._apart: dict[Boxes, np.ndarray] = {}

    def _groups(self, boxes: Sequence[PixelBox]) -> list[list[PixelBox]]:
        """Pieces, within which all hangs together."""
        mask = mask_of(boxes, (self.width, self.height)).astype(np.uint8)
        count, pieces = cv2.connectedComponents(mask, connectivity=8)
        groups: list[list[PixelBox]] = [[] for _ in range(count)]
        for x1, y1, x2, y2 in boxes:
            groups[pieces[y1, x1]].append((x1, y1, x2, y2))
        return [group for group in groups if group]

    def _places(self, group: list[PixelBox], taken: Sequence[PixelBox]) -> np.ndarray:
        height, width = self._small.shape[:2]
        mask = mask_of([self._shrunk(box) for box in group], (width, height))
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        place = int(rows[0]), int(columns[0])
        shape = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float64)
        if (key := tuple(group)) not in self._apart:
            self._apart[key] = self._apart_of(shape, place)
        others = mask_of([self._shrunk(box) for box in taken], (width, height))
        near = cv2.dilate(np.pad(shape, 1), np.ones((3, 3)))
        touching = _sums(np.pad(others.astype(np.float64), 1), near)
        return nearest(self._apart[key], touching < 0.5)

    def _apart_of(self, shape: np.ndarray, place: tuple[int, int]) -> np.ndarray:
        """How little each place of the top-left corner of a shape is like its own."""
        inner = np.pad(shape, RING)
        ring = cv2.dilate(inner, np.ones((2 * RING + 1,) * 2)) - inner
        body, black, grey, squared = (_sums(each, inner) for each in self._maps)
        around = _sums(self._maps[2], ring) / ring.sum()
        contrast = squared - 2 * around * grey + shape.sum() * around**2
        return apart_from(place, body, black, contrast, shape.sum())


def _sums(values: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """The sum of what a shape holds at each place of its top-left corner."""
    rows, columns = (a - b + 1 for a, b in zip(values.shape, shape.shape, strict=True))
    sums = cv2.filter2D(values, cv2.CV_64F, shape, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
    return sums[:rows, :columns]
