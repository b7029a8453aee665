"""The stages that can be sent to SLURM: their configuration, what they run and what they leave."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kit.errors import ConfigError
from kit.files import read_json


@dataclass(frozen=True)
class Stage:
    """A stage by the names of its configuration class and function, so that naming one loads
    nothing.

    ``kind``: the part of cluster.yaml that it takes its resources from. ``made``: patterns of the
    files that are there when it has ended well, ``{}`` being the place that ``output``, a key of
    its configuration, says.
    """

    config: str
    function: str
    kind: str
    made: tuple[str, ...]
    output: str = "output"

    @property
    def config_class(self) -> type:
        return _load(self.config)

    @property
    def entry_point(self) -> Callable[[object], object]:
        """The function that runs it."""
        return _load(self.function)

    def run(self, config: object) -> int:
        """Run it in this process; returns its exit code."""
        code = self.entry_point(config)
        return code if isinstance(code, int) else 0  # prepare returns its report

    @property
    def trains(self) -> bool:
        """Whether it is a training run, which goes on from its checkpoints."""
        return self.output == "output_dir"

    def output_of(self, config: object) -> Path:
        return Path(getattr(config, self.output))

    def files_of(self, config: object) -> list[Path]:
        """What it has made; a pattern without a file stands for itself, as missing."""
        found: list[Path] = []
        if getattr(config, "num_shards", 1) > 1:  # its batches go when they are merged
            return found
        for pattern in self.made:
            path = Path(pattern.format(self.output_of(config)))
            found += sorted(path.parent.glob(path.name)) or [path]
        return found

    def progress(self, config: object) -> tuple[int, int | None, str]:
        """How much is done and safe, of how much if that is known, and the unit."""
        output = self.output_of(config)
        if self.trains:
            from kit.run.checkpoint import checkpoints, problem_with, step_of

            whole = (p for p in checkpoints(output) if problem_with(p, sums=False) is None)
            total = read_json(output / "environment.json").get("total_steps")
            return next(map(step_of, whole), 0), total, "steps"
        parts = parts_of(self, config)
        if parts is None:
            return 0, None, ""
        total = read_json(parts / "run.json").get("batches")
        shards, shard = config.num_shards, config.shard_index
        numbers = [int(p.stem) for p in parts.glob("*.jsonl")]
        own = sum(number % shards == shard for number in numbers)
        return own, len(range(shard, total, shards)) if total else None, "batches"


def _train(config: str, function: str) -> Stage:
    made = ("{}/summary.json", "{}/*.safetensors")
    return Stage(config, function, "gpu", made, output="output_dir")


STAGES = {
    "prepare_data": Stage(
        "kit.data.prepare:PrepareConfig", "kit.data.prepare:prepare", "cpu",
        ("{}", "{}.report.json"),
    ),
    "train_sft": _train("kit.train.config:SftConfig", "kit.train.sft:train"),
    "cf_proxy": Stage(
        "kit.evaluate.config:CfProxyConfig", "kit.evaluate.cf_proxy:cf_proxy", "gpu", ("{}",)
    ),
    "train_grpo": _train("kit.grpo.config:GrpoConfig", "kit.grpo.grpo:train"),
    "evaluate": Stage(
        "kit.evaluate.config:EvaluateConfig", "kit.evaluate.evaluation:evaluate", "gpu",
        ("{}/predictions.jsonl", "{}/metrics.json", "{}/report.html"),
    ),
    "report": Stage(
        "kit.report.config:ReportConfig", "kit.report.report:report", "cpu",
        ("{}/report.html", "{}/report.json", "{}/report.txt"),
    ),
    "sweep_table": Stage(
        "slurm.sweep:TableConfig", "slurm.sweep:table", "cpu", ("{}/table.json", "{}/table.txt")
    ),
}  # fmt: skip


def stage_named(name: str, where: object) -> Stage:
    """
    Raises:
        ConfigError: there is none of that name.
    """
    if name not in STAGES:
        fix = f"one of {', '.join(STAGES)}"
        raise ConfigError(f"there is no stage {name!r}", where=where, fix=fix)
    return STAGES[name]


def parts_of(stage: Stage, config: object) -> Path | None:
    """The folder of finished batches of a stage that keeps such (``kit.evaluate.parts``)."""
    output = stage.output_of(config)
    if stage is STAGES["evaluate"]:
        return output / "parts"
    return output.with_name(f"{output.name}.parts") if stage is STAGES["cf_proxy"] else None


def _load(name: str):
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
