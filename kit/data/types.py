"""The records that training and evaluation read, as their types alone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Region:
    """A labelled box: ``(x1, y1, x2, y2)`` in pixels of the original image."""

    label: str
    box_xyxy_pixels: tuple[float, float, float, float]


@dataclass(frozen=True)
class SftRecord:
    """One question about one image, with the answer that the model is taught to give.

    ``image`` is a path, relative to the data file or absolute; ``output`` is the JSON string with
    caption, reasoning, boxes (0..1000 grid) and answer; ``choices`` are what a multiple-choice
    question lists at its end (``kit.data.choices``), of which the answer is one; ``regions`` is the
    evidence of this question (may be empty); ``image_size`` is ``(width, height)`` in pixels.
    Fields that a dataset does not know are empty.
    """

    output: str
    image: str
    question: str
    answer: str
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


def to_json(record) -> dict[str, Any]:
    """A record as plain JSON values."""
    return dataclasses.asdict(record)
