"""One question of a dataset as its reader found it, and the checks that all readers share."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.data.fields import bad_field, resolve_image
from kit.data.types import Region
from kit.errors import DataError, RecordError
from kit.text import decoded

SPLITS = ("train", "validate", "test")

Fixed = dict[str, int]


@dataclass(frozen=True)
class RawQuestion:
    """A question, its answer and what the dataset knows of its image.

    ``where`` names the file and row and ``image_field`` the row's field of the image;
    ``image_size`` is ``(width, height)``, and ``more_images`` and ``more_sizes`` are of what it
    shows after that; ``choices`` are those of a multiple-choice question, of which the answer is
    one, and are not part of ``question``; ``regions`` are all labelled boxes of the image and
    ``evidence`` those that bear on this question, in pixels. ``group`` joins rewordings of one
    question and ``rewordings`` are such texts as the dataset itself gives: both
    serve to find leaks and are never shown to a model.
    """

    dataset: str
    qid: str
    split: str
    question: str
    answer: str
    answer_type: str
    image: Path
    image_size: tuple[int, int]
    where: str
    image_field: str = "image"
    content_type: str = ""
    modality: str = ""
    location: str = ""
    language: str = "en"
    choices: tuple[str, ...] = ()
    regions: tuple[Region, ...] = ()
    evidence: tuple[Region, ...] = ()
    group: str = ""
    rewordings: tuple[str, ...] = ()
    more_images: tuple[Path, ...] = ()
    more_sizes: tuple[tuple[int, int], ...] = ()

    @property
    def images(self) -> tuple[Path, ...]:
        """All that the question shows."""
        return (self.image, *self.more_images)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Of each image."""
        return (self.image_size, *self.more_sizes)


Row = RawQuestion | RecordError


def load_rows(path: Path) -> list[Any]:
    """The rows of a JSON file that holds one list.

    Raises:
        DataError: missing, not readable, not valid JSON (with the line), no list, or empty.
    """
    value = load_json(path)
    if not isinstance(value, list):
        what = f"must hold a list of questions, not {type(value).__name__}"
        raise DataError(what, where=path, fix="see data/README.md for the layout")
    if not value:
        raise DataError("holds no question", where=path, fix="fetch the file again")
    return value


def load_json(path: Path) -> Any:
    """A JSON file's value; numbers that are not finite are left for the field checks to refuse."""
    try:
        return json.loads(decoded(path.read_bytes()))
    except FileNotFoundError as error:
        fix = "see data/README.md for the layout, or fetch the dataset with --download"
        raise DataError("no such file", where=path, fix=fix) from error
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}"
        raise DataError(f"not valid JSON: {error}", where=where, fix="fix the line") from error
    except RecursionError as error:
        raise DataError("not valid JSON: nested too deeply", where=path, fix="fix it") from error
    except ValueError as error:
        raise DataError(f"not valid JSON: {error}", where=path, fix="fetch it again") from error
    except OSError as error:
        what = f"cannot read: {error.strerror}"
        raise DataError(what, where=path, fix="check the path") from error


def check_row(value: Any, where: str) -> dict:
    """The row if it is an object without numbers that are not finite.

    Raises:
        RecordError: names the field.
    """
    if not isinstance(value, dict):
        what = f"a row must be an object, not {type(value).__name__}"
        raise RecordError(what, reason="wrong_type", where=where)
    for field, item in value.items():
        if isinstance(item, float) and not math.isfinite(item):
            raise bad_field(where, field, "is not a finite number", "not_finite")
    return value


def text_field(
    row: dict, field: str, where: str, fixed: Fixed, number_as_text: bool = False
) -> str:
    """A text that is there and not empty, with its white space collapsed (counted in ``fixed``).

    Raises:
        RecordError: missing, of another type, or empty.
    """
    if field not in row:
        raise bad_field(where, field, "missing", "missing_field")
    value = row[field]
    if number_as_text and isinstance(value, int) and not isinstance(value, bool):
        fixed[f"{field}_number"] = fixed.get(f"{field}_number", 0) + 1
        value = str(value)
    if not isinstance(value, str):
        raise bad_field(where, field, f"must be text, not {type(value).__name__}", "wrong_type")
    clean = " ".join(value.split())
    if not clean:
        raise bad_field(where, field, "is empty", f"empty_{field}")
    if clean != value:
        fixed[f"{field}_whitespace"] = fixed.get(f"{field}_whitespace", 0) + 1
    return clean


def choice_field(row: dict, field: str, where: str, allowed: tuple[str, ...]) -> str:
    """A text that is one of ``allowed`` after trimming, in any case; returned as in ``allowed``."""
    value = text_field(row, field, where, {})
    for choice in allowed:
        if value.casefold() == choice.casefold():
            return choice
    raise bad_field(where, field, f"must be one of {', '.join(allowed)}: {value!r}", "wrong_value")


def qid_field(row: dict, where: str) -> str:
    """The question's id as text; an integer or a text of any length above zero."""
    value = row.get("qid")
    if isinstance(value, bool) or not isinstance(value, (int, str)) or not str(value).strip():
        raise bad_field(where, "qid", f"must be a number or text: {value!r}", "wrong_type")
    return str(value).strip()


def image_field(row: dict, field: str, where: str, folder: Path) -> Path:
    """The absolute path of the row's image, which must lie under ``folder``."""
    name = text_field(row, field, where, {})
    if Path(name).is_absolute() or re.match(r"[A-Za-z]:[\\/]", name):
        raise bad_field(where, field, f"must be relative to {folder}: {name}", "image_outside")
    return resolve_image(name, folder=folder, where=where, field=field)
