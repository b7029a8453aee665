"""Writing drawn pictures and their questions in the original SLAKE layout."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from kit.files import atomic_write, explain_os_error

SPLITS = {"train": 0, "validate": 100_000, "test": 200_000}
JPEG_QUALITY = 92
QUESTIONS_AT_MOST = 16
CAUSES = "causes.json"  # beside an image


@dataclass(frozen=True)
class Question:
    """One English question.

    ``kind`` names what is asked, ``wordings`` are all texts that ask it, and ``names`` what it
    asks about; the SLAKE layout holds none of them.
    """

    kind: str
    question: str
    answer: str
    content_type: str
    answer_type: str
    wordings: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """What SLAKE knows of one image.

    ``pixels`` and ``mask`` are ``(height, width)`` uint8; ``boxes`` are (label, (x, y, width,
    height)) in pixels. With ``mask`` None the mask file is, as for SLAKE's X-rays, the image
    with the boxes drawn on it. ``causes`` is the text of a file that SLAKE has not
    (``kit.data.phantom.causes``).
    """

    pixels: np.ndarray
    modality: str
    location: str
    boxes: tuple[tuple[str, tuple[int, int, int, int]], ...]
    mask: np.ndarray | None
    causes: str = ""


Drawn = tuple[Picture, list[Question]]


def numbers(split: str, count: int) -> range:
    """The image numbers of a split: train counts from 0, validate and test from far above.

    >>> list(numbers("test", 2))
    [200000, 200001]

    Raises:
        ValueError: unknown split, or a count below 0 or above 100000.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}: choose from {', '.join(SPLITS)}")
    if not 0 <= count <= 100_000:
        raise ValueError(f"{split}: {count} images; choose 0 to 100000")
    return range(SPLITS[split], SPLITS[split] + count)


def write_slake(root: Path, splits: dict[str, Iterable[tuple[int, Drawn]]]) -> None:
    """Write ``imgs/xmlabN`` for every numbered picture, then each split's JSON file.

    Raises:
        UserError: the folder cannot be written.
    """
    root = Path(root)
    try:
        for split, drawn in splits.items():
            rows = []
            for number, (picture, questions) in drawn:
                folder = root / "imgs" / f"xmlab{number}"
                folder.mkdir(parents=True, exist_ok=True)
                own = [_row(number, picture, question) for question in questions]
                _write_image_folder(folder, picture, own)
                rows += [_numbered(row, split, i) for i, row in enumerate(own)]
            with atomic_write(root / f"{split}.json") as stream:
                json.dump(rows, stream, indent=0, ensure_ascii=False)
    except OSError as error:
        raise explain_os_error(error, root) from error


def save_jpeg(pixels: np.ndarray, path: str | Path | io.BytesIO) -> None:
    """Save grey ``(height, width)`` uint8 pixels as an RGB JPEG."""
    Image.fromarray(pixels).convert("RGB").save(path, format="JPEG", quality=JPEG_QUALITY)


def _row(number: int, picture: Picture, question: Question) -> dict:
    return {
        "img_id": number,
        "img_name": f"xmlab{number}/source.jpg",
        "question": question.question,
        "answer": question.answer,
        "q_lang": "en",
        "location": picture.location,
        "modality": picture.modality,
        "answer_type": question.answer_type,
        "base_type": "vqa",
        "content_type": question.content_type,
        "triple": ["vhead", "_", "_"],
    }


def _numbered(row: dict, split: str, index: int) -> dict:
    """The row as it stands in the split's file: key order differs there, as in the original."""
    row = {**row, "qid": row["img_id"] * QUESTIONS_AT_MOST + index}
    if split != "train":
        row["content_type"] = row.pop("content_type")
    return row


def _write_image_folder(folder: Path, picture: Picture, rows: list[dict]) -> None:
    save_jpeg(picture.pixels, folder / "source.jpg")
    mask = _annotated(picture) if picture.mask is None else Image.fromarray(picture.mask)
    mask.convert("RGB").save(folder / "mask.png", compress_level=1)
    boxes = [{label: [float(v) for v in box]} for label, box in picture.boxes]
    (folder / "detection.json").write_text(json.dumps(boxes), encoding="utf-8")
    own = [{k: v for k, v in row.items() if k != "content_type"} for row in rows]
    text = json.dumps(own, ensure_ascii=False)
    (folder / "question.json").write_text(text, encoding="utf-8")
    if picture.causes:
        (folder / CAUSES).write_text(picture.causes, encoding="utf-8")


def _annotated(picture: Picture) -> Image.Image:
    """The image with its boxes in blue and their labels in red, as SLAKE's X-ray masks are."""
    image = Image.fromarray(picture.pixels).convert("RGB")
    pen = ImageDraw.Draw(image)
    for label, (x, y, width, height) in picture.boxes:
        pen.rectangle((x, y, x + width, y + height), outline=(0, 0, 255))
        pen.text((x, max(0, y - 10)), label, fill=(255, 0, 0))
    return image


def are_phantoms(questions: Iterable[tuple[str, str]]) -> bool:
    """Whether questions (id, image's path) that are said to be SLAKE's are of drawn phantoms:
    there all ids follow from the image's number, and in SLAKE they count up.

    >>> are_phantoms([("49", "imgs/xmlab3/source.jpg")]), are_phantoms([("0", "xmlab1/source.jpg")])
    (True, False)
    """
    questions = list(questions)
    return bool(questions) and all(
        qid.isdecimal() and Path(image).parent.name == f"xmlab{int(qid) // QUESTIONS_AT_MOST}"
        for qid, image in questions
    )
