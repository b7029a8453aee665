"""Drawings of plain shapes in the SLAKE layout, to teach the tiny base model to see.

They hold the visual primitives of the phantoms (ellipses within ellipses, spots on textured
ground, bright, grey and dark) and questions of the same form, and no medical word.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from kit.data.phantom.drawing import Canvas, Frame, bounding_box, ellipse, smooth, wobble
from kit.data.phantom.layout import Drawn, Picture, Question, numbers, write_slake

SHAPES = ("Disc", "Ring", "Square", "Triangle", "Bar", "Cross", "Ellipse")
_LEVELS = {"White": 228.0, "Gray": 128.0, "Black": 20.0}
_IMAGES = {"train": 400, "validate": 30, "test": 60}
_FEWEST, _MOST = 6, 10


@dataclass(frozen=True)
class _Shape:
    """A drawn shape; ``radius`` of the circle around it and ``middle`` in pixels."""

    label: str
    tone: str
    middle: tuple[float, float]
    radius: float
    quadrant: str
    cover: np.ndarray

    @property
    def name(self) -> str:
        return self.label.lower()

    @property
    def area(self) -> float:
        return float(self.cover.sum())


def write_shapes(root: str | Path, *, images: dict[str, int] | None = None, seed: int = 0) -> None:
    """Write drawings of shapes in the original SLAKE layout under ``root``.

    ``images`` counts them by split (default: 400 train, 30 validate, 60 test). A drawing follows
    from the seed and its number alone.

    Raises:
        UserError: the folder cannot be written.
        ValueError: unknown split or a count out of range.
    """
    images = _IMAGES if images is None else images
    splits = {split: numbers(split, count) for split, count in images.items()}
    write_slake(
        Path(root),
        {split: ((n, draw_shapes(n, seed=seed)) for n in own) for split, own in splits.items()},
    )


def draw_shapes(number: int, *, seed: int) -> Drawn:
    """The drawing of this number and its questions."""
    rng = np.random.default_rng([seed, 2, number])
    width, height = (int(v) for v in rng.integers(160, 225, 2))
    canvas = Canvas(width, height, level=0, rng=rng)
    ground = _draw_ground(canvas)
    shapes = _draw_some(canvas, ground, 1 + number % 4)
    pixels = canvas.finish(
        blur=rng.uniform(0.5, 1.0),
        noise=rng.uniform(3, 8),
        gain=rng.uniform(0.9, 1.08),
        offset=rng.uniform(-6, 8),
    )
    boxes = tuple((shape.label, bounding_box(shape.cover)) for shape in shapes)
    mask = np.zeros(pixels.shape, np.uint8)
    for shape in shapes:
        mask[shape.cover >= 0.5] = 20 + 30 * SHAPES.index(shape.label)
    picture = Picture(pixels, "Drawing", "Canvas", boxes, mask)
    return picture, _choose(list(_ask(shapes, rng)), rng)


def _draw_ground(canvas: Canvas) -> np.ndarray:
    """A gradient, clouds or ellipses within ellipses, in levels no shape has.

    Returns the level on which shapes will lie, ``(height, width)``.
    """
    rng = canvas.rng
    level = float(rng.choice([74, 178]))
    style = rng.integers(3)
    rows, columns = np.mgrid[0 : canvas.height, 0 : canvas.width].astype(np.float32)
    if style == 0:
        slope = rng.uniform(-14, 14, 2)
        canvas.pixels[:] = level + slope[0] * (rows / canvas.height - 0.5)
        canvas.pixels += slope[1] * (columns / canvas.width - 0.5)
    elif style == 1:
        canvas.pixels[:] = level + 9 * canvas.clouds(int(rng.integers(5, 16)))
    else:
        _draw_nest(canvas, level)
    return cv2.GaussianBlur(canvas.pixels, (0, 0), 3)


def _draw_nest(canvas: Canvas, level: float) -> None:
    """Ellipses within ellipses: a dark surround, a rim, a textured inside with faint lobes."""
    rng = canvas.rng
    canvas.pixels[:] = 5
    radii = canvas.width * rng.uniform(0.4, 0.49), canvas.height * rng.uniform(0.4, 0.49)
    frame = Frame((canvas.width / 2, canvas.height / 2), radii, rng.uniform(-0.2, 0.2))
    canvas.fill(frame.to_pixels(ellipse(0, 0, 1, 1)), rng.choice([40.0, 200.0]))
    canvas.fill(frame.to_pixels(ellipse(0, 0, 0.95, 0.95)), level, texture=7)
    for _ in range(rng.integers(0, 4)):
        x, y = rng.uniform(-0.5, 0.5, 2)
        lobe = wobble(ellipse(x, y, *rng.uniform(0.2, 0.45, 2), points=12), 0.03, rng)
        canvas.fill(frame.to_pixels(smooth(lobe, 2)), level + rng.uniform(-22, 22), texture=5)


def _draw_some(canvas: Canvas, ground: np.ndarray, count: int) -> list[_Shape]:
    """Up to ``count`` shapes that do not touch, none on ground of its own level."""
    rng = canvas.rng
    side = min(canvas.width, canvas.height)
    shapes: list[_Shape] = []
    for _ in range(60):
        if len(shapes) == count:
            break
        label = str(rng.choice(SHAPES))
        tone = str(rng.choice(list(_LEVELS)))
        radius = side * float(np.exp(rng.uniform(math.log(0.06), math.log(0.17))))
        quadrant = np.array(rng.integers(0, 2, 2))
        span = np.array([canvas.width, canvas.height])
        low = quadrant * span / 2 + np.where(quadrant == 0, radius + 3, radius * 0.6)
        high = (quadrant + 1) * span / 2 - np.where(quadrant == 0, radius * 0.6, radius + 3)
        if (high <= low).any():
            continue
        x, y = (float(v) for v in rng.uniform(low, high))
        near = any(math.dist((x, y), s.middle) < radius + s.radius + 4 for s in shapes)
        if near or abs(ground[int(y), int(x)] - _LEVELS[tone]) < 35:
            continue
        cover = _draw_shape(canvas, label, tone, (x, y), radius)
        name = f"{('Upper', 'Lower')[quadrant[1]]} {('Left', 'Right')[quadrant[0]]}"
        shapes.append(_Shape(label, tone, (x, y), radius, name, cover))
    return shapes


_CORNERS = {
    "Square": [(-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7)],
    "Triangle": [(0, -1), (0.87, 0.5), (-0.87, 0.5)],
    "Bar": [(-1, -0.22), (1, -0.22), (1, 0.22), (-1, 0.22)],
    "Cross": [
        *((-0.28, -1), (0.28, -1), (0.28, -0.28), (1, -0.28), (1, 0.28), (0.28, 0.28)),
        *((0.28, 1), (-0.28, 1), (-0.28, 0.28), (-1, 0.28), (-1, -0.28), (-0.28, -0.28)),
    ],
}


def _draw_shape(
    canvas: Canvas, label: str, tone: str, middle: tuple[float, float], radius: float
) -> np.ndarray:
    """Draw a shape around its middle; returns what it covers."""
    rng = canvas.rng
    turn = rng.uniform(0, 2 * math.pi) if label in ("Bar", "Ellipse") else rng.uniform(-0.2, 0.2)
    frame = Frame(middle, (radius, radius), turn)
    level = _LEVELS[tone] + rng.uniform(-8, 8)
    corners = _CORNERS.get(label, ellipse(0, 0, 1, 0.5 if label == "Ellipse" else 1))
    cover = canvas.cover(frame.to_pixels(corners))
    hole = canvas.cover(frame.to_pixels(ellipse(0, 0, 0.6, 0.6))) if label == "Ring" else 0
    canvas.blend(cover * (1 - hole), level)
    return cover


_Asked = Iterator[tuple[float, Question]]


def _ask(shapes: list[_Shape], rng: np.random.Generator) -> _Asked:
    """(probability, question), the rarer answers asked for more often."""
    labels = [shape.label for shape in shapes]
    there = sorted(set(labels))
    absent = [label for label in SHAPES if label not in labels]
    wording = ("Is there a {0} in this image?", "Does the picture contain {0}?")
    for label in (str(rng.choice(there)), str(rng.choice(absent))):
        text = wording[rng.integers(2)].format(label.lower())
        answer = "Yes" if label in labels else "No"
        yield 0.5, Question("presence", text, answer, "Organ", "CLOSED")
    text = "How many shapes are there in this image?"
    yield 0.8, Question("count", text, str(len(shapes)), "Quantity", "OPEN")
    label = str(rng.choice(there if rng.random() < 0.7 else absent))
    plural = "crosses" if label == "Cross" else f"{label.lower()}s"
    text = f"How many {plural} are there in this image?"
    count = labels.count(label)
    yield 0.4 if count < 2 else 1.0, Question("count", text, str(count), "Quantity", "OPEN")
    single = [shape for shape in shapes if labels.count(shape.label) == 1]
    for shape in single:
        yield from _ask_one(shape, shapes, rng)
    yield from _ask_sizes(shapes, single, rng)


def _ask_one(shape: _Shape, shapes: list[_Shape], rng: np.random.Generator) -> _Asked:
    """A shape that is the only one of its label: where, which color, which shape."""
    wording = (
        "In which quadrant of the image is the {0}?",
        "Which quarter of the image shows the {0}?",
    )
    text = wording[rng.integers(2)].format(shape.name)
    yield 0.6, Question("quadrant", text, shape.quadrant, "Position", "OPEN")
    wording = ("What color is the {0}?", "What is the color of the {0} in this image?")
    text = wording[rng.integers(2)].format(shape.name)
    yield 0.5, Question("color", text, shape.tone, "Color", "OPEN")
    if [other.quadrant for other in shapes].count(shape.quadrant) == 1:
        text = f"What is the shape in the {shape.quadrant.lower()} of the image?"
        yield 0.5, Question("shape", text, shape.label, "Shape", "OPEN")
    if [other.tone for other in shapes].count(shape.tone) == 1:
        text = f"What shape is the {shape.tone.lower()} object?"
        yield 0.5, Question("shape", text, shape.label, "Shape", "OPEN")


def _ask_sizes(shapes: list[_Shape], single: list[_Shape], rng: np.random.Generator) -> _Asked:
    if len(shapes) > 1:
        first, second = sorted(shapes, key=lambda shape: shape.area, reverse=True)[:2]
        if first.area > 1.25 * second.area:
            text = "What is the largest shape in the picture?"
            yield 0.5, Question("largest", text, first.label, "Size", "OPEN")
            text = "In which quadrant of the image is the largest shape?"
            yield 0.4, Question("quadrant", text, first.quadrant, "Position", "OPEN")
    if len(single) > 1:
        one, two = (single[i] for i in rng.permutation(len(single))[:2])
        if max(one.area, two.area) > 1.25 * min(one.area, two.area):
            bigger = one.label if one.area > two.area else two.label
            text = f"Which is bigger in this image, {one.name} or {two.name}?"
            yield 0.7, Question("bigger", text, bigger, "Size", "CLOSED")


def _choose(asked: list[tuple[float, Question]], rng: np.random.Generator) -> list[Question]:
    luck = rng.random(len(asked))
    order = sorted(range(len(asked)), key=lambda i: luck[i] / asked[i][0])
    wanted = sum(luck[i] < asked[i][0] for i in order)
    chosen = sorted(order[: min(_MOST, max(_FEWEST, wanted))])
    return list({asked[i][1].question: asked[i][1] for i in chosen}.values())
