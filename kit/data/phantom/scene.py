"""A body being drawn: organs remembered by name, and what all cross-sections of a trunk share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import ArrayLike

from kit.data.phantom.drawing import Canvas, Frame, ellipse, smooth


@dataclass(frozen=True)
class Organ:
    """A drawn organ: what can be seen of it, ``(height, width)`` in 0..1, and its tone.

    ``tone`` is White, Gray or Black where a question may ask for it, else "".
    """

    label: str
    cover: np.ndarray
    tone: str = ""

    @property
    def area(self) -> float:
        """Pixels covered."""
        return float(self.cover.sum())


@dataclass
class Scene:
    """A body being drawn. ``facts`` are what questions may ask beside organs and lesions."""

    kind: str
    canvas: Canvas
    frame: Frame
    rng: np.random.Generator
    organs: list[Organ] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)

    def tissue(
        self, outline: ArrayLike, level: float, *, texture: float = 0.0, soft: float = 0.0
    ) -> None:
        """Fill an outline given in unit coordinates."""
        self.canvas.fill(self.frame.to_pixels(outline), level, texture=texture, soft=soft)

    def organ(
        self,
        label: str,
        outline: ArrayLike,
        level: float,
        *,
        texture: float = 5.0,
        soft: float = 0.0,
        tone: str = "",
    ) -> Organ:
        """Draw an organ and remember where it is."""
        self.tissue(outline, level, texture=texture, soft=soft)
        cover = self.hide(outline, soft=soft)
        organ = Organ(label, cover, tone)
        self.organs.append(organ)
        return organ

    def hide(self, outline: ArrayLike, *, soft: float = 0.0) -> np.ndarray:
        """Take what an outline covers out of the organs drawn so far; returns what it covers."""
        cover = self.canvas.cover(self.frame.to_pixels(outline), soft=soft)
        self.organs = [replace(organ, cover=organ.cover * (1 - cover)) for organ in self.organs]
        return cover

    def line(
        self,
        points: ArrayLike,
        level: float,
        thickness: int,
        *,
        soft: float = 0.0,
        strength: float = 1.0,
    ) -> None:
        """Draw an open line given in unit coordinates."""
        cover = self.canvas.stroke(self.frame.to_pixels(points), thickness)
        if soft:
            cover = cv2.GaussianBlur(cover, (0, 0), soft)
        self.canvas.blend(cover, level, strength)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < probability)


def open_scene(
    kind: str,
    rng: np.random.Generator,
    *,
    size: tuple[int, int],
    radii: tuple[float, float],
    level: float,
) -> Scene:
    """``size``: width and height before jitter, ``radii``: the body's, as parts of the size."""
    width, height = (int(s + rng.integers(-10, 11)) for s in size)
    scale = rng.uniform(0.84, 1.0)
    reach = width * radii[0] * scale, height * radii[1] * scale
    slack = [max(0.0, side / 2 - r - 2) for side, r in zip((width, height), reach, strict=True)]
    centre = (
        width / 2 + slack[0] * rng.uniform(-0.75, 0.75),
        height / 2 + slack[1] * rng.uniform(-0.75, 0.75),
    )
    frame = Frame(centre, reach, rng.uniform(-0.1, 0.1))
    return Scene(kind, Canvas(width, height, level=level, rng=rng), frame, rng)


def draw_trunk(scene: Scene, *, fat: float, muscle: float) -> None:
    """Skin, fat, muscle wall, ribs and the scanner's table of a cross-section."""
    rng = scene.rng
    if scene.chance(0.6):
        below = np.linspace(-0.9, 0.9, 24)
        depth = rng.uniform(1.12, 1.25)
        scene.line(np.stack([below, depth + 0.1 * (1 - below**2)], axis=1), 120, 1)
    scene.tissue(ellipse(0, 0, 1, 1), muscle + 20)
    scene.tissue(ellipse(0, 0, 0.975, 0.97), fat, texture=4)
    wall = 0.9 - rng.uniform(0, 0.06)
    scene.tissue(ellipse(0, 0, wall, wall), muscle, texture=5)
    for angle in np.arange(0.2, 2 * math.pi, 0.52) + rng.uniform(-0.1, 0.1):
        x, y = 0.87 * math.cos(angle), 0.86 * math.sin(angle)
        if y < 0.7 and abs(x) > 0.2:
            scene.tissue(ellipse(x, y, 0.075, 0.03, angle + math.pi / 2), 225)


def draw_spine(scene: Scene, y: float) -> None:
    """A vertebra with its canal; the cord in it is the organ."""
    level = scene.rng.uniform(205, 235)
    process = [(-0.05, y + 0.1), (0.05, y + 0.1), (0.02, y + 0.36), (-0.02, y + 0.36)]
    scene.tissue(smooth(process, 1), level)
    wings = [(-0.26, y + 0.2), (0, y + 0.1), (0.26, y + 0.2), (0.1, y + 0.24), (-0.1, y + 0.24)]
    scene.tissue(smooth(wings, 2), level)
    scene.tissue(ellipse(0, y, 0.135, 0.135), level, texture=10)
    scene.organ("Spinal Cord", ellipse(0, y + 0.165, 0.06, 0.07), 110, texture=0)
