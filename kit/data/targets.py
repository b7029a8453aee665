"""What the model is taught to say: caption, reasoning, boxes and answer as one JSON object.

Every sentence follows from the record (modality, location, labels, boxes, answer); nothing is
stated that the dataset does not hold. Sides are said "of the image": SLAKE's box labels are on
the patient's side, so a left kidney stands on the image's right.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from kit.data import entailment
from kit.data.boxes import pixels_to_grid
from kit.data.choices import with_choices
from kit.data.evidence import is_lesion, names_label, organs_named, speaks_of_lesions
from kit.data.fields import relative_image
from kit.data.questions import RawQuestion
from kit.data.types import Region, SftRecord

INSTRUCTION = (
    "Look at this medical image and answer the question. Reply with exactly one JSON object with "
    'the keys "caption" (what the image shows), "reasoning" (a list of short steps), "boxes" (the '
    'evidence as [x1, y1, x2, y2] on a 0 to 1000 grid, [] if none) and "answer" (short).'
)

_OF_RADIOLOGY = ("SLAKE", "VQA_RAD")
ASKED = "The question asks about "
MOST_LABELS = 6
MOST_PLACES = 3

_LOCATIONS = {"lung": "chest", "abd": "abdomen", "brain": "brain", "brain face": "head"}
_UNCOUNTED = ("cancer", "edema", "atelectasis", "cardiomegaly", "pneumonia", "pneumothorax")
_UNCOUNTED += ("emphysema", "fibrosis", "thickening", "metastasis", "infiltration")

# What a question of each content type asks for. SLAKE's names first, then VQA-RAD's.
_TOPICS = {
    "modality": "the imaging modality",
    "plane": "the imaging plane",
    "position": "a position",
    "organ": "organs",
    "abnormality": "abnormalities",
    "size": "size",
    "shape": "shape",
    "color": "brightness or color",
    "quantity": "a number",
    "kg": "medical knowledge of what is shown",
    "pres": "whether something is present",
    "pos": "a position",
    "abn": "abnormalities",
    "count": "a number",
    "attrib": "an attribute",
    "other": "the image",
}

_ASPECTS = {
    "position": "the position of ",
    "pos": "the position of ",
    "size": "the size of ",
    "shape": "the shape of ",
    "color": "the color of ",
}


def to_sft_record(raw: RawQuestion, data_folder: str | Path) -> SftRecord:
    """The training record of one question; ``data_folder`` is where the data file will lie.

    The image's path is relative to ``data_folder`` where it lies under it, else absolute.
    """
    target = {
        "caption": caption(
            raw.modality or ("" if raw.dataset in _OF_RADIOLOGY else "A medical image"),
            raw.location,
            [r.label for r in raw.regions],
        ),
        "reasoning": reasoning(raw),
        "boxes": boxes(raw.evidence, raw.sizes),
        "answer": raw.answer,
    }
    return SftRecord(
        output=json.dumps(target, ensure_ascii=False),
        image=relative_image(raw.image, Path(data_folder)),
        question=with_choices(raw.question, raw.choices),
        answer=raw.answer,
        choices=raw.choices,
        dataset=raw.dataset,
        qid=raw.qid,
        split=raw.split,
        answer_type=raw.answer_type,
        content_type=raw.content_type,
        modality=raw.modality,
        location=raw.location,
        regions=raw.evidence,
        image_size=raw.image_size,
        more_images=tuple(relative_image(path, Path(data_folder)) for path in raw.more_images),
    )


def caption(modality: str, location: str, labels: Sequence[str]) -> str:
    """One sentence from what the record holds: organs, then lesions, at most ``MOST_LABELS``.

    >>> caption("CT", "Lung", ["Nodule", "Left Lung", "Right Lung"])
    'CT of the chest showing the left lung, the right lung and a nodule.'
    >>> caption("", "HEAD", [])
    'A radiology image of the head.'
    """
    labels = list(dict.fromkeys(labels))
    lesions = [_with_article(label) for label in labels if is_lesion(label)][:MOST_LABELS]
    organs = [_with_article(label) for label in labels if not is_lesion(label)]
    shown = organs[: MOST_LABELS - len(lesions)] + lesions
    sentence = modality.replace("X-Ray", "X-ray") or "A radiology image"
    if location:
        sentence += f" of the {place_name(location)}"
    if shown:
        sentence += f" showing {_joined(shown)}"
    return sentence + "."


def reasoning(raw: RawQuestion) -> list[str]:
    """Three steps: what is asked, what the record shows of it, and the answer.

    The answer is said to follow ("So ...") only where the record bears it out.
    """
    finding, follows = _finding(raw)
    answer = raw.answer.lower() if raw.answer.lower() in ("yes", "no") else raw.answer.rstrip(".")
    conclusion = f"So the answer is {answer}." if follows else f"The answer is {answer}."
    return [f"{ASKED}{_topic(raw)}.", finding, conclusion]


def unmarked(names: Sequence[str]) -> str:
    """
    >>> unmarked(["nodule", "mass"])
    'No nodule or mass is marked in the image.'
    """
    return f"No {_joined(names, 'or')} is marked in the image."


def boxes(evidence: Sequence[Region], sizes: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The evidence on the 0..1000 grid, each box once, in its given order; of several images,
    after the number of its own.

    >>> boxes([Region("Liver", (50.0, 20.0, 100.0, 40.0))] * 2, [(200, 100)])
    [[250, 200, 500, 400]]
    >>> boxes([Region("Liver", (50.0, 20.0, 100.0, 40.0), image=2)], [(90, 90), (200, 100)])
    [[2, 250, 200, 500, 400]]
    """
    unique = dict.fromkeys(
        (r.image, *pixels_to_grid(r.box_xyxy_pixels, sizes[r.image - 1])) for r in evidence
    )
    return [list(box) if len(sizes) > 1 else list(box[1:]) for box in unique]


def place_name(location: str) -> str:
    """A dataset's name of a body part as a word of a sentence.

    >>> place_name("Chest_mediastinal"), place_name("ABD"), place_name("Pelvic Cavity")
    ('chest', 'abdomen', 'pelvic cavity')
    """
    name = location.replace("_", " ").lower()
    return _LOCATIONS.get(name, name.split()[0] if name.startswith(("chest", "brain")) else name)


def place_in_image(box: tuple[float, ...], image_size: tuple[int, int]) -> str:
    """Where the middle of a box lies, in thirds of the image.

    >>> place_in_image((10, 10, 30, 30), (100, 100)), place_in_image((40, 80, 60, 100), (100, 100))
    ('in the upper left', 'at the bottom')
    """
    width, height = image_size
    across = int(min(2, 3 * (box[0] + box[2]) / 2 // width))
    down = int(min(2, 3 * (box[1] + box[3]) / 2 // height))
    names = (
        ("in the upper left", "at the top", "in the upper right"),
        ("on the left", "in the center", "on the right"),
        ("in the lower left", "at the bottom", "in the lower right"),
    )
    return names[down][across]


def _topic(raw: RawQuestion) -> str:
    kind = raw.content_type.lower()
    organs = organs_named(raw.question)
    if kind == "quantity" and organs:
        return f"the number of {_joined([_plural(organ) for organ in organs])}"
    labels = [r.label for r in raw.evidence if names_label(raw.question, r.label)]
    named = [_with_article(label) for label in dict.fromkeys(labels)]
    named = named or [f"the {organ}" for organ in organs]
    if named:
        return _ASPECTS.get(kind, "") + _joined(named)
    topics = [_TOPICS.get(k.strip(), k.strip()) for k in kind.split(",") if k.strip()]
    return _joined(topics) if topics else "the image"


def _finding(raw: RawQuestion) -> tuple[str, bool]:
    """What the record shows of the question, and whether the answer follows from it."""
    kind = raw.content_type.lower()
    if raw.evidence:
        return _shown(raw)
    if kind == "modality" and raw.modality:
        sentence = f"The image is {_an(raw.modality.replace('X-Ray', 'X-ray'))}."
        return sentence, entailment.is_modality(raw)
    asked = organs_named(raw.question)
    if raw.regions and asked:  # none of the marked labels is among them, or it were evidence
        return unmarked(asked), entailment.is_absent(raw)
    lesions = kind == "abnormality" or speaks_of_lesions(raw.question)
    if lesions and raw.regions and not any(is_lesion(r.label) for r in raw.regions):
        return unmarked(["lesion"]), entailment.is_absent(raw)
    if kind == "position" and raw.location:
        place = place_name(raw.location)
        return f"The image shows the {place}.", raw.answer.casefold().rstrip(".") == place
    return "No region is marked for it.", False


def _shown(raw: RawQuestion) -> tuple[str, bool]:
    sentence = _places(raw)
    if entailment.is_counted(raw):
        return f"{sentence.removesuffix('.')}, {raw.answer.strip()} in all.", True
    spots = [place_in_image(r.box_xyxy_pixels, raw.sizes[r.image - 1]) for r in raw.evidence]
    follows = (
        entailment.is_there(raw) or entailment.is_placed(raw, spots) or entailment.is_named(raw)
    )
    return sentence, follows


def _places(raw: RawQuestion) -> str:
    """Where the evidence is, a sentence an image."""
    sentences = []
    for number, size in enumerate(raw.sizes, start=1):
        if own := [region for region in raw.evidence if region.image == number]:
            name = "the image" if len(raw.sizes) == 1 else f"image {number}"
            sentences.append(f"{_places_in(own, size)} of {name}.")
    return " ".join(sentences)


def _places_in(evidence: Sequence[Region], image_size: tuple[int, int]) -> str:
    places: dict[str, list[str]] = {}
    for region in evidence:
        spots = places.setdefault(region.label, [])
        spot = place_in_image(region.box_xyxy_pixels, image_size)
        if spot not in spots:
            spots.append(spot)
    told = list(places.items())[:MOST_PLACES]
    parts = [f"the {label.lower()} is {_joined(spots)}" for label, spots in told]
    sentence = _joined(parts)
    return sentence[0].upper() + sentence[1:]


def _with_article(label: str) -> str:
    name = label.lower()
    if not is_lesion(label):
        return f"the {name}"
    return name if name.endswith(_UNCOUNTED) else _an(name)


def _an(name: str) -> str:
    vowel = name[0].lower() in "aeio" or name in ("MRI", "X-ray")
    return f"an {name}" if vowel else f"a {name}"


def _joined(parts: Sequence[str], word: str = "and") -> str:
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} {word} {parts[-1]}"


def _plural(name: str) -> str:
    return name.replace("tooth", "teeth") if name.endswith("tooth") else f"{name}s"
