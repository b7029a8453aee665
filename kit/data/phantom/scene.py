"""A body being drawn: organs remembered by name, and what all cross-sections of a trunk share."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Set
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
    """A body being drawn. ``facts`` are what questions may ask beside organs and lesions.

    ``without`` names things that are left out: what chance decides is decided as if they were
    there (``organs`` are those of the whole body), so that nothing else is drawn otherwise.
    ``things`` are those of a whole body by name: how far the drawing of each changed a pixel, in
    grey levels, as far as no organ was drawn over it, ``(height, width)``.
    """

    kind: str
    canvas: Canvas
    frame: Frame
    rng: np.random.Generator
    without: Set[str] = frozenset()
    organs: list[Organ] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    things: dict[str, np.ndarray] = field(default_factory=dict)
    parts: int = 0

    @contextlib.contextmanager
    def thing(self, name: str) -> Iterator[None]:
        """What is drawn meanwhile is a thing of this name, or left out."""
        before = self.canvas.pixels.copy()
        yield
        if name in self.without:
            self.canvas.pixels = before
        elif not self.without:
            change = np.abs(self.canvas.pixels - before)
            if change.any():
                self.things[name] = change

    def part(self) -> contextlib.AbstractContextManager[None]:
        """What is drawn meanwhile is a thing that nobody asks for."""
        self.parts += 1
        return self.thing(f"part {self.parts}")

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """What is drawn meanwhile takes no random number from what follows."""
        kept, self.canvas.rng = self.canvas.rng, copy.deepcopy(self.canvas.rng)
        yield
        self.canvas.rng = kept

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
        with self.thing(label):
            self.tissue(outline, level, texture=texture, soft=soft)
        cover = self.hide(outline, soft=soft, label=label)
        organ = Organ(label, cover, tone)
        self.organs.append(organ)
        return organ

    def hide(self, outline: ArrayLike, *, soft: float = 0.0, label: str = "") -> np.ndarray:
        """Take what an outline covers out of the organs drawn so far; returns what it covers.
        ``label``: what is drawn there."""
        cover = self.canvas.cover(self.frame.to_pixels(outline), soft=soft)
        for name in self.things.keys() - {label}:
            self.things[name] = self.things[name] * (1 - cover)
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
    without: Set[str] = frozenset(),
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
    return Scene(kind, Canvas(width, height, level=level, rng=rng), frame, rng, without)


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
            with scene.part():
                scene.tissue(ellipse(x, y, 0.075, 0.03, angle + math.pi / 2), 225)


def draw_spine(scene: Scene, y: float) -> None:
    """A vertebra with its canal; the cord in it is the organ."""
    level = scene.rng.uniform(205, 235)
    process = [(-0.05, y + 0.1), (0.05, y + 0.1), (0.02, y + 0.36), (-0.02, y + 0.36)]
    with scene.part():
        scene.tissue(smooth(process, 1), level)
    wings = [(-0.26, y + 0.2), (0, y + 0.1), (0.26, y + 0.2), (0.1, y + 0.24), (-0.1, y + 0.24)]
    with scene.part():
        scene.tissue(smooth(wings, 2), level)
    scene.tissue(ellipse(0, y, 0.135, 0.135), level, texture=10)
    scene.organ("Spinal Cord", ellipse(0, y + 0.165, 0.06, 0.07), 110, texture=0)
