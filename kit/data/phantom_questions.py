"""Questions about a phantom, asked so often that no wording has a favourite answer.

Each asker yields (probability, question). The probabilities are the inverse of how often an
answer occurs among the phantoms, so that over many images the answers to one wording balance.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from kit.data.phantom_anatomy import Organ, Scene
from kit.data.phantom_layout import Question
from kit.data.phantom_lesions import Lesion

FEWEST, MOST = 6, 9

_ASKED = Iterator[tuple[float, Question]]

# kind: (content type, answer type, wordings)
_WORDINGS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "modality": (
        "Modality",
        "OPEN",
        ("What modality is used to take this image?", "How was this image taken?"),
    ),
    "weighting": ("Modality", "OPEN", ("What is the mr weighting in this image?",)),
    "body part": (
        "Position",
        "OPEN",
        (
            "Which part of the body does this image belong to?",
            "Which part of the body is shown in this image?",
        ),
    ),
    "plane": ("Plane", "CLOSED", ("Is this a transverse section?",)),
    "contains": (
        "Organ",
        "CLOSED",
        ("Does the picture contain {0}?", "Is there {0} in this image?"),
    ),
    "any lesion": (
        "Abnormality",
        "CLOSED",
        ("Is there a lesion in this image?", "Does this image show any lesion?"),
    ),
    "lesion in": (
        "Abnormality",
        "CLOSED",
        ("Is there a lesion in the {0}?", "Does the {0} contain a lesion?"),
    ),
    "has disease": (
        "Abnormality",
        "CLOSED",
        ("Does the picture contain {0}?", "Is {0} present in this image?"),
    ),
    "disease": (
        "Abnormality",
        "OPEN",
        ("What disease is shown in the picture?", "What kind of lesion is in this image?"),
    ),
    "lesion host": (
        "Abnormality",
        "OPEN",
        ("Which organ contains the lesion?", "In which organ is the lesion?"),
    ),
    "lesions host": ("Abnormality", "OPEN", ("Which organ contains the lesions?",)),
    "quadrant": (
        "Position",
        "OPEN",
        ("In which quadrant of the image is the {0}?", "Which quarter of the image shows the {0}?"),
    ),
    "bigger lesion": (
        "Size",
        "CLOSED",
        ("Which lesion is bigger, the one on the left or on the right of the image?",),
    ),
    "lesion count": (
        "Quantity",
        "OPEN",
        ("How many lesions are there in this image?", "How many lesions does the image show?"),
    ),
    "organ count": (
        "Quantity",
        "OPEN",
        ("How many {0} are there in this image?", "How many {0} does the image have?"),
    ),
    "lesion color": (
        "Color",
        "OPEN",
        ("What is the color of the lesion in this image?", "What color is the lesion?"),
    ),
    "organ color": ("Color", "OPEN", ("What color is the {0} in the picture?",)),
    "lesion shape": (
        "Shape",
        "OPEN",
        ("What is the shape of the lesion in the picture?", "What shape does the lesion have?"),
    ),
    "bigger organ": (
        "Size",
        "CLOSED",
        ("Which is bigger in this image, {0} or {1}?", "Which is bigger in the picture, {1} or {0}?"),
    ),
    "largest organ": ("Size", "OPEN", ("What is the largest organ in the picture?",)),
    "heart size": (
        "Size",
        "CLOSED",
        ("Is the heart enlarged in this image?", "Does the heart look too big?"),
    ),
}


def ask(scene: Scene, lesions: list[Lesion], rng: np.random.Generator) -> list[Question]:
    """Six to nine questions about a phantom (fewer only where fewer can be asked)."""
    asked = [
        pair
        for asker in (_ask_scan, _ask_organs, _ask_organ_sizes, _ask_lesions, _ask_diseases)
        for pair in asker(scene, lesions, rng)
    ]
    luck = rng.random(len(asked))
    order = sorted(range(len(asked)), key=lambda i: luck[i] / max(asked[i][0], 1e-9))
    wanted = sum(luck[i] < asked[i][0] for i in order)
    chosen = sorted(order[: min(MOST, max(FEWEST, wanted))])
    unique = {asked[i][1].question: asked[i][1] for i in chosen}
    return list(unique.values())


def _word(kind: str, answer: str, rng: np.random.Generator, *names: str) -> Question:
    content_type, answer_type, wordings = _WORDINGS[kind]
    text = wordings[rng.integers(len(wordings))].format(*(n.lower() for n in names))
    return Question(kind, text, answer, content_type, answer_type)


def _yes(truth: bool) -> str:
    return "Yes" if truth else "No"


# How often each kind is asked what every scan can be asked: modality, body part, plane.
_SCAN_RATES = {
    "CT abdomen": ("CT", "Abdomen", 0.4, 0.6, 0.2),
    "CT lung": ("CT", "Chest", 0.4, 0.3, 0.2),
    "MRI brain": ("MRI", "Brain", 0.8, 0.6, 0.2),
    "X-ray chest": ("X-Ray", "Chest", 0.8, 0.3, 0.6),
}


def _ask_scan(scene: Scene, lesions: list[Lesion], rng: np.random.Generator) -> _ASKED:
    modality, part, modality_rate, part_rate, plane_rate = _SCAN_RATES[scene.kind]
    yield modality_rate, _word("modality", modality, rng)
    yield part_rate, _word("body part", part, rng)
    yield plane_rate, _word("plane", _yes(scene.kind != "X-ray chest"), rng)
    if "weighting" in scene.facts:
        yield 0.6, _word("weighting", scene.facts["weighting"], rng)
    if "heart enlarged" in scene.facts:
        yield 0.8, _word("heart size", scene.facts["heart enlarged"], rng)


# Organs that may be asked for in a kind of scan, and how often they are there.
_PRESENT = {
    "CT abdomen": {
        "Liver": 0.5,  # always there, and never in the CT of the lung, where it is asked for too
        "Spleen": 0.6,
        "Stomach": 0.5,
        "Left Kidney": 0.65,
        "Right Kidney": 0.65,
    },
    "CT lung": {"Liver": 0.5, "Left Lung": 0.75, "Right Lung": 0.75, "Heart": 0.55, "Trachea": 0.45},
    "MRI brain": {
        "Left Ventricle": 0.7,
        "Right Ventricle": 0.7,
        "Left Eye": 0.45,
        "Right Eye": 0.45,
    },
    "X-ray chest": {"Left Lung": 0.75, "Right Lung": 0.75},
}
_PRESENCE_RATE = {"CT abdomen": 0.13, "CT lung": 0.13, "MRI brain": 0.15, "X-ray chest": 0.18}

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
        yield rate, _word("contains", _yes(label in there), rng, label)
    for name, (organ, kind, rates) in _PAIR_RATES.items():
        if scene.kind == kind:
            count = sum(label.endswith(f" {organ}") for label in there)
            yield rates[count], _word("organ count", str(count), rng, name.split()[0])
    for organ in scene.organs:
        if organ.tone:
            yield 0.3, _word("organ color", organ.tone, rng, organ.label)


_PAIRS = (("Liver", "Spleen"), ("Left Kidney", "Right Kidney"), ("Left Lung", "Right Lung"))
_LARGEST = {
    "CT abdomen": ("Liver", "Spleen"),
    "CT lung": ("Left Lung", "Right Lung", "Heart"),
    "MRI brain": ("Brain",),
    "X-ray chest": ("Left Lung", "Right Lung", "Heart"),
}
_LARGEST_RATE = {"CT abdomen": 0.5, "CT lung": 0.6, "MRI brain": 0.15, "X-ray chest": 0.6}


def _ask_organ_sizes(scene: Scene, lesions: list[Lesion], rng: np.random.Generator) -> _ASKED:
    there = {organ.label: organ for organ in scene.organs}
    for first, second in _PAIRS:
        if first in there and second in there:
            bigger = _bigger([there[first], there[second]])
            if bigger is not None:
                yield 0.7, _word("bigger organ", bigger.label, rng, first, second)
    largest = _bigger([there[label] for label in _LARGEST[scene.kind] if label in there])
    if largest is not None:
        yield _LARGEST_RATE[scene.kind], _word("largest organ", largest.label, rng)


def _bigger(things: list[Organ] | list[Lesion]):
    """The thing that is clearly the biggest (by a fifth), or None."""
    ordered = sorted(things, key=lambda thing: thing.area, reverse=True)
    if all(a.area > 1.2 * b.area for a, b in list(pairwise(ordered))[:1]):
        return ordered[0]
    return None


_HOST_SHARE = {
    "Liver": 0.25,
    "Spleen": 0.15,
    "Left Kidney": 0.15,
    "Right Kidney": 0.15,
    "Left Lung": 0.3,
    "Right Lung": 0.3,
}
_COLOR_RATES = {"White": 0.5, "Gray": 0.7, "Black": 0.9}
_SHAPE_RATES = {"Circular": 0.5, "Oval": 0.7, "Irregular": 0.9, "Ring": 0.8}


def _ask_lesions(scene: Scene, lesions: list[Lesion], rng: np.random.Generator) -> _ASKED:
    yield 0.7, _word("any lesion", _yes(bool(lesions)), rng)
    yield 1.0 if lesions else 0.5, _word("lesion count", str(len(lesions)), rng)
    hosts = {lesion.host for lesion in lesions}
    for organ in scene.organs:
        share = _HOST_SHARE.get(organ.label)
        if share:
            rate = 0.12 / (share if organ.label in hosts else 1 - share)
            yield rate, _word("lesion in", _yes(organ.label in hosts), rng, organ.label)
    if len(lesions) == 1:
        yield from _ask_one_lesion(lesions[0], rng)
    elif len(lesions) == 2:
        yield from _ask_two_lesions(lesions, scene, rng)


def _ask_one_lesion(lesion: Lesion, rng: np.random.Generator) -> _ASKED:
    if lesion.quadrant:
        yield 0.9, _word("quadrant", lesion.quadrant, rng, "lesion")
    yield 0.4 if lesion.host == "Brain" else 0.8, _word("lesion host", lesion.host, rng)
    yield 0.8, _word("disease", lesion.label, rng)
    if lesion.tone:
        yield _COLOR_RATES[lesion.tone], _word("lesion color", lesion.tone, rng)
    if lesion.shape in _SHAPE_RATES:
        yield _SHAPE_RATES[lesion.shape], _word("lesion shape", lesion.shape, rng)


def _ask_two_lesions(lesions: list[Lesion], scene: Scene, rng: np.random.Generator) -> _ASKED:
    first, second = lesions
    if first.host == second.host:
        yield 0.3 if first.host == "Brain" else 0.7, _word("lesions host", first.host, rng)
    if first.label != second.label:
        for lesion in lesions:
            if lesion.quadrant:
                yield 0.6, _word("quadrant", lesion.quadrant, rng, lesion.label)
    bigger = _bigger(lesions)
    if bigger is not None:
        if bigger.quadrant:
            yield 0.8, _word("quadrant", bigger.quadrant, rng, "bigger lesion")
        left, right = sorted(lesions, key=lambda lesion: _middle(lesion))
        if _middle(right) - _middle(left) > 0.12 * scene.canvas.width:
            yield 0.8, _word("bigger lesion", "Left" if bigger is left else "Right", rng)


def _middle(lesion: Lesion) -> float:
    columns = lesion.cover.sum(axis=0)
    return float((columns * np.arange(len(columns))).sum() / columns.sum())


# How often an image of this kind holds a lesion of this name.
_DISEASE_SHARE = {
    "CT abdomen": {"Cyst": 0.25, "Calcification": 0.2, "Liver Cancer": 0.08, "Abscess": 0.08},
    "CT lung": {"Nodule": 0.2, "Mass": 0.2, "Cavity": 0.2, "Infiltrate": 0.2, "Effusion": 0.1},
    "MRI brain": {
        "Brain Tumor": 0.2,
        "Brain Infarct": 0.2,
        "Brain Metastasis": 0.15,
        "Brain Edema": 0.15,
    },
}
_DISEASE_SHARE["X-ray chest"] = _DISEASE_SHARE["CT lung"]


def _ask_diseases(scene: Scene, lesions: list[Lesion], rng: np.random.Generator) -> _ASKED:
    names = {lesion.label for lesion in lesions}
    for label, share in _DISEASE_SHARE[scene.kind].items():
        rate = 0.08 / (share if label in names else 1 - share)
        yield rate, _word("has disease", _yes(label in names), rng, label)
