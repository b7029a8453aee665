"""The records that training and evaluation read, as their types alone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Region:
    """A labelled box: ``(x1, y1, x2, y2)`` in pixels of the original image; where the question
    shows several, of the one of this number."""

    label: str
    box_xyxy_pixels: tuple[float, float, float, float]
    image: int = 1


Shown = str | tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a question beside its text and answer, in each stage's record.

    ``choices`` are what a multiple-choice question lists at its end (``kit.data.choices``), of
    which the answer is one; ``regions`` is the evidence of this question (may be empty);
    ``image_size`` is the ``(width, height)`` of its image in pixels, and ``more_images`` are the
    paths of those that it shows after that one. Fields that a dataset does not know are empty.
    """

    choices: tuple[str, ...] = ()
    dataset: str = ""
    qid: str = ""
    split: str = ""
    answer_type: str = ""
    content_type: str = ""
    modality: str = ""
    location: str = ""
    regions: tuple[Region, ...] = ()
    image_size: tuple[int, int] | None = None
    more_images: tuple[str, ...] = ()

    @property
    def images(self) -> tuple[str, ...]:
        """The paths of all images that the question shows."""
        return (self.image, *self.more_images)

    @property
    def shown(self) -> Shown:
        """The path of its image, or the paths of its images."""
        return self.images if self.more_images else self.image


CARRIED = tuple(field.name for field in dataclasses.fields(Known))


@dataclass(frozen=True)
class SftRecord(Known):
    """One question about one image, with the answer that the model is taught to give.

    ``image`` is a path, relative to the data file or absolute; ``output`` is the JSON string with
    caption, reasoning, boxes (0..1000 grid) and answer.
    """

    output: str
    image: str
    question: str
    answer: str

    def facts(self) -> dict[str, str | list[str]]:
        """What a row of answers says of the question."""
        return {
            "dataset": self.dataset,
            "qid": self.qid,
            "image": self.image,
            "question": self.question,
            "gold": self.answer,
            "choices": list(self.choices),
            "answer_type": self.answer_type,
            "content_type": self.content_type,
            "modality": self.modality,
            "location": self.location,
        }


def paths_of(shown: Shown) -> tuple[str, ...]:
    """The images that a question shows.

    >>> paths_of("a.png"), paths_of(("a.png", "b.png"))
    (('a.png',), ('a.png', 'b.png'))
    """
    return (shown,) if isinstance(shown, str) else shown


def to_json(record: Known) -> dict[str, Any]:
    """A record as plain JSON values, what is known of any question last; of several images is
    spoken only where there are some."""
    value = dataclasses.asdict(record)
    value |= {name: value.pop(name) for name in CARRIED}
    if not record.more_images:
        del value["more_images"]
        for region in value["regions"]:
            del region["image"]
    return value
