"""Reader of VQA-RAD (Lau et al. 2018, doi 10.1038/sdata.2018.251): original layout or hub mirror.

Original: ``VQA_RAD Dataset Public.json`` and ``VQA_RAD Image Folder/``; the test split is
``phrase_type`` ``test_*``, the train split the rest, and there is no validate split. Mirror:
parquet files with image, question and answer only; image files are written under ``images/`` by
the hash of their content. There are no boxes. ``image_case_url`` leads to the diagnosis and is
never read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kit.data.images import image_size
from kit.data.questions import (
    Fixed,
    RawQuestion,
    Row,
    bad_field,
    check_row,
    choice_field,
    image_field,
    load_rows,
    qid_field,
    text_field,
)
from kit.data.stored_images import stored_image
from kit.data.tables import parquet_rows
from kit.errors import DataError, ImageError, RecordError

DATASET = "VQA_RAD"
PUBLIC_FILE = "VQA_RAD Dataset Public.json"
IMAGE_FOLDER = "VQA_RAD Image Folder"
MIRROR_IMAGES = "images"

_PHRASE_TYPES = ("freeform", "para", "test_freeform", "test_para")
_RE_RELEASE_ROWS = (3064, 3515)  # its train split; train and test together
_TYPOS = {"ATRIB": "ATTRIB", "PRSE": "PRES"}


def read_vqa_rad(root: str | Path, split: str) -> tuple[list[Row], Fixed]:
    """The questions of ``train`` or ``test`` in file order, broken rows as their errors.

    The second value counts what was fixed in the rows that are returned.

    Raises:
        DataError: no such folder or file, not valid JSON, no row, or the re-release that leaks
            rewordings of test questions into its train split.
    """
    root = Path(root)
    if split not in ("train", "test"):
        raise DataError("VQA-RAD has no validate split", where=root, fix="use train or test")
    if not root.is_dir():
        fix = "give --vqa_rad_root, or fetch the dataset with --download (see data/README.md)"
        raise DataError("no VQA-RAD folder", where=root, fix=fix)
    if (root / PUBLIC_FILE).is_file():
        return _read_original(root, split)
    parquet = sorted(p for p in root.rglob("*.parquet") if p.name.startswith(f"{split}-"))
    if parquet:
        return _read_mirror(root, parquet, split)
    for name in ("trainset.json", "data_RAD/trainset.json", "data_rad/trainset.json"):
        if (root / name).is_file():
            raise _re_release(root / name, "it is trainset.json of data_RAD")
    what = f"neither {PUBLIC_FILE!r} nor {split}-*.parquet"
    raise DataError(what, where=root, fix="give the folder that holds it as --vqa_rad_root")


def _read_original(root: Path, split: str) -> tuple[list[Row], Fixed]:
    path = root / PUBLIC_FILE
    values = load_rows(path)
    _refuse_re_release(values, path)
    rows: list[Row] = []
    fixed: Fixed = {}
    sizes = _Sizes()
    for index, value in enumerate(values):
        where = f"{path}[{index}]"
        try:
            row = check_row(value, where)
            phrase = choice_field(row, "phrase_type", where, _PHRASE_TYPES)
            if phrase.startswith("test") == (split == "test"):
                rows.append(_question(row, where, split, root / IMAGE_FOLDER, sizes, fixed))
        except RecordError as error:
            rows.append(error)
    if not rows:
        raise DataError(f"holds no row of the {split} split", where=path, fix="fetch it again")
    return rows, fixed


def _refuse_re_release(values: list[Any], path: Path) -> None:
    frames = sum(
        isinstance(v, dict) and "frame" in str(v.get("phrase_type", "")).lower() for v in values
    )
    if frames:
        raise _re_release(path, f"{frames} rows are of phrase_type 'frame'")
    if len(values) in _RE_RELEASE_ROWS:
        raise _re_release(path, f"it holds {len(values)} rows")


def _re_release(path: Path, sign: str) -> DataError:
    what = f"is the re-release of VQA-RAD that came with MEVF ({sign})"
    fix = "its train split rewords test questions on the same images: use the official release"
    return DataError(what, where=path, fix=fix)


class _Sizes:
    """Sizes of images from their headers, read once."""

    def __init__(self):
        self._known: dict[Path, tuple[int, int] | ImageError] = {}

    def of(self, path: Path, field: str, where: str) -> tuple[int, int]:
        """``(width, height)``; RecordError where the header is broken."""
        if path not in self._known:
            try:
                self._known[path] = image_size(path)
            except ImageError as error:
                self._known[path] = error
        known = self._known[path]
        if isinstance(known, ImageError):
            raise bad_field(where, field, f"{known.what}: {known.where}", "image_broken")
        return known


def _question(
    row: dict, where: str, split: str, folder: Path, sizes: _Sizes, fixed: Fixed
) -> RawQuestion:
    counted: Fixed = {}
    image = image_field(row, "image_name", where, folder)
    found = RawQuestion(
        dataset=DATASET,
        qid=qid_field(row, where),
        split=split,
        question=_prose(row, "question", where, counted),
        answer=_prose(row, "answer", where, counted),
        answer_type=choice_field(row, "answer_type", where, ("OPEN", "CLOSED")),
        image=image,
        image_size=sizes.of(image, "image_name", where),
        where=where,
        image_field="image_name",
        content_type=_content_type(row, where, counted),
        location=text_field(row, "image_organ", where, {}),
        group=_optional(row, "qid_linked_id"),
        rewordings=tuple(filter(None, [_optional(row, "question_rephrase")])),
    )
    for name, count in counted.items():
        fixed[name] = fixed.get(name, 0) + count
    return found


def _prose(row: dict, field: str, where: str, fixed: Fixed) -> str:
    """A question or an answer: tabs that stand for commas and lost characters are fixed."""
    value = row.get(field)
    if isinstance(value, str):
        if "\t" in value.strip():
            _count(fixed, f"{field}_tab_for_comma")
            value = ", ".join(part.strip() for part in value.strip().split("\t"))
        if "�" in value:
            _count(fixed, f"{field}_lost_character")
            value = value.replace("�", " ")
        if value.strip() == "NULL":
            value = ""
        row = row | {field: value}
    return text_field(row, field, where, fixed, number_as_text=field == "answer")


def _content_type(row: dict, where: str, fixed: Fixed) -> str:
    value = text_field(row, "question_type", where, {})
    parts = [part.strip().upper() for part in value.split(",")]
    known = [_TYPOS.get(part, part) for part in parts if part]
    if known != parts:
        _count(fixed, "question_type_typo")
    return ", ".join(known)


def _optional(row: dict, field: str) -> str:
    value = row.get(field)
    text = " ".join(value.split()) if isinstance(value, str) else ""
    return "" if text.upper() == "NULL" else text


def _count(fixed: Fixed, name: str) -> None:
    fixed[name] = fixed.get(name, 0) + 1


def _read_mirror(root: Path, files: list[Path], split: str) -> tuple[list[Row], Fixed]:
    rows: list[Row] = []
    fixed: Fixed = {}
    sizes = _Sizes()
    for path in files:
        for where, value in parquet_rows(path):
            try:
                rows.append(_mirror_question(value, where, split, len(rows), root, sizes, fixed))
            except RecordError as error:
                rows.append(error)
    if not rows:
        raise DataError("holds no question", where=files[0], fix="fetch the file again")
    return rows, fixed


def _mirror_question(
    row: dict, where: str, split: str, number: int, root: Path, sizes: _Sizes, fixed: Fixed
) -> RawQuestion:
    question = _prose(row, "question", where, fixed)
    answer = _prose(row, "answer", where, fixed)
    image = _stored_image(row.get("image"), where, root)
    return RawQuestion(
        dataset=DATASET,
        qid=f"{split}-{number}",
        split=split,
        question=question,
        answer=answer,
        answer_type="CLOSED" if answer.casefold() in ("yes", "no") else "OPEN",
        image=image,
        image_size=sizes.of(image, "image", where),
        where=where,
    )


def _stored_image(value: Any, where: str, root: Path) -> Path:
    """The file under ``images/`` with the mirror's bytes, named by their SHA-256."""
    content = value.get("bytes") if isinstance(value, dict) else None
    if not isinstance(content, bytes) or not content:
        raise bad_field(where, "image", "holds no image bytes", "image_missing")
    return stored_image(content, root / MIRROR_IMAGES)
