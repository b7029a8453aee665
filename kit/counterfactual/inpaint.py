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
    height, width = pixels.shape[:2]
    mask = mask_of(boxes, (width, height))
    if not mask.any():
        return pixels.copy()
    if method in ("telea", "ns"):
        filled = _by_opencv(pixels, mask, method)
    elif method == "blur":
        filled = _blurred(pixels, boxes)
    elif method == "mean":
        rest = pixels[~mask] if not mask.all() else np.zeros((1, 3))
        filled = np.broadcast_to(np.rint(rest.mean(axis=0)).astype(np.uint8), pixels.shape)
    else:
        raise ValueError(f"no method {method!r}: choose from {', '.join(METHODS)}")
    return np.where(mask[..., None], filled, pixels)


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
    """OpenCV's inpainting of the part that holds the mask: what is further away plays no role."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    down = slice(max(0, rows[0] - _RADIUS - 1), rows[-1] + _RADIUS + 2)
    across = slice(max(0, columns[0] - _RADIUS - 1), columns[-1] + _RADIUS + 2)
    part = np.ascontiguousarray(pixels[down, across])
    filled = pixels.copy()
    hole = np.ascontiguousarray(mask[down, across]).astype(np.uint8)
    filled[down, across] = cv2.inpaint(part, hole, _RADIUS, flag)
    return filled


def _blurred(pixels: np.ndarray, boxes: Sequence[PixelBox]) -> np.ndarray:
    """As wide as the boxes. A wide blur is made on a smaller copy, where it takes a hundredth of
    the time and gives the same picture."""
    height, width = pixels.shape[:2]
    sigma = max(2.0, max(max(x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes) / 2)
    shrink = max(1.0, sigma / _WIDEST_BLUR)
    small = max(1, round(width / shrink)), max(1, round(height / shrink))
    copy = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(copy, (0, 0), sigma / shrink)
    return cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)
