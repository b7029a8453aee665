"""Typed configuration of a study, and the keys of its file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from kit.command import option, require
from kit.errors import ConfigError


@dataclass
class StudyConfig:
    """Train several systems with several seeds, evaluate all alike, and put them on one page."""

    study: str = option("", help="file that names systems, seeds and data, or one that is shipped")
    output: str = option("", help="folder for everything; left out: the one that the file names")
    page: str = option("", help="folder for its page; left out: page in that folder")
    reference: str = option(
        "", help="system with which the others are compared; left out: the one that the file names"
    )
    only: list[str] = option(
        help="systems that are run, beside the reference; left out: all", default_factory=list
    )
    seeds: list[int] = option(
        help="seeds that are run; left out: those of the file", default_factory=list
    )
    parallel: int = option(1, help="runs at a time; the cores are shared among them")
    page_only: bool = option(False, help="run nothing, make the page of what is there")
    dry_run: bool = option(False, help="say what would be run, and what is done")

    def __post_init__(self):
        if not self.study:
            fix = "medvqa study arena, or the path of a file of your own"
            raise ConfigError("study is not given", where="study", fix=fix)
        require(self.parallel >= 1, "parallel", "must be at least 1", self.parallel)


@dataclass
class ChooseConfig:
    """Choose the questions of GRPO: those whose evidence can be put to the test, and others."""

    data: str = option("", help="records: of cf_proxy, or of prepare_data")
    output: str = option("", help="the data file to write")
    others: float = option(1.0, help="other questions, for each of these, as far as kinds allow")
    least_drop: float | None = option(
        None,
        help="drop in the probability of the gold answer, without its evidence beyond without "
        "controls, as cf_proxy measured it; left out: any evidence that controls match",
    )
    seed: int = option(0, help="of the order, and of the others")

    def __post_init__(self):
        for name in ("data", "output"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is not given", where=name, fix=f"set --{name}")
        for name in ("others", "seed"):
            value = getattr(self, name)
            require(0 <= value < math.inf, name, "must not be negative", value)
        drop = self.least_drop
        require(drop is None or 0 <= drop < 1, "least_drop", "must be in [0, 1)", drop)


@dataclass
class StudyFile:
    """The keys of a study file. Those of each stage stand under its name as on its command line;
    ``cfg`` names a file that they go over."""

    output: str = option("", help="folder for everything")
    seeds: list[int] = option(
        help="of SFT and of what starts from it", default_factory=lambda: [0, 1, 2]
    )
    reference: str = option("sft", help="system with which the others are compared")
    accelerate_config: str | None = option(None, help="a file of accelerate_configs/")
    phantoms: dict = field(default_factory=dict)  # images of train, prompts and test, and seed
    data: dict = field(default_factory=dict)  # name: a file, or keys of prepare_data
    train_sft: dict = field(default_factory=dict)  # what every system starts from
    cf_proxy: dict = field(default=None)  # if it is there, GRPO's records come from it,
    choose_prompts: dict = field(default=None)  # and of those that there are from this
    train_grpo: dict = field(default_factory=dict)  # the budget
    systems: dict = field(default_factory=dict)  # name: keys over those of train_grpo
    evaluate: dict = field(default_factory=dict)
    evaluations: dict = field(default_factory=dict)  # name: keys over those of evaluate
    resources: dict = field(default_factory=dict)  # on SLURM, by command

    def __post_init__(self):
        if not self.output:
            fix = "output: runs/NAME"
            raise ConfigError("the file names no folder", where="output", fix=fix)
        twice = len(set(self.seeds)) < len(self.seeds)
        if not self.seeds or twice or min(self.seeds) < 0:
            what, fix = "seeds must be different numbers from 0 on", "seeds: [0, 1, 2, 3, 4]"
            raise ConfigError(what, where=f"seeds: {self.seeds}", fix=fix)
