"""The wordings of the questions about phantoms, by what they ask."""

from __future__ import annotations

import numpy as np

from kit.data.phantom.layout import Question

# kind: (content type, answer type, wordings)
WORDINGS: dict[str, tuple[str, str, tuple[str, ...]]] = {
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
    "named host": ("Abnormality", "OPEN", ("Which organ contains the {0}?",)),
    "lesion at": ("Abnormality", "OPEN", ("What is the lesion in the {0} of the image?",)),
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
        ("What is the color of the {0} in this image?", "What color is the {0}?"),
    ),
    "organ color": ("Color", "OPEN", ("What color is the {0} in the picture?",)),
    "lesion shape": (
        "Shape",
        "OPEN",
        ("What is the shape of the {0} in the picture?", "What shape does the {0} have?"),
    ),
    "bigger organ": (
        "Size",
        "CLOSED",
        (
            "Which is bigger in this image, {0} or {1}?",
            "Which is bigger in the picture, {1} or {0}?",
        ),
    ),
    "largest organ": ("Size", "OPEN", ("What is the largest organ in the picture?",)),
    "heart size": (
        "Size",
        "CLOSED",
        ("Is the heart enlarged in this image?", "Does the heart look too big?"),
    ),
}


def word(kind: str, answer: str, rng: np.random.Generator, *names: str) -> Question:
    """A question of a kind in one of its wordings; ``names`` fill its gaps in lower case."""
    content_type, answer_type, forms = WORDINGS[kind]
    texts = tuple(form.format(*(name.lower() for name in names)) for form in forms)
    text = texts[rng.integers(len(texts))]
    return Question(kind, text, answer, content_type, answer_type, texts, names)
