"""Reader of SLAKE (Liu et al. 2021, arXiv 2102.09542) in its original layout or its hub mirror's.

``root`` holds ``train.json``, ``validate.json`` (the mirror: ``validation.json``) and
``test.json``, and ``imgs/xmlabN/source.jpg`` with ``detection.json`` beside it. The mirror's
``imgs.zip`` is unpacked into ``imgs/`` once. A ``mask.png`` is never opened: those of X-rays are
the radiograph with the box and its label drawn on it.
"""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from kit.data.boxes import xywh_to_xyxy
from kit.data.evidence import find_evidence
from kit.data.fields import check_box
from kit.data.images import image_size
from kit.data.questions import (
    SPLITS,
    Fixed,
    RawQuestion,
    Row,
    bad_field,
    check_row,
    choice_field,
    image_field,
    load_json,
    load_rows,
    qid_field,
    text_field,
)
from kit.data.types import Region
from kit.errors import DataError, ImageError, RecordError
from kit.files import explain_os_error

DATASET = "SLAKE"
LANGUAGES = ("en", "zh")
KNOWN_EMPTY_ANSWERS = frozenset(["1622"])  # as published; any other empty answer is damage

_FILES = {
    "train": ("train.json",),
    "validate": ("validate.json", "validation.json"),
    "test": ("test.json",),
}
_UNPACKED_LIMIT = 8 * 1024**3


def read_slake(root: str | Path, split: str, language: str = "en") -> tuple[list[Row], Fixed]:
    """The questions of one split in file order, broken rows as the errors that describe them.

    ``language`` is ``en``, ``zh`` or ``both``. The second value counts what was fixed in rows
    that are returned. The published row without an answer comes back as a RecordError with
    reason ``known_empty_answer``.

    Raises:
        DataError: no such folder or file, not valid JSON, no list, no question of the language.
    """
    root = Path(root)
    path = split_file(root, split)
    unpack_images(root)
    images = _Images(root / "imgs")
    rows: list[Row] = []
    fixed: Fixed = {}
    for index, value in enumerate(load_rows(path)):
        where = f"{path}[{index}]"
        try:
            row = check_row(value, where)
            spoken = choice_field(row, "q_lang", where, LANGUAGES)
            if language in (spoken, "both"):
                rows.append(_question(row, where, split, spoken, images, fixed))
        except RecordError as error:
            rows.append(error)
    if not rows:
        fix = "choose another --lang"
        raise DataError(f"holds no question in language {language!r}", where=path, fix=fix)
    return rows, fixed


def split_file(root: Path, split: str) -> Path:
    """The JSON file of a split.

    Raises:
        DataError: no such folder, or no such file in it.
    """
    if split not in SPLITS:
        raise ValueError(split)
    if not root.is_dir():
        fix = "give --slake_root, or fetch the dataset with --download (see data/README.md)"
        raise DataError("no SLAKE folder", where=root, fix=fix)
    names = _FILES[split]
    for name in names:
        if (root / name).is_file():
            return root / name
    fix = "give the folder that holds the three JSON files as --slake_root"
    raise DataError(f"no {' or '.join(names)}", where=root, fix=fix)


def unpack_images(root: Path) -> None:
    """Unpack the mirror's ``imgs.zip`` into ``imgs/``, whole or not at all; no-op without need.

    Raises:
        DataError: not a zip file, a member that would land outside the folder or is a link, too
            much data, neither ``imgs/`` nor ``imgs.zip``; UserError when the disk refuses.
    """
    folder, archive = root / "imgs", root / "imgs.zip"
    if folder.is_dir():
        return
    if not archive.is_file():
        raise DataError("neither imgs/ nor imgs.zip", where=root, fix="see data/README.md")
    temporary = None
    try:
        with zipfile.ZipFile(archive) as source:
            members = _safe_members(source, archive)
            temporary = Path(tempfile.mkdtemp(dir=root, prefix=".imgs."))
            temporary.chmod(0o755)
            for member, target in members:
                path = temporary / target
                path.parent.mkdir(parents=True, exist_ok=True)
                with source.open(member) as packed, path.open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked)
        temporary.rename(folder)
    except (zipfile.BadZipFile, RuntimeError, EOFError, zlib.error) as error:
        raise DataError(f"broken zip file: {error}", where=archive, fix="fetch it again") from error
    except OSError as error:
        raise explain_os_error(error, folder) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _safe_members(
    source: zipfile.ZipFile, archive: Path
) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    members, total = [], 0
    for member in source.infolist():
        parts = PurePosixPath(member.filename.replace("\\", "/")).parts
        if not parts or ".." in parts or member.filename.startswith(("/", "\\")) or ":" in parts[0]:
            what = f"a member would land outside the folder: {member.filename!r}"
            raise DataError(what, where=archive, fix="do not use this archive")
        if stat.S_ISLNK(member.external_attr >> 16):
            what = f"a member is a link: {member.filename!r}"
            raise DataError(what, where=archive, fix="do not use this archive")
        total += member.file_size
        if total > _UNPACKED_LIMIT:
            raise DataError("unpacks to over 8 GiB", where=archive, fix="do not use this archive")
        if member.is_dir() or parts[0] == "__MACOSX":
            continue
        inside = parts[parts.index("imgs") + 1 :] if "imgs" in parts else parts
        members.append((member, PurePosixPath(*inside)))
    return members


class _Images:
    """What is known of each image: read once, remembered with its mistakes."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._known: dict[Path, tuple[tuple[int, int], tuple[Region, ...]] | RecordError] = {}

    def facts(self, path: Path, where: str) -> tuple[tuple[int, int], tuple[Region, ...]]:
        """``(width, height)`` and all labelled boxes of an image.

        Raises:
            RecordError: the image's header or its detection.json is broken.
        """
        if path not in self._known:
            try:
                size = image_size(path)
                self._known[path] = size, _regions(path.parent / "detection.json", size, where)
            except ImageError as error:
                what = f"{error.what}: {error.where}"
                self._known[path] = bad_field(where, "img_name", what, "image_broken")
            except RecordError as error:
                self._known[path] = error
        known = self._known[path]
        if isinstance(known, RecordError):
            raise RecordError(known.what, reason=known.reason, where=where)
        return known


def _question(
    row: dict, where: str, split: str, language: str, images: _Images, fixed: Fixed
) -> RawQuestion:
    qid = qid_field(row, where)
    if qid in KNOWN_EMPTY_ANSWERS and row.get("answer") == "":
        raise bad_field(where, "answer", f"is empty (qid {qid})", "known_empty_answer")
    counted: Fixed = {}
    question = text_field(row, "question", where, counted)
    answer = text_field(row, "answer", where, counted, number_as_text=True)
    content_type = text_field(row, "content_type", where, {})
    image = image_field(row, "img_name", where, images.folder)
    size, regions = images.facts(image, where)
    found = RawQuestion(
        dataset=DATASET,
        qid=qid,
        split=split,
        question=question,
        answer=answer,
        answer_type=choice_field(row, "answer_type", where, ("OPEN", "CLOSED")),
        image=image,
        image_size=size,
        where=where,
        image_field="img_name",
        content_type=content_type,
        modality=text_field(row, "modality", where, {}),
        location=text_field(row, "location", where, {}),
        language=language,
        regions=regions,
        evidence=find_evidence(regions, question, answer, content_type),
    )
    for name, count in counted.items():
        fixed[name] = fixed.get(name, 0) + count
    return found


def _regions(path: Path, size: tuple[int, int], where: str) -> tuple[Region, ...]:
    """The boxes of a ``detection.json``: one-key objects of x, y, width, height in pixels."""
    name = f"{path.parent.name}/{path.name}"
    try:
        items = load_json(path)
    except DataError as error:
        raise RecordError(f"{name}: {error.what}", reason="bad_boxes", where=where) from error
    if not isinstance(items, list):
        raise RecordError(f"{name}: must hold a list", reason="bad_boxes", where=where)
    regions = []
    for index, item in enumerate(items):
        if not isinstance(item, dict) or not item:
            what = f"{name}[{index}]: must be an object of label and box"
            raise RecordError(what, reason="bad_boxes", where=where)
        for label, box in item.items():
            regions.append(_region(label, box, size, f"{name}[{index}] {label!r}", where))
    return tuple(regions)


def _region(label: str, box, size: tuple[int, int], name: str, where: str) -> Region:
    fine = isinstance(box, list) and len(box) == 4
    if not fine or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in box):
        what = f"{name}: must be four numbers: {box!r}"
        raise RecordError(what, reason="bad_box", where=where)
    corners = xywh_to_xyxy(box)
    problem = check_box(corners, size)
    if problem:
        raise RecordError(f"{name}: {problem}", reason="bad_box", where=where)
    width, height = size
    x1, y1, x2, y2 = corners
    clipped = max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        what = f"{name}: is outside the image of {width}x{height}: {list(corners)}"
        raise RecordError(what, reason="bad_box", where=where)
    return Region(" ".join(label.split()), clipped)
