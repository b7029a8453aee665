"""Taking a part of an image away.

None of the four ways is right alone: OpenCV's two inpaintings continue what lies around, a blur
keeps what is coarse, and the mean leaves a visible patch. A finding that holds for one only is a
finding about that one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import cv2
import numpy as np

from kit.counterfactual.regions import PixelBox, mask_of

Method = Literal["telea", "ns", "blur", "mean"]

METHODS: tuple[str, ...] = get_args(Method)

_RADIUS = 3  # pixels around a place that OpenCV looks at to fill it
_WIDEST_BLUR = 8.0  # standard deviation in pixels
_LARGEST = 512  # longer sides are inpainted at this size and put back: the time grows with area


def inpaint(pixels: np.ndarray, boxes: Sequence[PixelBox], method: str = "telea") -> np.ndarray:
    """A copy of an image in which nothing of the boxes is left; outside of them it is unchanged.

    Args:
        pixels: ``(height, width, 3)`` uint8.
        boxes: whole pixels, as ``kit.counterfactual.regions`` gives them.
        method: ``telea`` (Telea 2004) and ``ns`` (Navier-Stokes, Bertalmio et al. 2001) by
            OpenCV, ``blur`` (Gaussian, as wide as the boxes), ``mean`` (the mean colour of what
            is left).

    >>> image = np.full((8, 8, 3), 50, np.uint8)
    >>> image[2:4, 2:4] = 255
    >>> [int(inpaint(image, [(2, 2, 4, 4)], m)[3, 3, 0]) for m in ("ns", "mean")]
    [50, 50]
    """
    result = pixels.copy()
    mask = mask_of(boxes, (pixels.shape[1], pixels.shape[0]))
    if mask.any():
        rows, columns = _window(mask)
        hole = mask[rows, columns]
        result[rows, columns][hole] = _fill(pixels, boxes, mask, method)[rows, columns][hole]
    return result


def mean_change(pixels: np.ndarray, boxes: Sequence[PixelBox], method: str = "telea") -> float:
    """How far the removal of boxes changes a pixel of them on average, in grey levels (0..255).

    >>> image = np.full((8, 8, 3), 50, np.uint8)
    >>> image[2:4, 2:4] = 150
    >>> mean_change(image, [(2, 2, 4, 4)], "ns"), mean_change(image, [(5, 5, 8, 8)], "ns")
    (100.0, 0.0)
    """
    return change_within(boxes, pixels, inpaint(pixels, boxes, method))


def change_within(boxes: Sequence[PixelBox], before: np.ndarray, after: np.ndarray) -> float:
    """How far a pixel of the boxes differs on average between two images of a size."""
    mask = mask_of(boxes, (before.shape[1], before.shape[0]))
    rows, columns = _window(mask)
    hole = mask[rows, columns]
    filled = after[rows, columns][hole].astype(np.float32)
    return float(np.abs(filled - before[rows, columns][hole]).mean())


def _fill(
    pixels: np.ndarray, boxes: Sequence[PixelBox], mask: np.ndarray, method: str
) -> np.ndarray:
    """What takes the place of the pixels of a mask that is not empty, in an image of the size."""
    if method in ("telea", "ns"):
        return _by_opencv(pixels, mask, method)
    if method == "blur":
        return _blurred(pixels, boxes)
    if method == "mean":
        rest = pixels[~mask] if not mask.all() else np.zeros((1, 3))
        return np.broadcast_to(np.rint(rest.mean(axis=0)).astype(np.uint8), pixels.shape)
    raise ValueError(f"no method {method!r}: choose from {', '.join(METHODS)}")


def _window(mask: np.ndarray, margin: int = 0) -> tuple[slice, slice]:
    """Rows and columns of a mask that is not empty, and so many more on each side."""
    ends = (np.flatnonzero(mask.any(axis=axis))[[0, -1]] for axis in (1, 0))
    return tuple(slice(max(0, first - margin), last + margin + 1) for first, last in ends)


def _by_opencv(pixels: np.ndarray, mask: np.ndarray, method: str) -> np.ndarray:
    height, width = mask.shape
    flag = cv2.INPAINT_TELEA if method == "telea" else cv2.INPAINT_NS
    scale = min(1.0, _LARGEST / max(height, width))
    if scale == 1.0:
        return _around(pixels, mask, flag)
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    # a pixel of the small image that holds any of the boxes is filled too
    holes = cv2.resize(mask.astype(np.float32), small, interpolation=cv2.INTER_AREA) > 0
    reduced = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
    filled = _around(reduced, holes, flag)
    return cv2.resize(filled, (width, height), interpolation=cv2.INTER_LINEAR)


def _around(pixels: np.ndarray, mask: np.ndarray, flag: int) -> np.ndarray:
    """OpenCV's inpainting of the part that holds the mask: what is further away plays no role. It
    fills each channel by itself, so those of a grey part are filled once."""
    rows, columns = _window(mask, _RADIUS + 1)
    part = pixels[rows, columns]
    if (part == part[..., :1]).all():
        part = part[..., :1]
    part = np.ascontiguousarray(part)
    filled = pixels.copy()
    hole = np.ascontiguousarray(mask[rows, columns]).astype(np.uint8)
    filled[rows, columns] = cv2.inpaint(part, hole, _RADIUS, flag).reshape(part.shape)
    return filled


def _blurred(pixels: np.ndarray, boxes: Sequence[PixelBox]) -> np.ndarray:
    """As wide as the boxes. A wide blur is made on a smaller copy, where it takes a hundredth of
    the time and gives the same picture to two grey levels; its border is mirrored with its last
    pixel, which is many of the whole image."""
    height, width = pixels.shape[:2]
    sigma = max(2.0, max(max(x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes) / 2)
    shrink = max(1.0, sigma / _WIDEST_BLUR)
    small = max(1, round(width / shrink)), max(1, round(height / shrink))
    copy = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(copy, (0, 0), sigma / shrink, borderType=cv2.BORDER_REFLECT)
    return cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)
