"""The embedded dataset: made-up scans with organs and lesions, in two original layouts.

Every picture follows from the seed and its number alone, so a longer dataset begins with the
shorter one, byte for byte.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kit.data.phantom_anatomy import KINDS, Scene, draw_body
from kit.data.phantom_drawing import bounding_box
from kit.data.phantom_layout import Drawn, Picture, numbers, write_slake
from kit.data.phantom_lesions import Lesion, add_lesions
from kit.data.phantom_questions import ask

# Grey codes of the masks; those of SLAKE where it has the label.
_CODES = {
    "Liver": 70,
    "Spleen": 230,
    "Left Kidney": 135,
    "Right Kidney": 155,
    "Spinal Cord": 145,
    "Stomach": 235,
    "Heart": 180,
    "Left Lung": 215,
    "Right Lung": 225,
    "Trachea": 75,
    "Brain": 20,
    "Left Ventricle": 30,
    "Right Ventricle": 35,
    "Left Eye": 80,
    "Right Eye": 90,
    "Liver Cancer": 175,
}
_LESION_CODE = 245
_LOCATIONS = {
    "CT abdomen": ("CT", "Abdomen"),
    "CT lung": ("CT", "Lung"),
    "MRI brain": ("MRI", "Brain"),
    "X-ray chest": ("X-Ray", "Lung"),
}
_LESION_COUNTS = (0, 0, 1, 2)
_IMAGES = {"train": 200, "validate": 30, "test": 60}


def write_slake_phantoms(
    root: str | Path, *, images: dict[str, int] | None = None, seed: int = 0
) -> None:
    """Write phantoms in the original SLAKE layout under ``root``.

    ``images`` counts them by split (default: 200 train, 30 validate, 60 test).

    Raises:
        UserError: the folder cannot be written.
        ValueError: unknown split or a count out of range.
    """
    images = _IMAGES if images is None else images
    splits = {split: numbers(split, count) for split, count in images.items()}
    write_slake(
        Path(root),
        {split: ((n, draw_phantom(n, seed=seed)) for n in own) for split, own in splits.items()},
    )


def draw_phantom(number: int, *, seed: int) -> Drawn:
    """The picture of this number and its questions."""
    scene, lesions, rng = draw_scene(number, seed=seed)
    blur = 1.0 if scene.kind == "X-ray chest" else rng.uniform(0.5, 0.75)
    pixels = scene.canvas.finish(
        blur=blur,
        noise=rng.uniform(4, 8),
        gain=rng.uniform(0.88, 1.08),
        offset=rng.uniform(-6, 8),
    )
    return _picture(scene, lesions, pixels), ask(scene, lesions, rng)


def draw_scene(number: int, *, seed: int) -> tuple[Scene, list[Lesion], np.random.Generator]:
    """The body and lesions of this number, before the scanner's blur and noise.

    Sixteen neighbours hold every kind of scan with every count of lesions.
    """
    cells = len(KINDS) * len(_LESION_COUNTS)
    block = np.random.default_rng([seed, 0, number // cells])
    cell = int(block.permutation(cells)[number % cells])
    rng = np.random.default_rng([seed, 1, number])
    scene = draw_body(KINDS[cell % len(KINDS)], rng)
    return scene, add_lesions(scene, _LESION_COUNTS[cell // len(KINDS)]), rng


def _picture(scene: Scene, lesions: list[Lesion], pixels: np.ndarray) -> Picture:
    parts = [(o.label, o.cover, _CODES[o.label]) for o in scene.organs]
    parts += [(x.label, x.cover, _CODES.get(x.label, _LESION_CODE)) for x in lesions]
    modality, location = _LOCATIONS[scene.kind]
    mask = np.zeros(pixels.shape, np.uint8)
    for _, cover, code in parts:
        mask[cover >= 0.5] = code
    boxes = tuple((label, bounding_box(cover)) for label, cover, _ in parts)
    return Picture(pixels, modality, location, boxes, None if modality == "X-Ray" else mask)
