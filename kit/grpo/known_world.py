"""A world in which is known what answers rest on, in place of a model that a reward asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kit.counterfactual.images import ImageCache
from kit.counterfactual.probe import Case, Effect
from kit.counterfactual.regions import Boxes, mask_of
from kit.data.types import Shown, paths_of

CERTAIN = 0.95  # how likely an answer is on an image that lacks nothing


def drawn(picture: Mapping[str, Any]) -> np.ndarray:
    """``(height, width, 3)`` uint8: rectangles ``[x1, y1, x2, y2, grey]`` on black, later ones over
    earlier ones, with a little texture.

    >>> drawn({"size": [4, 3], "paint": [[1, 1, 3, 3, 90]]})[..., 0].tolist()
    [[0, 0, 0, 0], [0, 93, 92, 0], [0, 98, 98, 0]]
    """
    width, height = picture["size"]
    grey = np.zeros((height, width), int)
    for x1, y1, x2, y2, level in picture["paint"]:
        grey[y1:y2, x1:x2] = level
    y, x = np.indices(grey.shape)
    grey += np.where(grey > 0, (7 * x + 13 * y + x * y) % 9 - (grey > 246) * 9, 0)
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


class Pictures(ImageCache):
    """The pictures of situations, by ``name:number``. ``method``: of inpainting."""

    def __init__(self, situations: Mapping[str, Mapping], method: str = "telea"):
        super().__init__(None, method)
        self.situations = situations

    def _open(self, path: str) -> np.ndarray:
        name, _, number = path.partition(":")
        return drawn(self.situations[name]["pictures"][int(number) - 1])


class World:
    """In place of a model: answers rest on what the situation says (``needs``, ``fickle``), and on
    nothing else."""

    def __init__(self, situations: Mapping[str, Mapping], pictures: Pictures):
        self.situations, self.pictures = situations, pictures

    def effect(self, case: Case) -> Effect:
        """As :func:`kit.counterfactual.probe.probe` would measure it."""
        without = [self.probability(case.image, r) for r in (case.evidence, *case.controls)]
        return Effect(CERTAIN, without[0], tuple(without[1:]))

    def probability(self, shown: Shown, without: Boxes) -> float:
        """Of any answer: less by each ``drop``, as far as its box is taken out, and by ``fickle``
        for a change of 100 grey levels a pixel, wherever."""
        situation = self.situations[paths_of(shown)[0].partition(":")[0]]
        canvas, left = self.pictures.canvas(shown), CERTAIN
        gone = mask_of(without, canvas.size)
        for need in situation["needs"]:
            there = mask_of(
                [tuple(map(int, canvas.place(need["box"], need["image"])))], canvas.size
            )
            left -= need["drop"] * float((gone & there).sum() / there.sum())
        if situation["fickle"] and without:
            left -= situation["fickle"] * min(1.0, self.pictures.change(shown, without) / 100)
        return max(0.01, left)
