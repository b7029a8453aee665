"""Typed configuration of reports and curves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from kit.command import option, require
from kit.data.columns import TableOptions
from kit.errors import ConfigError


@dataclass
class ReportConfig:
    """Put several evaluations side by side, with what they differ by and how sure that is."""

    evaluations: list[str] = option(
        help="name=folder of each, the folder being what evaluate wrote; the first is what the "
        "others are compared with",
        default_factory=list,
    )
    output: str = option("", help="folder for report.html, report.json and report.txt")
    cases_per_kind: int = option(
        6, help="answers of each kind, model and mode that the gallery shows; 0: no gallery"
    )
    seed: int = option(0, help="of the swaps of models that tests draw")

    def __post_init__(self):
        for name in ("evaluations", "output"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is not given", where=name, fix=f"set --{name}")
        for entry in self.evaluations:
            if not all(entry.partition("=")):
                fix = "write name=folder, as in sft=runs/eval_sft"
                raise ConfigError(f"{entry!r} has no name", where="evaluations", fix=fix)
        if len(self.folders) < len(self.evaluations):
            fix = "give each evaluation its own name"
            raise ConfigError("a name stands twice", where="evaluations", fix=fix)
        for name in ("cases_per_kind", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative", where=name, fix="fix the value")

    @property
    def folders(self) -> dict[str, Path]:
        """The folder of each evaluation by its name."""
        return {name: Path(p) for name, _, p in (e.partition("=") for e in self.evaluations)}


@dataclass
class CurvesConfig:
    """Draw the training curves of one or several runs."""

    runs: list[str] = option(
        help="run folders, or name=folder of each, as train_sft and train_grpo write them",
        default_factory=list,
    )
    output: str = option("", help="the page to write; left out: curves.html in the first run")
    watch: bool = option(
        False, help="write it again whenever a run has logged, until all have ended"
    )
    interval: float = option(10.0, help="seconds between looks, with watch")

    def __post_init__(self):
        if not self.runs:
            raise ConfigError("runs is not given", where="runs", fix="set --runs FOLDER")
        if len(self.folders) < len(self.runs):
            fix = "give each its own, as in --runs a=runs/1/sft b=runs/2/sft"
            raise ConfigError("two runs have one name", where="runs", fix=fix)
        if not 0 < self.interval < math.inf:
            what = f"interval must be positive, not {self.interval}"
            raise ConfigError(what, where="interval", fix="fix the value")

    @property
    def folders(self) -> dict[str, Path]:
        """The folder of each run by its name, which is the folder's own unless it is given."""
        named = {}
        for entry in self.runs:
            name, given, folder = entry.partition("=")
            named[name if given else Path(entry).name] = Path(folder if given else entry)
        return named

    @property
    def page(self) -> Path:
        return Path(self.output or next(iter(self.folders.values())) / "curves.html")


@dataclass
class LookConfig(TableOptions):
    """Look at the records of a data file before anything is trained on them."""

    data: str = option("", help="records: of prepare_data, of cf_proxy, or any table")
    output: str = option("", help="the page to write; left out: runs/look/NAME.html")
    limit: int = option(
        200, help="records that the page shows, as many of each kind as their share of the file"
    )
    seed: int = option(0, help="of which records these are")
    tokenizer: str = option(
        "", help="base model, by folder or hub name, whose tokens the targets are counted in"
    )

    def __post_init__(self):
        _ = self.layout  # which checks it
        if not self.data:
            fix = "set --data data/train.json"
            raise ConfigError("no data given", where="data", fix=fix)
        require(1 <= self.limit <= 5000, "limit", "must be 1 to 5000", self.limit)
        require(self.seed >= 0, "seed", "must not be negative", self.seed)

    @property
    def page(self) -> Path:
        """
        >>> LookConfig(data="data/train.json").page.as_posix()
        'runs/look/train.html'
        """
        name = self.data.rstrip("/").rpartition("/")[2]
        return Path(self.output or f"runs/look/{Path(name).stem}.html")


@dataclass
class CertifyConfig:
    """Find out which answers of an evaluated model may be given, so that at most a chosen share of
    them is wrong or does not need its boxes."""

    evaluation: str = option(
        "", help="folder that evaluate wrote, with --counterfactual true; it is split by image"
    )
    output: str = option("", help="folder for certificate.json and certificate.html")
    alpha: float = option(0.1, help="the share of bad answers among those given that is allowed")
    delta: float = option(0.05, help="the chance that a certificate is given that does not hold")
    calibration_share: float = option(
        0.5, help="of the images, to calibrate on; what is left shows how it holds. 1: all"
    )
    calibration: str = option(
        "", help="another evaluation of the same model to calibrate on; evaluation is held out"
    )
    batch: int | None = option(
        None,
        help="of how many next images the share is to hold; left out: as many as calibrated on; 0: "
        "of all that will ever come, which asks for less",
    )
    need: float = option(
        0.05,
        help="an answer needs its boxes if it loses so much more of its probability without them "
        "than without their controls",
    )
    resplits: int = option(200, help="other splits that are tried, to show how often it holds")
    examples: int = option(6, help="answers of each kind that the page shows")
    seed: int = option(0, help="of the splits")

    def __post_init__(self):
        for name in ("evaluation", "output"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is not given", where=name, fix=f"set --{name}")
        for name in ("alpha", "delta", "need"):
            value = getattr(self, name)
            require(0 < value < 1, name, "must lie between 0 and 1", value)
        share = self.calibration_share
        require(0 < share <= 1, "calibration_share", "must be above 0 and at most 1", share)
        for name in ("batch", "resplits", "examples", "seed"):
            value = getattr(self, name)
            require(value is None or value >= 0, name, "must not be negative", value)
