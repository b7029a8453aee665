"""Grey drawings from smooth outlines: the brush behind the phantoms.

Outlines are arrays of (x, y) points. A :class:`Frame` turns unit coordinates of a body (origin
in its middle, edge at distance 1, y down) into pixels; a :class:`Canvas` fills them antialiased.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike

_SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class Frame:
    """A turned and stretched unit disc on the image: centre and radii in pixels, turn in radians.

    >>> Frame((100.0, 80.0), (50.0, 40.0)).to_pixels([(0, 0), (1, 0), (0, -1)]).tolist()
    [[100.0, 80.0], [150.0, 80.0], [100.0, 40.0]]
    """

    centre: tuple[float, float]
    radii: tuple[float, float]
    turn: float = 0.0

    def to_pixels(self, outline: ArrayLike) -> np.ndarray:
        """``(n, 2)`` unit coordinates to ``(n, 2)`` pixels."""
        stretched = np.asarray(outline, dtype=float) * self.radii
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        return stretched @ np.array([[cos, sin], [-sin, cos]]) + self.centre


class Canvas:
    """A float grey image, ``pixels`` of shape ``(height, width)``, about 0 to 255."""

    def __init__(self, width: int, height: int, *, level: float, rng: np.random.Generator):
        self.width, self.height, self.rng = width, height, rng
        self.pixels = np.full((height, width), level, dtype=np.float32)

    def cover(self, outline: np.ndarray, *, soft: float = 0.0) -> np.ndarray:
        """How much of each pixel lies inside a closed outline, 0 to 1; ``soft`` blurs the edge."""
        window = self._window(outline, soft)
        cover = np.zeros_like(self.pixels)
        cover[window] = self._stencil(outline, window, soft)
        return cover

    def stroke(self, points: np.ndarray, thickness: int) -> np.ndarray:
        """How much of each pixel lies on an open line, 0 to 1."""
        stencil = np.zeros((self.height, self.width), dtype=np.uint8)
        points = np.round(points * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        cv2.polylines(stencil, [points], False, 255, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
        return stencil.astype(np.float32) / 255

    def blend(self, cover: np.ndarray, level: float | np.ndarray, strength: float = 1.0) -> None:
        """Move the covered pixels towards ``level``, all the way at strength 1."""
        self.pixels += cover * strength * (level - self.pixels)

    def fill(
        self, outline: np.ndarray, level: float, *, texture: float = 0.0, soft: float = 0.0
    ) -> None:
        """Fill an outline with a level and a soft texture."""
        window = self._window(outline, soft)
        inside = self.pixels[window]
        cover = self._stencil(outline, window, soft)
        if texture:
            level = level + texture * _clouds(self.rng, inside.shape, 5)
        inside += cover * (level - inside)

    def clouds(self, grain: int) -> np.ndarray:
        """Smooth noise of about unit size whose blobs are ``grain`` pixels wide."""
        return _clouds(self.rng, self.pixels.shape, grain)

    def finish(self, *, blur: float, noise: float, gain: float, offset: float) -> np.ndarray:
        """The picture as the scanner gives it: blurred, noisy, windowed, ``uint8``."""
        picture = cv2.GaussianBlur(self.pixels, (0, 0), blur)
        grain = self.rng.standard_normal(picture.shape, dtype=np.float32)
        picture += noise * cv2.GaussianBlur(grain, (0, 0), 0.6)
        return np.clip(picture * gain + offset, 0, 255).round().astype(np.uint8)

    def _window(self, outline: np.ndarray, soft: float) -> tuple[slice, slice]:
        """The part of the image that an outline can touch, at least one pixel."""
        margin = 2 + math.ceil(4 * soft)
        low = np.floor(outline.min(axis=0)).astype(int) - margin
        high = np.ceil(outline.max(axis=0)).astype(int) + margin + 1
        left, top = np.clip(low, 0, (self.width - 1, self.height - 1))
        right, bottom = np.clip(high, (left + 1, top + 1), (self.width, self.height))
        return slice(top, bottom), slice(left, right)

    def _stencil(self, outline: np.ndarray, window: tuple[slice, slice], soft: float) -> np.ndarray:
        rows, columns = window
        shape = rows.stop - rows.start, columns.stop - columns.start
        stencil = np.zeros(shape, dtype=np.uint8)
        points = (outline - (columns.start, rows.start)) * (1 << _SUBPIXEL_BITS)
        points = np.round(points).astype(np.int32)
        cv2.fillPoly(stencil, [points], 255, lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS)
        cover = stencil.astype(np.float32) / 255
        return cv2.GaussianBlur(cover, (0, 0), soft) if soft else cover


def _clouds(rng: np.random.Generator, shape: tuple[int, ...], grain: int) -> np.ndarray:
    height, width = shape
    coarse = rng.standard_normal((height // grain + 2, width // grain + 2), dtype=np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def ellipse(
    x: float, y: float, radius_x: float, radius_y: float, turn: float = 0.0, points: int = 40
) -> np.ndarray:
    """The outline of an ellipse, ``(points, 2)``."""
    around = np.linspace(0, 2 * math.pi, points, endpoint=False)
    unit = np.stack([np.cos(around), np.sin(around)], axis=1)
    return Frame((x, y), (radius_x, radius_y), turn).to_pixels(unit)


def blob(
    x: float, y: float, radius: float, rng: np.random.Generator, roughness: float
) -> np.ndarray:
    """A lobed outline around a point; ``roughness`` 0 is a circle, 0.4 a splash."""
    around = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    lobes = sum(
        math.sqrt(2 / order) * np.sin(order * around + rng.uniform(0, 2 * math.pi))
        for order in (2, 3, 5)
    )
    reach = radius * (1 + roughness * lobes / np.abs(lobes).max())
    return np.stack([x + reach * np.cos(around), y + reach * np.sin(around)], axis=1)


def smooth(corners: ArrayLike, rounds: int = 3) -> np.ndarray:
    """A closed outline with its corners cut off (Chaikin 1974)."""
    points = np.asarray(corners, dtype=float)
    for _ in range(rounds):
        following = np.roll(points, -1, axis=0)
        early, late = 0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following
        points = np.stack([early, late], axis=1).reshape(-1, 2)
    return points


def wobble(corners: ArrayLike, amount: float, rng: np.random.Generator) -> np.ndarray:
    """The corners, each moved a little."""
    corners = np.asarray(corners, dtype=float)
    return corners + rng.uniform(-amount, amount, corners.shape)


def scaled(corners: ArrayLike, scale: float, about: tuple[float, float]) -> np.ndarray:
    """The corners drawn towards (or away from) a point."""
    return (np.asarray(corners, dtype=float) - about) * scale + about


def mirrored(corners: ArrayLike) -> np.ndarray:
    """The corners on the other side of the middle line x = 0."""
    return np.asarray(corners, dtype=float) * (-1, 1)


def bounding_box(cover: np.ndarray) -> tuple[int, int, int, int]:
    """``(x, y, width, height)`` in pixels of what is covered by half or more.

    >>> cover = np.zeros((6, 8)); cover[2:5, 1:3] = 1
    >>> bounding_box(cover)
    (1, 2, 2, 3)
    """
    return cv2.boundingRect((cover >= 0.5).astype(np.uint8))
