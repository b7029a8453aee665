"""The first stage: read the published layouts, check everything, write SFT records and a report.

What is known of the published files (an empty answer, duplicates, white space) is fixed or
dropped and counted. Anything else that is broken is an error: ``strict`` stops at the first,
the default lists all, ``skip_bad`` drops and counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from kit.data import audit, likeness, slake, vqa_rad
from kit.data.config import PrepareConfig
from kit.data.download import download
from kit.data.fields import bad_field
from kit.data.images import open_image
from kit.data.prepare_own import OwnSplits
from kit.data.questions import RawQuestion, Row
from kit.data.report import by_dataset, print_summary, write_prepared
from kit.data.targets import to_sft_record
from kit.errors import DataError, ImageError, RecordError

KNOWN_TRAPS = ("known_empty_answer",)
DUPLICATE = "duplicate"
SHARED_IMAGE = "image_shared_with_test"
NEAR_DUPLICATE = "near_duplicate_of_test_image"
HELD_OUT = "held_out_for_validation"


def prepare(config: PrepareConfig) -> dict:
    """Run the stage; returns the report that was written to ``<output>.report.json``.

    Raises:
        UserError: data missing or broken, leaks under ``refuse``, disk full. Neither file is
            written or changed then.
    """
    pictures = _Pictures()
    own = OwnSplits(config, pictures.thumbnails) if config.is_own else None
    rows, fixed = _read(config, own)
    kept, problems = _sort_out(rows, pictures, config)
    known = Counter(p.reason for p in problems if p.reason in KNOWN_TRAPS)
    broken = [p for p in problems if p.reason not in KNOWN_TRAPS]
    if broken and not config.skip_bad:
        raise _broken_rows(broken)
    dropped = known + Counter(p.reason for p in broken)
    audits: dict = {}
    left_out = 0  # training rows that are no rows of the validate split
    if config.validate_share is not None and own is None:
        parted, audits = _parted(kept, pictures, config)
        left_out = len(kept) - len(parted)
        kept = parted
        if config.split == "train":
            dropped[HELD_OUT], left_out = left_out, 0
    if training := [row for row in kept if row.split == "train"]:
        clean, reasons, found = _audited(training, pictures, config, own)
        kept = [row for row in kept if row.split != "train"] + clean
        dropped += reasons
        audits |= found
    if not kept:
        raise DataError(
            f"no row is left: {dict(dropped)}", where=config.output, fix="see the report"
        )
    folder = Path(config.output).parent
    records = [to_sft_record(_of_split(row, config), folder) for row in kept]
    report = {
        "output": config.output,
        "dataset": config.dataset,
        "split": config.split,
        "lang": config.lang,
        "rows_in": len(rows) - left_out,
        "rows_out": len(records),
        "dropped": dict(sorted(dropped.items())),
        "fixed": dict(sorted(fixed.items())),
        **audits,
        "by_dataset": by_dataset(records),
        "by_split": dict(Counter(record.split for record in records)),
        "notes": _notes(config) + (own.notes if own else []),
        "broken": [{"where": str(p.where), "reason": p.reason, "what": p.what} for p in broken],
    }
    write_prepared(Path(config.output), records, report)
    print_summary(report)
    return report


def _of_split(row: RawQuestion, config: PrepareConfig) -> RawQuestion:
    """Of VQA-RAD's training rows some are of the validate split."""
    return row if config.split == "all" else replace(row, split=config.split)


class _Pictures:
    """Every image decoded once: its mistake if it has one, else its thumbnail."""

    def __init__(self):
        self._known: dict[Path, np.ndarray | ImageError] = {}

    def look(self, path: Path) -> np.ndarray | ImageError:
        """``[1024]`` thumbnail of an image, or what is wrong with it."""
        if path not in self._known:
            try:
                self._known[path] = likeness.thumbnail(open_image(path))
            except ImageError as error:
                self._known[path] = error
        return self._known[path]

    def thumbnails(self, rows: Iterable[RawQuestion]) -> dict[Path, np.ndarray]:
        """The thumbnails of the rows' images that can be decoded."""
        seen = {path: self.look(path) for row in rows for path in row.images}
        return {path: v for path, v in seen.items() if not isinstance(v, ImageError)}


def _read(config: PrepareConfig, own: OwnSplits | None) -> tuple[list[Row], Counter[str]]:
    if own:
        return own.of(config.split), Counter(own.fixed)
    rows: list[Row] = []
    fixed: Counter[str] = Counter()
    for dataset in config.datasets:
        if config.download:
            download(dataset, config.root(dataset))
        found, counted = _read_split(config, dataset, config.split, config.lang)
        rows += found
        fixed.update(counted)
    return rows, fixed


def _read_split(config: PrepareConfig, dataset: str, split: str, language: str):
    if dataset == slake.DATASET:
        return slake.read_slake(config.root(dataset), split, language)
    return vqa_rad.read_vqa_rad(config.root(dataset), "test" if split == "test" else "train")


def _sort_out(
    rows: list[Row], pictures: _Pictures, config: PrepareConfig
) -> tuple[list[RawQuestion], list[RecordError]]:
    """Sound rows and broken ones; every image is decoded. Strict raises at the first broken."""
    kept, problems = [], []
    console = Console(stderr=True)
    for row in track(
        rows, "checking images", console=console, transient=True, disable=not console.is_terminal
    ):
        problem = row if isinstance(row, RecordError) else _image_problem(row, pictures)
        if problem is None:
            kept.append(row)
            continue
        problems.append(problem)
        if config.strict and problem.reason not in KNOWN_TRAPS:
            raise _broken_rows([problem])
    return kept, problems


def _image_problem(row: RawQuestion, pictures: _Pictures) -> RecordError | None:
    for path in row.images:
        if isinstance(seen := pictures.look(path), ImageError):
            what = f"{seen.what}: {seen.where}"
            return bad_field(row.where, row.image_field, what, "image_broken")
    return None


def _parted(
    rows: list[RawQuestion], pictures: _Pictures, config: PrepareConfig
) -> tuple[list[RawQuestion], dict]:
    """The rows of the split where VQA-RAD's training images are parted, and the report's part."""
    own = [row for row in rows if row.dataset == vqa_rad.DATASET]
    images = likeness.held_out(pictures.thumbnails(own), config.validate_share)
    held = sum(row.image in images for row in own)
    wanted = config.split == "validate"
    kept = [r for r in rows if r.dataset != vqa_rad.DATASET or (r.image in images) == wanted]
    found = {"share": config.validate_share, "images": len(images), "rows": held}
    return kept, {"vqa_rad_held_out_for_validation": found}


def _unique(rows: list[RawQuestion]) -> list[RawQuestion]:
    first: dict[tuple, RawQuestion] = {}
    for row in rows:
        key = row.dataset, row.images, row.question.casefold(), row.answer.casefold()
        first.setdefault(key, row)
    return list(first.values())


def _audited(
    rows: list[RawQuestion], pictures: _Pictures, config: PrepareConfig, own: OwnSplits | None
) -> tuple[list[RawQuestion], Counter[str], dict]:
    """Training rows without duplicates and leaks, what was dropped, and the report's part."""
    if own:
        test = own.tests_as_in(rows)
        notes = [] if test else ["leaks: no test split (see --test_data and --test_share)"]
        own.notes += notes
    else:
        test, notes = _test_rows(config, dict.fromkeys(row.dataset for row in rows))
    unique = _unique(rows)
    leaks = audit.find_leaks(unique, test)
    if leaks and config.leaks == "refuse":
        raise _leaking(leaks)
    leaking = {leak.row.where for leak in leaks} if config.leaks == "drop" else set()
    clean = [row for row in unique if row.where not in leaking]
    test_images = {path for row in test for path in row.images}
    shared = [
        row
        for row in clean
        if (own or row.dataset == vqa_rad.DATASET) and test_images.intersection(row.images)
    ]
    removed = {row.where for row in shared} if config.image_disjoint else set()
    kept = [row for row in clean if row.where not in removed]
    near = _near_duplicates(kept, test, pictures)
    alike = [row for row in kept if near.intersection(row.images)]
    drop = config.near_duplicates == "drop"
    if drop:
        kept = [row for row in kept if not near.intersection(row.images)]
    dropped = Counter({DUPLICATE: len(rows) - len(unique), SHARED_IMAGE: len(removed)})
    dropped.update(leak.kind for leak in leaks if leak.row.where in leaking)
    dropped[NEAR_DUPLICATE] = len(alike) if drop else 0
    counts = Counter(leak.kind for leak in leaks)
    report = {
        "leaks": {
            "policy": config.leaks,
            "found": {kind: counts[kind] for kind in audit.LEAK_KINDS},
            "unchecked": notes,
        },
        "images_shared_with_test" if own else "vqa_rad_images_shared_with_test": {
            "images": len({path for row in shared for path in row.images} & test_images),
            "rows": len(shared),
            "removed": bool(removed),
        },
        "near_duplicates": {
            "policy": config.near_duplicates,
            "images": len(near),
            "rows": len(alike),
        },
        "near_duplicates_of_test_images": 0 if drop else len(near),  # that are left
    }
    return kept, +dropped, report


def _near_duplicates(
    train: list[RawQuestion], test: list[RawQuestion], pictures: _Pictures
) -> set[Path]:
    """The training images that look like another file in the test split of their dataset."""
    found: set[Path] = set()
    for dataset in dict.fromkeys(row.dataset for row in train):
        own, others = ([r for r in rows if r.dataset == dataset] for rows in (train, test))
        found |= set(
            likeness.near_duplicates(pictures.thumbnails(own), pictures.thumbnails(others))
        )
    return found


def _test_rows(
    config: PrepareConfig, datasets: Iterable[str]
) -> tuple[list[RawQuestion], list[str]]:
    """The sound test rows of the datasets in the languages that are prepared (in another they give
    nothing away), and what of the test split could not be read."""
    found, unread = [], []
    for dataset in datasets:
        try:
            rows, _ = _read_split(config, dataset, "test", config.lang)
        except DataError as error:
            disjoint = config.image_disjoint and dataset == vqa_rad.DATASET
            if config.leaks != "keep" or config.near_duplicates == "drop" or disjoint:
                what = f"cannot check the training rows for leaks: {error.what}"
                fix = "put the test split beside the train split, or give --leaks keep"
                fix += " without --image_disjoint" * disjoint
                fix += " with --near_duplicates keep" * (config.near_duplicates == "drop")
                raise DataError(what, where=error.where, fix=fix) from error
            unread.append(f"{dataset}: {error.what} ({error.where})")
            continue
        found += [row for row in rows if isinstance(row, RawQuestion)]
        broken = [r for r in rows if isinstance(r, RecordError) and r.reason not in KNOWN_TRAPS]
        if broken:
            unread.append(f"{dataset}: {len(broken)} broken test rows")
    return found, unread


def _broken_rows(problems: list[RecordError]) -> DataError:
    many = "rows" if len(problems) > 1 else "row"
    fix = "fix the data, or drop such rows with --skip_bad"
    return DataError(f"{len(problems)} broken {many}", fix=fix, problems=problems)


def _leaking(leaks: list[audit.Leak]) -> DataError:
    problems = [
        RecordError(f"{leak.kind} {leak.test_where}", reason=leak.kind, where=leak.row.where)
        for leak in leaks
    ]
    many = "rows give" if len(leaks) > 1 else "row gives"
    fix = "drop them with --leaks drop, or keep them with --leaks keep"
    return DataError(f"{len(leaks)} training {many} away test rows", fix=fix, problems=problems)


def _notes(config: PrepareConfig) -> list[str]:
    if config.dataset == "both" and config.split == "validate" and config.validate_share is None:
        return [
            "VQA-RAD has no validate split: the output holds SLAKE's only (see --validate_share)"
        ]
    return []
