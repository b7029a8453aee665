"""Questions about a phantom, asked so often that no wording has a favourite answer.

Each predictor yields (probability, question). The probabilities are the inverse of how often an
answer occurs among the phantoms, so that over many images the answers to one wording balance.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from kit.data.phantom.layout import Question
from kit.data.phantom.lesions import Lesion
from kit.data.phantom.scene import Organ, Scene
from kit.data.phantom.wordings import word

FEWEST, MOST = 6, 9

_ASKED = Iterator[tuple[float, Question]]


def ask(scene: Scene, lesions: list[Lesion], rng: np.random.Generator) -> list[Question]:
    """Six to nine questions about a phantom (fewer only where fewer can be asked)."""
    asked = [
        pair
        for predictor in (_ask_scan, _ask_organs, _ask_organ_sizes, _ask_lesions, _ask_diseases)
        for pair in predictor(scene, lesions, rng)
    ]
    uniform = rng.random(len(asked))
    order = sorted(range(len(asked)), key=lambda i: uniform[i] / max(asked[i][0], 1e-9))
    wanted = sum(uniform[i] < asked[i][0] for i in order)
    chosen = sorted(order[: min(MOST, max(FEWEST, wanted))])
    unique = {asked[i][1].question: asked[i][1] for i in chosen}
    return list(unique.values())


def _yes(truth: bool) -> str:
    return "Yes" if truth else "No"


# How often each kind is asked what every scan can be asked: modality, body part, plane.
_SCAN_RATES = {
    "CT abdomen": ("CT", "Abdomen", 0.5, 0.9, 0.3),
    "CT lung": ("CT", "Chest", 0.5, 0.45, 0.3),
    "MRI brain": ("MRI", "Brain", 1.0, 0.9, 0.3),
    "X-ray chest": ("X-Ray", "Chest", 1.0, 0.45, 0.9),
}


def _ask_scan(scene: Scene, lesions: list[Lesion], rng: np.random.Generator) -> _ASKED:
    modality, part, modality_rate, part_rate, plane_rate = _SCAN_RATES[scene.kind]
    yield modality_rate, word("modality", modality, rng)
    yield part_rate, word("body part", part, rng)
    yield plane_rate, word("plane", _yes(scene.kind != "X-ray chest"), rng)
    if "weighting" in scene.facts:
        yield 0.9, word("weighting", scene.facts["weighting"], rng)
    if "heart enlarged" in scene.facts:
        yield 0.9, word("heart size", scene.facts["heart enlarged"], rng)


# Organs that may be asked for in a kind of scan, and how often they are there.
_PRESENT = {
    "CT abdomen": {
        "Liver": 0.5,  # always there, and never in the CT of the lung, where it is asked for too
        "Spleen": 0.6,
        "Stomach": 0.5,
        "Left Kidney": 0.65,
        "Right Kidney": 0.65,
    },
    "CT lung": {
        "Liver": 0.5,
        "Left Lung": 0.75,
        "Right Lung": 0.75,
        "Heart": 0.55,
        "Trachea": 0.45,
    },
    "MRI brain": {
        "Left Ventricle": 0.7,
        "Right Ventricle": 0.7,
        "Left Eye": 0.45,
        "Right Eye": 0.45,
    },
    "X-ray chest": {"Left Lung": 0.75, "Right Lung": 0.75},
}
_PRESENCE_RATE = {"CT abdomen": 0.14, "CT lung": 0.14, "MRI brain": 0.15, "X-ray chest": 0.2}

# How often a pair is asked for when none, one or both are there.
_PAIR_RATES = {
    "kidneys": ("Kidney", "CT abdomen", (1.0, 0.5, 0.5)),
    "lungs": ("Lung", "CT lung", (0.0, 0.5, 0.5)),
    "lungs on film": ("Lung", "X-ray chest", (0.0, 0.5, 0.5)),
    "eyes": ("Eye", "MRI brain", (0.3, 0.8, 0.45)),
    "ventricles": ("Ventricle", "MRI brain", (0.8, 0.3, 0.3)),
}


def _ask_organs(scene: Scene, lesions: list[Lesion], rng: np.random.Generator) -> _ASKED:
    there = {organ.label: organ for organ in scene.organs}
    for label, share in _PRESENT[scene.kind].items():
        rate = _PRESENCE_RATE[scene.kind] / (share if label in there else 1 - share)
        yield rate, word("contains", _yes(label in there), rng, label)
    for name, (organ, kind, rates) in _PAIR_RATES.items():
        if scene.kind == kind:
            count = sum(label.endswith(f" {organ}") for label in there)
            yield rates[count], word("organ count", str(count), rng, name.split()[0])
    for organ in scene.organs:
        if organ.tone:
            rate = 0.25 if organ.tone == "White" else 0.35
            yield rate, word("organ color", organ.tone, rng, organ.label)


_PAIRS = (("Liver", "Spleen"), ("Left Kidney", "Right Kidney"), ("Left Lung", "Right Lung"))
LARGEST = {
    "CT abdomen": ("Liver", "Spleen"),
    "CT lung": ("Left Lung", "Right Lung", "Heart"),
    "MRI brain": ("Brain",),
    "X-ray chest": ("Left Lung", "Right Lung", "Heart"),
}
_LARGEST_RATE = {"CT abdomen": 1.0, "CT lung": 0.8, "MRI brain": 0.4, "X-ray chest": 0.8}


def _ask_organ_sizes(scene: Scene, lesions: list[Lesion], rng: np.random.Generator) -> _ASKED:
    there = {organ.label: organ for organ in scene.organs}
    for first, second in _PAIRS:
        if first in there and second in there:
            bigger = _bigger([there[first], there[second]])
            if bigger is not None:
                yield 0.9, word("bigger organ", bigger.label, rng, first, second)
    largest = _bigger([there[label] for label in LARGEST[scene.kind] if label in there])
    if largest is not None:
        yield _LARGEST_RATE[scene.kind], word("largest organ", largest.label, rng)


def _bigger(things: list[Organ] | list[Lesion]):
    """The thing that is clearly the biggest (by a fifth), or None."""
    ordered = sorted(things, key=lambda thing: thing.area, reverse=True)
    if all(a.area > 1.2 * b.area for a, b in list(pairwise(ordered))[:1]):
        return ordered[0]
    return None


# How often an organ that is there holds a lesion.
_HOST_SHARE = {
    "Liver": 0.31,
    "Spleen": 0.2,
    "Left Kidney": 0.19,
    "Right Kidney": 0.19,
    "Left Lung": 0.39,
    "Right Lung": 0.38,
}
_COLOR_RATES = {"White": 0.15, "Gray": 0.21, "Black": 0.24}
_SHAPE_RATES = {"Circular": 0.16, "Oval": 0.21, "Irregular": 0.24, "Ring": 0.24}
_HOST_RATES = {"Brain": 0.15, "Left Lung": 0.25, "Right Lung": 0.25}
_QUADRANT_RATES = {"Upper Left": 0.25, "Upper Right": 0.3, "Lower Left": 0.3, "Lower Right": 0.3}


def _ask_lesions(scene: Scene, lesions: list[Lesion], rng: np.random.Generator) -> _ASKED:
    yield 0.3 if lesions else 0.22, word("any lesion", _yes(bool(lesions)), rng)
    yield 0.4 if lesions else 0.18, word("lesion count", str(len(lesions)), rng)
    hosts = {lesion.host for lesion in lesions}
    for organ in scene.organs:
        share = _HOST_SHARE.get(organ.label)
        if share:
            rate = 0.03 / (share if organ.label in hosts else 1 - share)
            yield rate, word("lesion in", _yes(organ.label in hosts), rng, organ.label)
    quadrants = [lesion.quadrant for lesion in lesions]
    for lesion in lesions:
        if all(quadrants) and quadrants.count(lesion.quadrant) == 1:
            yield 0.2, word("lesion at", lesion.label, rng, lesion.quadrant)
    if len(lesions) == 1:
        yield from _ask_one_lesion(lesions[0], rng)
    elif len(lesions) == 2:
        yield from _ask_two_lesions(lesions, scene, rng)


def _ask_one_lesion(lesion: Lesion, rng: np.random.Generator) -> _ASKED:
    yield _HOST_RATES.get(lesion.host, 0.3), word("lesion host", lesion.host, rng)
    yield 0.25, word("disease", lesion.label, rng)
    yield from _ask_look(lesion, "lesion", rng)


def _ask_look(lesion: Lesion, name: str, rng: np.random.Generator) -> _ASKED:
    if lesion.quadrant:
        rate = _QUADRANT_RATES[lesion.quadrant]
        yield rate, word("quadrant", lesion.quadrant, rng, name)
    if lesion.tone:
        yield _COLOR_RATES[lesion.tone], word("lesion color", lesion.tone, rng, name)
    if lesion.shape in _SHAPE_RATES:
        yield _SHAPE_RATES[lesion.shape], word("lesion shape", lesion.shape, rng, name)


def _ask_two_lesions(lesions: list[Lesion], scene: Scene, rng: np.random.Generator) -> _ASKED:
    first, second = lesions
    if first.host == second.host:
        rate = _HOST_RATES.get(first.host, 0.3)
        yield rate, word("lesions host", first.host, rng)
    if first.label != second.label:
        for lesion in lesions:
            if lesion.quadrant:
                yield 0.17, word("quadrant", lesion.quadrant, rng, lesion.label)
            if lesion.host != "Brain":
                yield 0.13, word("named host", lesion.host, rng, lesion.label)
    bigger = _bigger(lesions)
    if bigger is not None:
        yield from _ask_look(bigger, "bigger lesion", rng)
        left, right = sorted(lesions, key=_middle)
        if _middle(right) - _middle(left) > 0.12 * scene.canvas.width:
            answer, rate = ("Left", 0.25) if bigger is left else ("Right", 0.35)
            yield rate, word("bigger lesion", answer, rng)


def _middle(lesion: Lesion) -> float:
    columns = lesion.cover.sum(axis=0)
    return float((columns * np.arange(len(columns))).sum() / columns.sum())


# How often an image of this kind holds a lesion of this name.
_DISEASE_SHARE = {
    "CT abdomen": {"Cyst": 0.25, "Calcification": 0.21, "Liver Cancer": 0.07, "Abscess": 0.12},
    "CT lung": {
        "Nodule": 0.17,
        "Mass": 0.18,
        "Cavity": 0.13,
        "Infiltrate": 0.13,
        "Effusion": 0.08,
    },
    "MRI brain": {
        "Brain Tumor": 0.19,
        "Brain Infarct": 0.21,
        "Brain Metastasis": 0.14,
        "Brain Edema": 0.15,
    },
}
_DISEASE_SHARE["X-ray chest"] = _DISEASE_SHARE["CT lung"]
_DISEASE_RATE = 0.015


def _ask_diseases(scene: Scene, lesions: list[Lesion], rng: np.random.Generator) -> _ASKED:
    names = {lesion.label for lesion in lesions}
    for label, share in _DISEASE_SHARE[scene.kind].items():
        rate = _DISEASE_RATE / (share if label in names else 1 - share)
        yield rate, word("has disease", _yes(label in names), rng, label)
