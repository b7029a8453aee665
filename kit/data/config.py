"""The configuration of the first stage."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kit.command import option
from kit.data import slake, vqa_rad
from kit.data.columns import BoxFormat, Layout, parse_columns
from kit.errors import ConfigError


@dataclass(frozen=True)
class PrepareConfig:
    """Prepare SLAKE, VQA-RAD, another published set or your own data for training and
    evaluation."""

    output: str = option(help="data file to write, one JSON record a line")
    dataset: Literal[
        "SLAKE", "VQA_RAD", "both", "own",
        "PathVQA", "PMC-VQA", "OmniMedVQA", "VinDr-CXR-VQA", "MedVIGIL",
    ] = option(
        "both", help="which dataset to read; from own on, that of own_data (data/README.md)"
    )  # fmt: skip
    split: Literal["train", "validate", "test", "all"] = option(
        "train", help="which split to prepare; all: one file of your own data for every stage"
    )
    slake_root: str = option("data/SLAKE", help="folder with SLAKE's train.json and imgs/")
    vqa_rad_root: str = option("data/VQA_RAD", help="folder with VQA-RAD's JSON and images")
    own_data: str = option(
        "", help="your own: a CSV, JSON, JSON lines or Parquet file, a folder, or hf:owner/name"
    )
    test_data: str | None = option(
        None, help="its test split, where that is another file: what training rows may give away"
    )
    columns: list[str] = option(
        help="field=column of your own, where it names image, question, answer, ... otherwise",
        default_factory=list,
    )
    box_convention: Literal["pixels", "grid_1000", "unit"] | None = option(
        None, help="what the boxes of your own count, where their numbers do not tell"
    )
    box_format: BoxFormat | None = option(
        None, help="whether they are corners or corner and size, where they do not tell"
    )
    lang: Literal["en", "zh", "both"] = option("en", help="language of SLAKE's questions")
    download: bool = option(False, help="fetch the datasets from their public hub mirrors first")
    image_disjoint: bool = option(
        False, help="drop training rows of VQA-RAD or your own whose image is in the test split"
    )
    leaks: Literal["drop", "keep", "refuse"] = option(
        "drop", help="what to do with training rows that give away test rows"
    )
    near_duplicates: Literal["keep", "drop"] = option(
        "keep", help="what to do with training images that look like one of the test split"
    )
    validate_share: float | None = option(
        None, help="share of VQA-RAD's or your own training images that are the validate split"
    )
    test_share: float | None = option(
        None, help="share of your own images that are the test split, e.g. 0.2"
    )
    strict: bool = option(False, help="stop at the first broken row")
    skip_bad: bool = option(False, help="drop broken rows and count them in the report")

    def __post_init__(self):
        if self.strict and self.skip_bad:
            raise _contradiction("--strict", "--skip_bad", "choose one")
        if self.image_disjoint and self.dataset == "SLAKE":
            raise _contradiction("--image_disjoint", "--dataset SLAKE", "it is for VQA-RAD")
        if self.image_disjoint and self.split not in ("train", "all"):
            raise _contradiction(
                "--image_disjoint", f"--split {self.split}", "it is for train only"
            )
        if self.near_duplicates == "drop" and self.split not in ("train", "all"):
            raise _contradiction(
                "--near_duplicates drop", f"--split {self.split}", "it is for train only"
            )
        self._check_share()
        self._check_own()
        if self.dataset in ("VQA_RAD", "both") and self.lang == "zh":
            raise _contradiction("--lang zh", f"--dataset {self.dataset}", "VQA-RAD is in English")
        self._check_output()

    @property
    def is_own(self) -> bool:
        """Whether it is read from ``own_data``: anybody's, or another published set."""
        return self.dataset not in ("SLAKE", "VQA_RAD", "both")

    def _check_own(self) -> None:
        given = f"--dataset {self.dataset}"
        if self.is_own and not self.own_data:
            file = "my.csv" if self.dataset == "own" else f"data/{self.dataset}"
            raise ConfigError("no data given", where=given, fix=f"give --own_data {file}")
        if self.split == "all" and not self.is_own:
            raise _contradiction("--split all", given, "give one split")
        if self.is_own and self.download:
            raise _contradiction("--download", given, "hf:owner/name needs none")
        for name in ("own_data", "test_data", "test_share"):
            if getattr(self, name) and not self.is_own:
                raise _contradiction(f"--{name}", given, "give --dataset own")
        for name in ("columns", "box_convention", "box_format"):
            if getattr(self, name) and self.dataset != "own":
                raise _contradiction(f"--{name}", given, "give --dataset own")
        if self.test_data and self.test_share is not None:
            raise _contradiction("--test_share", "--test_data", "give one of them")
        if (self.test_share or 0) + (self.validate_share or 0) >= 1:
            what = "--test_share and --validate_share leave nothing to train on"
            raise ConfigError(what, where="command line", fix="give 0.2 and 0.1")
        _ = self.layout  # which checks the columns

    @property
    def layout(self) -> Layout:
        """How own data are read."""
        columns = parse_columns(self.columns)
        return Layout(columns, self.box_convention, self.box_format, split="all")

    def _check_share(self) -> None:
        if self.test_share is not None and not 0 < self.test_share < 1:
            what = f"must be a share above 0 and below 1, not {self.test_share}"
            raise ConfigError(what, where="--test_share", fix="give 0.2")
        share = self.validate_share
        if share is None:
            if self.dataset == "VQA_RAD" and self.split == "validate":
                fix = "give --validate_share 0.1, here and to --split train"
                raise ConfigError("VQA-RAD has no validate split", where="--split", fix=fix)
            return
        if not 0 < share < 1:
            what = f"must be a share above 0 and below 1, not {share}"
            raise ConfigError(what, where="--validate_share", fix="give 0.1")
        if self.dataset == "SLAKE":
            fix = "SLAKE has a validate split of its own"
            raise _contradiction("--validate_share", "--dataset SLAKE", fix)
        if self.split == "test" and not self.is_own:
            fix = "it is for train and validate"
            raise _contradiction("--validate_share", "--split test", fix)

    def _check_output(self) -> None:
        output = Path(self.output)
        if not self.output.strip() or output.is_dir():
            raise ConfigError("is not a file name", where=f"--output {output}", fix="name a file")
        sources = [Path(self.slake_root, f"{name}.json") for name in ("train", "test")]
        sources += [Path(self.slake_root, f"{name}.json") for name in ("validate", "validation")]
        sources += [Path(self.vqa_rad_root, vqa_rad.PUBLIC_FILE)]
        sources += [Path(path) for path in (self.own_data, self.test_data) if path]
        if os.path.abspath(output) in map(os.path.abspath, sources):
            what = "would overwrite the dataset itself"
            raise ConfigError(what, where=f"--output {output}", fix="choose another name")

    @property
    def datasets(self) -> tuple[str, ...]:
        """The datasets to read, in the order of the output."""
        if self.dataset != "both":
            return (self.dataset,)
        if self.split == "validate" and self.validate_share is None:  # VQA-RAD has none
            return (slake.DATASET,)
        return slake.DATASET, vqa_rad.DATASET

    def root(self, dataset: str) -> Path:
        """The folder of a dataset."""
        return Path(self.slake_root if dataset == slake.DATASET else self.vqa_rad_root)


def _contradiction(first: str, second: str, fix: str) -> ConfigError:
    return ConfigError(f"{first} contradicts {second}", where="command line", fix=fix)


@dataclass
class PhantomConfig:
    """Draw CT, MRI and X-ray phantoms with questions, in the layout of SLAKE."""

    output: str = option("data/phantoms", help="folder, to be given as --slake_root")
    train: int = option(240, help="images of the train split")
    validate: int = option(20, help="images of the validate split")
    test: int = option(40, help="images of the test split")
    seed: int = option(0, help="of what is drawn")
    twins: Literal["none", "train", "validate", "test"] = option(
        "none",
        help="the split that also holds each phantom without what decides a question, with the "
        "answers that are then true: pairs of images that differ in the evidence alone",
    )
