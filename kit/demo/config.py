"""Typed configuration of the quickstart, and of making the embedded model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kit.command import option, require
from kit.errors import UserError


@dataclass
class QuickstartConfig:
    """Phantoms, prepared data, SFT, GRPO, and the evaluation of all three models, on a CPU."""

    output_dir: str = option("runs/quickstart", help="run folder", aliases=["--out_dir"])
    train_images: int = option(240, help="phantoms to train on")
    test_images: int = option(32, help="phantoms to evaluate on, none of which is trained on")
    sft_epochs: float = option(4.0, help="passes of SFT over the training questions")
    grpo_records: int = option(400, help="training questions that GRPO is done on")
    grpo_steps: int = option(20, help="steps of GRPO, each of 8 prompts with 8 completions")
    seed: int = option(0, help="of phantoms and training")

    def __post_init__(self):
        for name in ("train_images", "test_images", "grpo_records", "grpo_steps"):
            require(getattr(self, name) >= 1, name, "must be at least 1", getattr(self, name))
        require(0 < self.sft_epochs < math.inf, "sft_epochs", "must be above 0", self.sft_epochs)
        require(self.seed >= 0, "seed", "must not be negative", self.seed)
        folder = Path(self.output_dir)
        if folder.exists() and any(folder.iterdir()):
            fix = f"remove it, or choose another: --output_dir {self.output_dir}2"
            raise UserError("the run folder is not empty", where=folder, fix=fix)


@dataclass
class PretrainConfig:
    """Make the weights of the embedded model."""

    work_dir: str = option("runs/pretrain_tiny", help="where data and the run go")
    output: str = option("", help="where the base model goes; left out: into the kit")
    sight_pictures: int = option(4000, help="phantoms that teach it to see")
    sight_steps: int = option(1700, help="steps of learning to see, of 12 pictures")
    phantoms: int = option(1200, help="phantoms, a share of which show another one's image")
    exchanged: float = option(0.9, help="share of the phantoms whose images are exchanged")
    steps: int = option(300, help="steps of training on records")
    batch_size: int = option(24, help="records a step, each in both modes")
    lr: float = option(1e-3, help="peak learning rate of training on records")
    seed: int = option(2027, help="of drawings, weights and order; no other stage draws with it")


@dataclass
class BenchmarkConfig:
    """This kit beside TRL's trainers and transformers' generate (extra ``bench``)."""

    output: str = option("runs/benchmark.json", help="where the table goes, as JSON")
    shapes: list[str] = option(
        default_factory=lambda: ["usual", "sft slake", "evaluation slake"],
        help="of kit/demo/bench/cases.py",
    )
    steps: int = option(5, help="steps of each, after a first that is not counted")
    device: Literal["cpu", "cuda"] = option("cpu", help="cuda: one GPU, in bfloat16 if it has that")
    base_model: str = option("", help="hub name or folder; left out: 7M parameters, random weights")

    def __post_init__(self):
        require(self.steps >= 1, "steps", "must be at least 1", self.steps)
