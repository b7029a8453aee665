"""Published data sets beside SLAKE and VQA-RAD, as their makers and their hub mirrors lay them out:
a row of ``LAYOUTS`` each, which says how to read it as anybody's table (``kit.data.own``).

``data/README.md`` says where each comes from, and what is known of it.
"""

from __future__ import annotations

import functools
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kit.data.columns import Layout
from kit.data.tables import HUB, SPLITS, Row, Table, read_table
from kit.errors import DataError

Values = dict[str, Any]
Quirk = Callable[[Values, Path], Iterable[Values]]  # of a row's values, and the folder of the set

_WHOLE = 0.97  # of both sides: a box that leaves nothing to look away from
_LETTERED = re.compile(r"\s*([A-Z])\s*:\s*", re.DOTALL)
_NUMBER = re.compile(r"\d+(?:\.\d+)?|\.\d+")
_LOCATION = re.compile(r"\s*<loc_(\d+)_(\d+)_(\d+)_(\d+)>")


def _without_empty(row: Values, _: Path) -> Iterable[Values]:
    """Choices that are not there may be empty text."""
    yield {name: v for name, v in row.items() if not (isinstance(v, str) and not v.strip())}


def _without_letters(row: Values, _: Path) -> Iterable[Values]:
    """Choices begin with their letter: " A:Maxilla "."""
    clean = dict(row)
    for name, value in row.items():
        found = _LETTERED.match(value) if isinstance(value, str) else None
        if found and name.lower().startswith("choice") and name[-1].upper() == found[1]:
            clean[name] = value[found.end() :]
    yield clean


def _one_modality(row: Values, _: Path) -> Iterable[Values]:
    """One file of OmniMedVQA calls the column otherwise than the others."""
    yield {"modality_type": row.get("modality"), **row} if "modality" in row else row


def _questions_of_images(row: Values, _: Path) -> Iterable[Values]:
    """A row an image, with its questions in a list. Boxes are tokens, which stand in answers too,
    where they count pixels of the original and teach nothing; a negative one has none."""
    for number, found in enumerate(row.get("vqa") or []):
        question = found if isinstance(found, dict) else {}
        location = question.get("gt_location")
        if isinstance(location, str):
            location = [[int(v) for v in box] for box in _LOCATION.findall(location)]
        elif isinstance(location, list) and location and not isinstance(location[0], list):
            location = [location]
        label = question.get("gt_finding") or "finding"
        yield {
            **question,
            "image": row.get("image_id"),
            "qid": f"{row.get('image_id')}_{number}",
            "answer": _LOCATION.sub("", str(question.get("answer", ""))).strip(),
            "boxes": [{"label": label, "box": box} for box in location or []],
        }


def _with_grounding(row: Values, folder: Path) -> Iterable[Values]:
    """Boxes stand in a table of their own; one of the whole image is no evidence."""
    found = _grounding(folder / "grounding.csv").get(row.get("case_id"), {})
    numbers = [float(v) for v in _NUMBER.findall(str(found.get("roi_bbox_norm", "")))]
    boxes = [{"label": found.get("roi_pointer") or "evidence", "box": numbers}]
    if len(numbers) != 4 or min(numbers[2] - numbers[0], numbers[3] - numbers[1]) >= _WHOLE:
        boxes = []
    yield {**row, "boxes": boxes}


@functools.lru_cache(maxsize=1)
def _grounding(path: Path) -> dict[str, Values]:
    """The boxes by their case.

    Raises:
        DataError: the table is not there.
    """
    rows = [row.value for row in read_table(path).rows if isinstance(row.value, dict)]
    return {row.get("case_id"): row for row in rows}


@dataclass(frozen=True)
class Published:
    """One layout of a data set.

    ``tables`` gives the split of the files that a pattern finds below the set's folder; ``images``
    are folders of which the first that is there holds the images, ``{split}`` being that of the
    file's folder; ``suffixes`` are tried after an image's name; ``elsewhere`` says why an image may
    be missing, whose rows are then left out and counted.
    """

    form: str
    tables: Mapping[str, str]
    columns: Mapping[str, str] = field(default_factory=dict)
    images: tuple[str, ...] = (".",)
    suffixes: tuple[str, ...] = ("",)
    box_convention: str | None = None
    box_format: str | None = None
    quirks: tuple[Quirk, ...] = (_without_empty,)
    elsewhere: str = ""


_PARQUET = {f"**/{name}-*.parquet": SPLITS[name] for name in ("train", "validation", "test")}

LAYOUTS: dict[str, tuple[Published, ...]] = {
    "PathVQA": (
        Published(
            "as published (pvqa/)",
            {
                "qas/train/train_qa.pkl": "train",
                "qas/val/val_qa.pkl": "validate",
                "qas/test/test_qa.pkl": "test",
            },
            images=("images/{split}",),
            suffixes=(".jpg",),
        ),
        Published("as flaviagiammarino/path-vqa has it", _PARQUET),
    ),
    "PMC-VQA": (
        Published(
            "as published, version 2 (single figures)",
            {"train_2.csv": "train", "test_2.csv": "test"},
            {"image": "Figure_path", "answer": "Answer", "split": ""},
            images=("images_2/figures", "figures", "images_2"),
            quirks=(_without_empty, _without_letters),
        ),
        Published(
            "as published, version 1 (compound figures), its clean test split",
            {"train.csv": "train", "test_clean.csv": "test"},
            {"image": "Figure_path", "answer": "Answer_label"},
            images=("images",),
            quirks=(_without_empty, _without_letters),
        ),
        Published(
            "as mdwiratathya/PMC-VQA_small has it",
            _PARQUET,
            {"answer": "answer label"},
            quirks=(_without_empty, _without_letters),
        ),
        Published("as OctoMed/PMC-VQA has it", _PARQUET),
    ),
    "OmniMedVQA": (
        Published(
            "as published, the part with open access",
            {"QA_information/Open-access/*.json": "test"},
            {"answer": "gt_answer", "modality": "modality_type"},
            quirks=(_without_empty, _one_modality),
        ),
        Published(
            "as simwit/omni-med-vqa and its -mini have it",
            _PARQUET,
            {"answer": "gt_answer", "modality": "modality"},
        ),
    ),
    "VinDr-CXR-VQA": (
        Published(
            "as published (data_v1.json), with images of VinDr-CXR at their full size",
            {"data_v1.json": "", "vqa.json": ""},
            {"content_type": "type", "boxes": "boxes"},
            images=("images", "train", "."),
            suffixes=(".png", ".jpg", ".jpeg"),
            box_convention="pixels",
            box_format="xyxy",
            quirks=(_questions_of_images,),
            elsewhere="it is no image of VinDr-CXR's folder that was given",
        ),
    ),
    "MedVIGIL": (
        Published(
            "as published (manifest.csv, grounding.csv)",
            {"manifest.csv": "test"},
            {"image": "image_file", "answer": "gold_answer", "qid": "case_id", "boxes": "boxes"},
            images=("images",),
            box_convention="unit",
            box_format="xyxy",
            quirks=(_with_grounding,),
            elsewhere="images of MIMIC-CXR and CheXpert are no part of the release",
        ),
    ),
}


def read_published(name: str, source: str | Path) -> tuple[Table, Layout]:
    """The rows of a data set of ``LAYOUTS`` in a folder, or of one of its mirrors (``hf:...``), and
    how they are read. ``Table.notes`` tells which layout it is.

    Raises:
        DataError: the folder is laid out as none of them, or its files are damaged.
    """
    if str(source).startswith(HUB):
        table = read_table(source)
        splits = [row.where.split("[")[-2].rstrip("]") for row in table.rows]  # name[split][number]
        pairs = zip(table.rows, splits, strict=True)
        table.rows = [replace(row, split=SPLITS.get(split, "")) for row, split in pairs]
        forms = [form for form in LAYOUTS[name] if _fits(form, table)]
        return _read(name, table, forms[0] if forms else LAYOUTS[name][-1], Path())
    given = Path(source)
    if not given.is_dir():
        raise DataError("no such folder", where=given, fix="data/README.md says how to obtain it")
    inner = sorted(path for path in given.iterdir() if path.is_dir())
    for form in LAYOUTS[name]:
        for folder in (given, *inner):
            table = _table_of(form, folder)
            if table and _fits(form, table):
                return _read(name, table, form, folder)
    files = ", or ".join(", ".join(form.tables) for form in LAYOUTS[name])
    fix = f"it takes {files}, with the images; data/README.md says how to obtain them"
    raise DataError(f"no {name} in this folder", where=given, fix=fix)


def _table_of(form: Published, folder: Path) -> Table | None:
    """All tables of a layout in a folder, as they stand; None if there is none."""
    whole = Table(str(folder), [], folder / ".images")
    for pattern, split in form.tables.items():
        for path in sorted(folder.glob(pattern)):
            if path.suffix == ".pkl":
                rows = _pickled_rows(path)
            else:
                table = read_table(path)
                rows, whole.notes = table.rows, whole.notes + table.notes
            places = [folder / place.format(split=path.parent.name) for place in form.images]
            base = next((place for place in places if place.is_dir()), folder)
            whole.rows += [replace(row, folder=base, split=split) for row in rows]
    return whole if whole.rows else None


def _fits(form: Published, table: Table) -> bool:
    """Whether a table has the columns that a layout names, as far as quirks do not make them."""
    made = {"", "boxes", "modality_type", "type"}
    return set(form.columns.values()) - made <= _names(table.rows[:100])


def _names(rows: Iterable[Row]) -> set[str]:
    return {name for row in rows if isinstance(row.value, dict) for name in row.value}


def _read(name: str, table: Table, form: Published, folder: Path) -> tuple[Table, Layout]:
    _grounding.cache_clear()
    rows, missing = [], 0
    for row in table.rows:
        if not isinstance(row.value, dict):  # broken, as the reader will say
            rows.append(row)
            continue
        values = [row.value]
        for quirk in form.quirks:
            values = [after for value in values for after in quirk(value, folder)]
        placed = [_placed(value, form, row.folder) for value in values]
        missing += placed.count(None)
        rows += [replace(row, value=value | {"dataset": name}) for value in placed if value]
    if not rows:
        raise DataError(f"none of the images of {name} is here", where=folder, fix=form.elsewhere)
    table.rows = rows
    table.notes.append(f"read {form.form}")
    if missing:
        table.notes.append(f"{missing} questions were left out: {form.elsewhere}")
    there = {"", *_names(rows)}
    columns = {field: column for field, column in form.columns.items() if column in there}
    return table, Layout(columns, form.box_convention, form.box_format)


def _placed(value: Values, form: Published, folder: Path) -> Values | None:
    """A row whose image has its suffix, or None for one that is elsewhere."""
    column = form.columns.get("image", "image")
    name = value.get(column)
    if not isinstance(name, str) or (form.suffixes == ("",) and not form.elsewhere):
        return value
    for suffix in form.suffixes:
        if (folder / f"{name}{suffix}").is_file():
            return {**value, column: f"{name}{suffix}"}
    return None if form.elsewhere else {**value, column: f"{name}{form.suffixes[0]}"}


class _PlainPickle(pickle.Unpickler):
    """Reads lists, dicts, texts and numbers alone: anything else could run what it likes."""

    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"it holds a {module}.{name}, and plain values alone are read")


def _pickled_rows(path: Path) -> Iterator[Row]:
    try:
        with path.open("rb") as stream:
            values = _PlainPickle(stream).load()
    except Exception as error:  # a damaged pickle may raise anything
        what = f"cannot be read: {str(error) or type(error).__name__}"
        raise DataError(what, where=path, fix="fetch it again") from error
    for number, value in enumerate(values if isinstance(values, list) else []):
        if isinstance(value, dict):
            yield Row(f"{path}[{number}]", value, path.parent)
