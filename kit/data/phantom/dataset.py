"""The embedded dataset: made-up scans with organs and lesions, in two original layouts.

Every picture follows from the seed and its number alone, so a longer dataset begins with the
shorter one, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Set
from dataclasses import replace
from pathlib import Path

import numpy as np

from kit.data.phantom.anatomy import KINDS, draw_body
from kit.data.phantom.causes import answer_without, causes_of, to_json
from kit.data.phantom.drawing import bounding_box
from kit.data.phantom.layout import Drawn, Picture, numbers, save_jpeg, write_slake
from kit.data.phantom.lesions import Lesion, add_lesions, lesion_name
from kit.data.phantom.questions import ask
from kit.data.phantom.rad import rad_rows, set_traps
from kit.data.phantom.scene import Scene
from kit.files import atomic_write, explain_os_error

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
_TWIN_NUMBERS = 1_000_000  # apart from those of phantoms
_RAD_NUMBERS = 400_000  # far from the numbers of the SLAKE layout: no image is in both
_IMAGES = {"train": 200, "validate": 30, "test": 60}


def write_slake_phantoms(
    root: str | Path,
    *,
    images: dict[str, int] | None = None,
    seed: int = 0,
    twins: Collection[str] = (),
) -> None:
    """Write phantoms in the original SLAKE layout under ``root``.

    ``images`` counts them by split (default: 200 train, 30 validate, 60 test). The splits that
    ``twins`` names hold, after these, the twins of each (:func:`draw_twins`).

    Raises:
        UserError: the folder cannot be written.
        ValueError: unknown split or a count out of range.
    """
    images = _IMAGES if images is None else images
    splits = {split: numbers(split, count) for split, count in images.items()}
    drawn = {split: _drawn(own, seed, with_twins=split in twins) for split, own in splits.items()}
    write_slake(Path(root), drawn)


def _drawn(own: Iterable[int], seed: int, *, with_twins: bool) -> Iterator[tuple[int, Drawn]]:
    for number in own:
        yield number, draw_phantom(number, seed=seed)
    for number in own if with_twins else ():
        yield from draw_twins(number, seed=seed)


def write_vqa_rad_phantoms(
    root: str | Path, *, images: int = 120, test_images: int = 60, seed: int = 0
) -> None:
    """Write phantoms in the original VQA-RAD layout under ``root``, with its documented traps.

    ``images`` have questions in the train split and ``test_images`` in the test split; as in the
    original, three in four of the test images are train images too.

    Raises:
        UserError: the folder cannot be written.
        ValueError: a count out of range.
    """
    root = Path(root)
    shared = min(images, round(0.75 * test_images))
    train, test_only = numbers("train", images), numbers("test", test_images - shared)
    rows: list[dict] = []
    try:
        (root / "VQA_RAD Image Folder").mkdir(parents=True, exist_ok=True)
        for number in [*train, *test_only]:
            own = _RAD_NUMBERS + number
            kind, _ = _cell(own, seed)
            rng = np.random.default_rng([seed, 3, own])
            picture, questions = draw_phantom(own, seed=seed)
            save_jpeg(picture.pixels, root / "VQA_RAD Image Folder" / f"synpic{own}.jpg")
            test = len(questions) if number in test_only else 0
            test = len(questions) // 3 if number < shared else test
            rows += rad_rows(own, kind, questions[:test], "test_", rng)
            rows += rad_rows(own, kind, questions[test:], "", rng)
        with atomic_write(root / "VQA_RAD Dataset Public.json") as stream:
            json.dump(set_traps(rows), stream, indent=0, ensure_ascii=False)
    except OSError as error:
        raise explain_os_error(error, root) from error


def draw_phantom(number: int, *, seed: int) -> Drawn:
    """The picture of this number and its questions."""
    scene, lesions, rng = draw_scene(number, seed=seed)
    picture = _picture(scene, lesions, _scanned(scene, rng))
    questions = ask(scene, lesions, rng)
    causes = to_json(*causes_of(questions, scene, lesions), number, seed)
    return replace(picture, causes=causes), questions


def draw_twins(number: int, *, seed: int) -> Iterator[tuple[int, Drawn]]:
    """The phantom of this number without what decides one of its questions, for each of which the
    answer is then known: its number, and those of the questions whose true answers are, some
    another one and some the same. A heart is not left out: organs behind it would come to light.
    """
    scene, lesions, rng = draw_scene(number, seed=seed)
    _scanned(scene, rng)
    questions = ask(scene, lesions, rng)
    causes, _ = causes_of(questions, scene, lesions)
    known = [c.things for c in causes.values() if c.without and "Heart" not in c.things]
    for place, things in enumerate(dict.fromkeys(known), start=1):
        pixels = draw_without(number, things, seed=seed)
        organs = [organ for organ in scene.organs if organ.label not in things]
        left = [lesion for i, lesion in enumerate(lesions) if lesion_name(i) not in things]
        true = [
            (q, answer_without(causes[q.question, q.answer], q.answer, things)) for q in questions
        ]
        asked = [replace(question, answer=answer) for question, answer in true if answer]
        twin = _picture(replace(scene, organs=organs), left, pixels)
        yield place * _TWIN_NUMBERS + number, (twin, asked)


def draw_without(number: int, things: Iterable[str], *, seed: int) -> np.ndarray:
    """The pixels of this number as if some of its things had never been there: the same body,
    other things, blur and noise; ``(height, width)`` uint8, as :class:`Picture` has them."""
    scene, _, rng = draw_scene(number, seed=seed, without=frozenset(things))
    return _scanned(scene, rng)


def _scanned(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    return scene.canvas.finish(
        blur=1.0 if scene.kind == "X-ray chest" else rng.uniform(0.5, 0.75),
        noise=rng.uniform(4, 8),
        gain=rng.uniform(0.88, 1.08),
        offset=rng.uniform(-6, 6),
    )


def draw_scene(
    number: int, *, seed: int, without: Set[str] = frozenset()
) -> tuple[Scene, list[Lesion], np.random.Generator]:
    """The body and lesions of this number, before the scanner's blur and noise, but for the
    things that are left out.

    Sixteen neighbours hold every kind of scan with every count of lesions.
    """
    kind, lesions = _cell(number, seed)
    rng = np.random.default_rng([seed, 1, number])
    scene = draw_body(kind, rng, without)
    return scene, add_lesions(scene, lesions), rng


def _cell(number: int, seed: int) -> tuple[str, int]:
    """The kind of scan and the count of lesions that this number has drawn."""
    cells = len(KINDS) * len(_LESION_COUNTS)
    block = np.random.default_rng([seed, 0, number // cells]).permutation(cells)
    cell = int(block[number % cells])
    return KINDS[cell % len(KINDS)], _LESION_COUNTS[cell // len(KINDS)]


def _picture(scene: Scene, lesions: list[Lesion], pixels: np.ndarray) -> Picture:
    parts = [(o.label, o.cover, _CODES[o.label]) for o in scene.organs]
    parts += [(x.label, x.cover, _CODES.get(x.label, _LESION_CODE)) for x in lesions]
    modality, location = _LOCATIONS[scene.kind]
    mask = np.zeros(pixels.shape, np.uint8)
    for _, cover, code in parts:
        mask[cover >= 0.5] = code
    boxes = tuple((label, bounding_box(cover)) for label, cover, _ in parts)
    return Picture(pixels, modality, location, boxes, None if modality == "X-Ray" else mask)
