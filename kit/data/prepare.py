"""The first stage: read the published layouts, check everything, write SFT records and a report.

What is known of the published files (an empty answer, duplicates, white space) is fixed or
dropped and counted. Anything else that is broken is an error: ``strict`` stops at the first,
the default lists all, ``skip_bad`` drops and counts.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.progress import track

from kit.command import option
from kit.data import audit, slake, vqa_rad
from kit.data.download import download
from kit.data.fields import bad_field
from kit.data.images import open_image
from kit.data.questions import RawQuestion, Row
from kit.data.report import by_dataset, print_summary, write_prepared
from kit.data.targets import to_sft_record
from kit.errors import ConfigError, DataError, ImageError, RecordError

KNOWN_TRAPS = ("known_empty_answer",)
DUPLICATE = "duplicate"
SHARED_IMAGE = "image_shared_with_test"


@dataclass(frozen=True)
class PrepareConfig:
    """Prepare SLAKE and VQA-RAD for training and evaluation."""

    output: str = option(help="data file to write, one JSON record a line")
    dataset: Literal["SLAKE", "VQA_RAD", "both"] = option("both", help="which dataset to read")
    split: Literal["train", "validate", "test"] = option("train", help="which split to prepare")
    slake_root: str = option("data/SLAKE", help="folder with SLAKE's train.json and imgs/")
    vqa_rad_root: str = option("data/VQA_RAD", help="folder with VQA-RAD's JSON and images")
    lang: Literal["en", "zh", "both"] = option("en", help="language of SLAKE's questions")
    download: bool = option(False, help="fetch the datasets from their public hub mirrors first")
    image_disjoint: bool = option(
        False, help="drop VQA-RAD training rows whose image is in the test split"
    )
    leaks: Literal["drop", "keep", "refuse"] = option(
        "drop", help="what to do with training rows that give away test rows"
    )
    strict: bool = option(False, help="stop at the first broken row")
    skip_bad: bool = option(False, help="drop broken rows and count them in the report")

    def __post_init__(self):
        if self.strict and self.skip_bad:
            raise _contradiction("--strict", "--skip_bad", "choose one")
        if self.image_disjoint and self.dataset == "SLAKE":
            raise _contradiction("--image_disjoint", "--dataset SLAKE", "it is for VQA-RAD")
        if self.image_disjoint and self.split != "train":
            raise _contradiction(
                "--image_disjoint", f"--split {self.split}", "it is for train only"
            )
        if self.dataset == "VQA_RAD" and self.split == "validate":
            fix = "use --split train or test, or hold out rows of train"
            raise ConfigError("VQA-RAD has no validate split", where="--split", fix=fix)
        if self.dataset != "SLAKE" and self.lang == "zh":
            raise _contradiction("--lang zh", f"--dataset {self.dataset}", "VQA-RAD is in English")
        self._check_output()

    def _check_output(self) -> None:
        output = Path(self.output)
        if not self.output.strip() or output.is_dir():
            raise ConfigError("is not a file name", where=f"--output {output}", fix="name a file")
        sources = [Path(self.slake_root, f"{name}.json") for name in ("train", "test")]
        sources += [Path(self.slake_root, f"{name}.json") for name in ("validate", "validation")]
        sources += [Path(self.vqa_rad_root, vqa_rad.PUBLIC_FILE)]
        if os.path.abspath(output) in map(os.path.abspath, sources):
            what = "would overwrite the dataset itself"
            raise ConfigError(what, where=f"--output {output}", fix="choose another name")

    @property
    def datasets(self) -> tuple[str, ...]:
        """The datasets to read, in the order of the output."""
        if self.dataset != "both":
            return (self.dataset,)
        if self.split == "validate":  # VQA-RAD has none
            return (slake.DATASET,)
        return slake.DATASET, vqa_rad.DATASET

    def root(self, dataset: str) -> Path:
        """The folder of a dataset."""
        return Path(self.slake_root if dataset == slake.DATASET else self.vqa_rad_root)


def prepare(config: PrepareConfig) -> dict:
    """Run the stage; returns the report that was written to ``<output>.report.json``.

    Raises:
        UserError: data missing or broken, leaks under ``refuse``, disk full. Neither file is
            written or changed then.
    """
    pictures = _Pictures()
    rows, fixed = _read(config)
    kept, problems = _sort_out(rows, pictures, config)
    known = Counter(p.reason for p in problems if p.reason in KNOWN_TRAPS)
    broken = [p for p in problems if p.reason not in KNOWN_TRAPS]
    if broken and not config.skip_bad:
        raise _broken_rows(broken)
    dropped = known + Counter(p.reason for p in broken)
    audits: dict = {}
    if config.split == "train":
        kept, reasons, audits = _audited(kept, pictures, config)
        dropped += reasons
    if not kept:
        raise DataError(
            f"no row is left: {dict(dropped)}", where=config.output, fix="see the report"
        )
    records = [to_sft_record(row, Path(config.output).parent) for row in kept]
    report = {
        "output": config.output,
        "dataset": config.dataset,
        "split": config.split,
        "lang": config.lang,
        "rows_in": len(rows),
        "rows_out": len(records),
        "dropped": dict(sorted(dropped.items())),
        "fixed": dict(sorted(fixed.items())),
        **audits,
        "by_dataset": by_dataset(records),
        "notes": _notes(config),
        "broken": [{"where": str(p.where), "reason": p.reason, "what": p.what} for p in broken],
    }
    write_prepared(Path(config.output), records, report)
    print_summary(report)
    return report


class _Pictures:
    """Every image decoded once: its mistake if it has one, else its thumbnail."""

    def __init__(self):
        self._known: dict[Path, np.ndarray | ImageError] = {}

    def look(self, path: Path) -> np.ndarray | ImageError:
        """``[1024]`` thumbnail of an image, or what is wrong with it."""
        if path not in self._known:
            try:
                self._known[path] = audit.thumbnail(open_image(path))
            except ImageError as error:
                self._known[path] = error
        return self._known[path]

    def thumbnails(self, rows: Iterable[RawQuestion]) -> dict[Path, np.ndarray]:
        """The thumbnails of the rows' images that can be decoded."""
        seen = {row.image: self.look(row.image) for row in rows}
        return {path: v for path, v in seen.items() if not isinstance(v, ImageError)}


def _read(config: PrepareConfig) -> tuple[list[Row], Counter[str]]:
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
    return vqa_rad.read_vqa_rad(config.root(dataset), split)


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
    seen = pictures.look(row.image)
    if not isinstance(seen, ImageError):
        return None
    what = f"{seen.what}: {seen.where}"
    return bad_field(row.where, row.image_field, what, "image_broken")


def _audited(
    rows: list[RawQuestion], pictures: _Pictures, config: PrepareConfig
) -> tuple[list[RawQuestion], Counter[str], dict]:
    """Training rows without duplicates and leaks, what was dropped, and the report's part."""
    test, notes = _test_rows(config)
    first: dict[tuple, RawQuestion] = {}
    for row in rows:
        first.setdefault(_triplet(row), row)
    unique = list(first.values())
    leaks = audit.find_leaks(unique, test)
    if leaks and config.leaks == "refuse":
        raise _leaking(leaks)
    leaking = {leak.row.where for leak in leaks} if config.leaks == "drop" else set()
    clean = [row for row in unique if row.where not in leaking]
    test_images = {row.image for row in test}
    shared = [r for r in clean if r.dataset == vqa_rad.DATASET and r.image in test_images]
    removed = {row.where for row in shared} if config.image_disjoint else set()
    kept = [row for row in clean if row.where not in removed]
    dropped = Counter({DUPLICATE: len(rows) - len(unique), SHARED_IMAGE: len(removed)})
    dropped.update(leak.kind for leak in leaks if leak.row.where in leaking)
    near = audit.near_duplicates(pictures.thumbnails(kept), pictures.thumbnails(test))
    counts = Counter(leak.kind for leak in leaks)
    report = {
        "leaks": {
            "policy": config.leaks,
            "found": {kind: counts[kind] for kind in audit.LEAK_KINDS},
            "unchecked": notes,
        },
        "vqa_rad_images_shared_with_test": {
            "images": len({row.image for row in shared}),
            "rows": len(shared),
            "removed": bool(removed),
        },
        "near_duplicates_of_test_images": len(near),
    }
    return kept, +dropped, report


def _triplet(row: RawQuestion) -> tuple:
    return row.dataset, row.image, row.question.casefold(), row.answer.casefold()


def _test_rows(config: PrepareConfig) -> tuple[list[RawQuestion], list[str]]:
    """The sound test rows in every language, and what of the test split could not be read."""
    found, unread = [], []
    for dataset in config.datasets:
        try:
            rows, _ = _read_split(config, dataset, "test", "both")
        except DataError as error:
            if config.leaks != "keep" and not config.image_disjoint:
                what = f"cannot check the training rows for leaks: {error.what}"
                fix = "put the test split beside the train split, or give --leaks keep"
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


def _contradiction(first: str, second: str, fix: str) -> ConfigError:
    return ConfigError(f"{first} contradicts {second}", where="command line", fix=fix)


def _notes(config: PrepareConfig) -> list[str]:
    if config.dataset == "both" and config.split == "validate":
        return ["VQA-RAD has no validate split: the output holds SLAKE's only"]
    return []
