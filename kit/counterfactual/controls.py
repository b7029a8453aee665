"""Controls: the same region somewhere else, so that nothing but its place differs.

To take black air out of a scan changes nothing, and a model that reacts to any tissue would look
as if it rested on the evidence. So a control matches the region in shape and area, in how much of
it is body and how much is black, and in how far inpainting changes a pixel of it. A region that
nothing matches has no control, and is to be left out and counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from kit.counterfactual.inpaint import mean_change
from kit.counterfactual.regions import Boxes, PixelBox

SHARE_TOLERANCE = 0.1  # of the region, that a control may have more or less of body and of black
CHANGE_TOLERANCE = 1.25  # the most by which the change of a pixel may differ, either way,
MEAN_TOLERANCE = 1.1  # and that of all controls of a region together
BLACK = 15  # grey levels below are air, or as dark as that

_SIDE = 256  # longer sides are looked at in this size
_CANDIDATES = 48  # places whose change is measured
_ALIKE = 256  # places with a contrast nearest to the region's, among which they are drawn
_CONTRAST = 1.75  # the most by which that may differ, either way
_NEAR = 1.03  # a change that is as good as equal: with enough of these no more are looked for,
_ENOUGH = 20  # and after so many of which none comes
_FAR = math.log(CHANGE_TOLERANCE)  # within the tolerance
RING = 3  # pixels around a box, with which it is contrasted
_TRIES = 3  # for each candidate, to find room for all parts of a region


class Content:
    """What of an image controls are matched by.

    Args:
        pixels: ``(height, width, 3)`` uint8.
        method: how regions are taken away (``kit.counterfactual.inpaint``).
    """

    def __init__(self, pixels: np.ndarray, method: str = "telea"):
        self.height, self.width = pixels.shape[:2]
        self.method = method
        self.scale = min(1.0, _SIDE / max(self.height, self.width))
        small = (max(1, round(self.width * self.scale)), max(1, round(self.height * self.scale)))
        self._small = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
        grey = self._small.astype(np.float32).mean(axis=2)
        maps = (body_of(grey), grey < BLACK, grey, grey**2)
        self._look_at([np.asarray(each, dtype=np.float64) for each in maps])

    def _look_at(self, maps: Sequence[np.ndarray]) -> None:
        """``(rows, columns)`` each: body, black, grey, and its square."""
        self._maps = [_integral(each) for each in maps]

    @property
    def n_bytes(self) -> int:
        """What it takes in memory."""
        return self._small.nbytes + sum(integral.nbytes for integral in self._maps)

    def change(self, boxes: Sequence[PixelBox]) -> float:
        """How far the removal of boxes changes a pixel of them, as seen in the small image."""
        return mean_change(self._small, [self._shrunk(box) for box in boxes], self.method)

    def controls(
        self,
        boxes: Sequence[PixelBox],
        *,
        draws: int,
        rng: np.random.Generator,
        avoid: Sequence[PixelBox] = (),
    ) -> tuple[Boxes, ...]:
        """Up to ``draws`` different regions that match ``boxes``, inside the image and nowhere
        touching them or those to ``avoid``. Boxes that overlap are moved as a whole.

        Places that change less than the evidence are many and those that change more are few, so
        a tolerance alone would leave controls that change less: see :data:`MEAN_TOLERANCE`.

        >>> image = np.full((40, 80, 3), 100, np.uint8)
        >>> image[10:20, 10:20], image[10:20, 50:60] = 200, 200
        >>> rng = np.random.default_rng(0)
        >>> found = Content(image).controls([(10, 10, 20, 20)], draws=1, rng=rng)[0][0]
        >>> abs(found[0] - 50) <= 1 and abs(found[1] - 10) <= 1
        True
        """
        if not boxes:
            return ()
        own = self.change(boxes)
        apart: dict[Boxes, float] = {}
        near = 0
        for region in self._candidates(boxes, avoid, rng):
            if region not in apart:
                apart[region] = math.log((self.change(region) + 1) / (own + 1))
                near += abs(apart[region]) <= math.log(_NEAR)
            hopeless = len(apart) == _ENOUGH and min(map(abs, apart.values())) > _FAR
            if near == draws or hopeless:
                break
        return _balanced(apart, draws)

    def _candidates(
        self, boxes: Sequence[PixelBox], avoid: Sequence[PixelBox], rng: np.random.Generator
    ) -> Iterator[Boxes]:
        """Regions that match in shape, area, and what they hold."""
        groups = self._groups(boxes)
        known: dict[tuple, np.ndarray] = {}
        for _ in range(_CANDIDATES):
            for _ in range(_TRIES):
                moved: list[PixelBox] = []
                for index in rng.permutation(len(groups)):
                    key = (int(index), *moved)
                    if key not in known:
                        known[key] = self._places(groups[index], [*boxes, *avoid, *moved])
                    places = known[key]
                    if not len(places):
                        break
                    rank = int(len(places) * rng.random() ** 2)  # rather one of the nearest
                    moved += self._moved(groups[index], places[rank])
                else:
                    yield tuple(moved)
                    break
            else:
                return

    def _groups(self, boxes: Sequence[PixelBox]) -> list[list[PixelBox]]:
        """What is moved as a whole."""
        return _overlapping_groups(boxes)

    def _places(self, group: list[PixelBox], taken: Sequence[PixelBox]) -> np.ndarray:
        """``(places, 2)`` rows and columns of the small image at which a group's top-left corner
        may lie, those with the contrast nearest to its own."""
        small = [self._shrunk(box) for box in group]
        left, top = min(b[0] for b in small), min(b[1] for b in small)
        right, bottom = max(b[2] for b in small), max(b[3] for b in small)
        shape = self._small.shape[0] - (bottom - top) + 1, self._small.shape[1] - (right - left) + 1
        free = np.ones(shape, dtype=bool)
        body, black, contrast = np.zeros((3, *shape))
        for x1, y1, x2, y2 in small:
            for a1, b1, a2, b2 in map(self._shrunk, taken):  # corners at which the two would touch
                columns = slice(max(0, a1 - x2 + left), max(0, a2 - x1 + left + 1))
                rows = slice(max(0, b1 - y2 + top), max(0, b2 - y1 + top + 1))
                free[rows, columns] = False
            within = x1 - left, y1 - top, x2 - left, y2 - top
            inner = [_window_sums(integral, within, shape) for integral in self._maps]
            outer = _window_sums(self._maps[2], within, shape, margin=RING)
            area = (x2 - x1) * (y2 - y1)
            ring = (outer - inner[2]) / ((x2 - x1 + 2 * RING) * (y2 - y1 + 2 * RING) - area)
            body += inner[0]
            black += inner[1]
            # of a pixel from what lies around the box, squared: inpainting would continue that
            contrast += inner[3] - 2 * ring * inner[2] + area * ring**2
        total = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in small)
        apart = apart_from((top, left), body, black, contrast, total)
        return nearest(apart, free)

    def _moved(self, group: list[PixelBox], place: np.ndarray) -> list[PixelBox]:
        """The boxes of a group with its top-left corner at a place of the small image."""
        left, top = min(b[0] for b in group), min(b[1] for b in group)
        right, bottom = max(b[2] for b in group), max(b[3] for b in group)
        down, across = (round(int(at) / self.scale) for at in place)
        dx = min(across, self.width - (right - left)) - left
        dy = min(down, self.height - (bottom - top)) - top
        return [(x1 + dx, y1 + dy, x2 + dx, y2 + dy) for x1, y1, x2, y2 in group]

    def _shrunk(self, box: PixelBox) -> PixelBox:
        """A box of the small image that holds all of a box of the whole one."""
        x1, y1, x2, y2 = box
        return (
            math.floor(x1 * self.scale),
            math.floor(y1 * self.scale),
            min(self._small.shape[1], math.ceil(x2 * self.scale)),
            min(self._small.shape[0], math.ceil(y2 * self.scale)),
        )


def apart_from(
    own: tuple[int, int], body: np.ndarray, black: np.ndarray, contrast: np.ndarray, total: int
) -> np.ndarray:
    """How far the contrast of each place is from that of one's ``own``, as a logarithm; infinite
    where body, black or contrast do not match. ``contrast`` is a sum of squares over ``total``
    pixels."""
    contrast = np.log(np.sqrt(np.maximum(0, contrast / total)) + 1)
    apart = np.abs(contrast - contrast[own])
    apart[apart > math.log(_CONTRAST)] = np.inf
    for held in (body, black):
        apart[np.abs(held - held[own]) > SHARE_TOLERANCE * total] = np.inf
    return apart


def nearest(apart: np.ndarray, free: np.ndarray) -> np.ndarray:
    """``(places, 2)``: the free ones that are nearest."""
    free = free & np.isfinite(apart)
    return np.argwhere(free)[np.argsort(apart[free], kind="stable")[:_ALIKE]]


def _balanced(apart: dict[Boxes, float], draws: int) -> tuple[Boxes, ...]:
    """Up to ``draws`` of the regions that change about as much, and together as much.

    ``apart``: by region, the logarithm of how many times as much it changes. The nearest comes
    first, and each further one makes up for what those before it have more or less.

    >>> _balanced({"a": 0.02, "b": -0.2, "c": 0.17, "d": -0.1, "e": 0.9}, 2)
    ('a', 'd')
    >>> _balanced({"b": -0.2, "c": 0.17}, 2), _balanced({"b": -0.2, "d": -0.13}, 2)
    (('c', 'b'), ())
    """
    left = {r: more for r, more in apart.items() if abs(more) <= math.log(CHANGE_TOLERANCE)}
    chosen: list[Boxes] = []
    total = 0.0
    while left and len(chosen) < draws:
        chosen.append(min(left, key=lambda region: (abs(left[region] + total), region)))
        total += left.pop(chosen[-1])
    if abs(total) > len(chosen) * math.log(MEAN_TOLERANCE):
        chosen = [r for r in chosen if abs(apart[r]) <= math.log(MEAN_TOLERANCE)]
    return tuple(chosen)


def body_of(grey: np.ndarray) -> np.ndarray:
    """What of a scan is body and not air, ``(height, width)`` bool: the largest connected part
    that is not black, and all that lies within its outline.

    >>> scan = np.zeros((9, 9), np.float32)
    >>> scan[2:7, 2:7], scan[4, 4], scan[0, 0] = 100, 0, 100
    >>> body = body_of(scan)
    >>> int(body.sum()), bool(body[4, 4]), bool(body[0, 0])
    (25, True, False)
    """
    bright = (grey >= BLACK).astype(np.uint8)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(bright, connectivity=8)
    filled = np.zeros_like(bright)
    if count > 1:
        largest = parts == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
        outlines, _ = cv2.findContours(
            largest.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(filled, outlines, -1, 1, cv2.FILLED)
    return filled.astype(bool)


def _integral(values: np.ndarray) -> np.ndarray:
    return cv2.integral(cv2.copyMakeBorder(values, *[RING] * 4, cv2.BORDER_REPLICATE))


def _window_sums(
    integral: np.ndarray, box: PixelBox, shape: tuple[int, int], margin: int = 0
) -> np.ndarray:
    """The sum within a box and so many pixels around it, for each place of the corner that the
    box is told from."""

    def corner(y: int, x: int) -> np.ndarray:
        return integral[y + RING : y + RING + shape[0], x + RING : x + RING + shape[1]]

    x1, y1, x2, y2 = box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin
    return corner(y2, x2) - corner(y1, x2) - corner(y2, x1) + corner(y1, x1)


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
