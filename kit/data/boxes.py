"""Boxes: original pixels in records, a 0..1000 integer grid in the model's JSON.

The grid is Qwen2-VL's own grounding convention (arXiv 2409.12191, section 3). This is the only
module that converts between the two, and from what others write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

GRID = 1000

# What the four numbers of a box count: thousandths of the image's sides, pixels of the image as it
# is, pixels of it as it was resized for the model (Qwen2.5-VL, arXiv 2502.13923), shares of sides.
Convention = Literal["grid_1000", "pixels", "resized_pixels", "unit"]
CONVENTIONS: tuple[str, ...] = get_args(Convention)


def box_to_pixels(
    box: tuple[float, ...],
    convention: Convention,
    image_size: tuple[int, int],
    resized: tuple[int, int] | None = None,
) -> tuple[float, float, float, float]:
    """``(x1, y1, x2, y2)`` in any convention to pixels of a ``(width, height)`` image.

    ``resized``: its ``(width, height)`` for the model, which ``resized_pixels`` alone needs.

    >>> box_to_pixels((0.25, 0.2, 0.5, 0.4), "unit", (200, 100))
    (50.0, 20.0, 100.0, 40.0)
    >>> box_to_pixels((28, 28, 56, 56), "resized_pixels", (200, 100), (112, 56))
    (50.0, 50.0, 100.0, 100.0)
    """
    whole = _sides(convention, image_size, resized)
    x1, y1, x2, y2 = (
        value * side / of for value, side, of in zip(box, image_size * 2, whole * 2, strict=True)
    )
    return x1, y1, x2, y2


def _sides(
    convention: Convention, image_size: tuple[int, int], resized: tuple[int, int] | None
) -> tuple[int, int]:
    """The width and the height of the whole image in what a convention counts."""
    sides = {
        "grid_1000": (GRID, GRID),
        "pixels": image_size,
        "resized_pixels": resized,
        "unit": (1, 1),
    }[convention]
    return sides[0], sides[1]


@dataclass(frozen=True)
class Frame:
    """What the numbers of the boxes of one image count.

    ``image_size`` is its ``(width, height)``, ``resized`` that of it as the model sees it.
    """

    convention: Convention = "grid_1000"
    image_size: tuple[int, int] = (GRID, GRID)
    resized: tuple[int, int] | None = None

    def holds(self, box: list) -> bool:
        """Whether four numbers are a box within the image and not inverted. The grid has integers
        alone, which may be written with a point: 10.0 is the same JSON number as 10.

        >>> Frame().holds([0, 0, 10.0, 20]), Frame().holds([0, 0, 10.5, 20])
        (True, False)
        >>> Frame("pixels", (2000, 600)).holds([900, 0, 1800.5, 20])
        True
        """
        sides = _sides(self.convention, self.image_size, self.resized)
        if any(not 0 <= v <= side for v, side in zip(box, sides * 2, strict=True)):
            return False
        if self.convention == "grid_1000" and any(v != int(v) for v in box):
            return False
        return box[0] < box[2] and box[1] < box[3]

    def to_grid(self, box: list) -> tuple[int, int, int, int]:
        """A box that this frame holds on the grid.

        >>> Frame("resized_pixels", (200, 100), (112, 56)).to_grid([28, 28, 56, 56])
        (250, 500, 500, 1000)
        """
        if self.convention == "grid_1000":
            x1, y1, x2, y2 = map(int, box)
        else:
            pixels = box_to_pixels(tuple(box), self.convention, self.image_size, self.resized)
            x1, y1, x2, y2 = pixels_to_grid(pixels, self.image_size)
        return x1, y1, x2, y2


ON_GRID = Frame()


def xywh_to_xyxy(box: list[float]) -> tuple[float, float, float, float]:
    """``(x, y, width, height)`` from the top-left corner to ``(x1, y1, x2, y2)``.

    >>> xywh_to_xyxy([33.0, 67.0, 98.0, 108.0])
    (33.0, 67.0, 131.0, 175.0)
    """
    x, y, width, height = (float(v) for v in box)
    return x, y, x + width, y + height


def pixels_to_grid(box: tuple[float, ...], image_size: tuple[int, int]) -> list[int]:
    """``(x1, y1, x2, y2)`` in pixels of a ``(width, height)`` image to integers on the grid.

    Values are clipped to 0..1000; a side thinner than one grid step is widened to one.

    >>> pixels_to_grid((50, 20, 100, 40), (200, 100))
    [250, 200, 500, 400]
    """
    width, height = image_size
    x1, y1, x2, y2 = (
        min(GRID, max(0, round(v * GRID / side)))
        for v, side in zip(box, (width, height, width, height), strict=True)
    )
    if x2 <= x1:
        x1 = min(x1, GRID - 1)
        x2 = x1 + 1
    if y2 <= y1:
        y1 = min(y1, GRID - 1)
        y2 = y1 + 1
    return [x1, y1, x2, y2]


def grid_to_pixels(
    box: list[int], image_size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Integers on the grid to ``(x1, y1, x2, y2)`` in pixels of a ``(width, height)`` image.

    >>> grid_to_pixels([250, 200, 500, 400], (200, 100))
    (50.0, 20.0, 100.0, 40.0)
    """
    return box_to_pixels(tuple(box), "grid_1000", image_size)
