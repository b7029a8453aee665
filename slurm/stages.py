"""The commands that can be sent to SLURM: what each asks for, and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kit.cli import COMMANDS
from kit.errors import ConfigError
from kit.files import read_json


@dataclass(frozen=True)
class Stage:
    """A command of ``kit.cli`` by its ``name``.

    ``kind``: the part of cluster.yaml that it takes its resources from. ``made``: patterns of the
    files that are there when it has ended well, ``{}`` being the place that ``output``, a key of
    its configuration, says.
    """

    name: str
    kind: str
    made: tuple[str, ...]
    output: str = "output"

    @property
    def config_class(self) -> type:
        return COMMANDS[self.name].config_class

    def run(self, config: object) -> int:
        """Run it in this process; returns its exit code."""
        return COMMANDS[self.name].run(config)

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

    def parts_of(self, config: object) -> Path | None:
        """The folder of finished batches, if it keeps such (``kit.evaluate.parts``)."""
        output = self.output_of(config)
        places = {"evaluate": output / "parts", "cf_proxy": Path(f"{output}.parts")}
        return places.get(self.name)

    def progress(self, config: object) -> tuple[int, int | None, str]:
        """How much is done and safe, of how much if that is known, and the unit."""
        if self.trains:
            from kit.run.checkpoint import checkpoints, problem_with, step_of

            output = self.output_of(config)
            whole = (p for p in checkpoints(output) if problem_with(p, sums=False) is None)
            total = read_json(output / "environment.json").get("total_steps")
            return next(map(step_of, whole), 0), total, "steps"
        parts = self.parts_of(config)
        if parts is None:
            return 0, None, ""
        total = read_json(parts / "run.json").get("batches")
        shards, shard = config.num_shards, config.shard_index
        numbers = [int(p.stem) for p in parts.glob("*.jsonl")]
        own = sum(number % shards == shard for number in numbers)
        return own, len(range(shard, total, shards)) if total else None, "batches"


TRAINED = ("{}/summary.json", "{}/*.safetensors")
ALL = (
    Stage("prepare_data", "cpu", ("{}", "{}.report.json")),
    Stage("train_sft", "gpu", TRAINED, output="output_dir"),
    Stage("cf_proxy", "gpu", ("{}",)),
    Stage("train_grpo", "gpu", TRAINED, output="output_dir"),
    Stage("evaluate", "gpu", ("{}/predictions.jsonl", "{}/metrics.json", "{}/report.html")),
    Stage("phantoms", "cpu", ("{}/train.json", "{}/validate.json", "{}/test.json")),
    Stage("cf_pairs", "cpu", ("{}",)),
    Stage("choose_prompts", "cpu", ("{}",)),
    Stage("study", "cpu", ("{}/study.html", "{}/study.json", "{}/study.md"), output="page"),
    Stage("report", "cpu", ("{}/report.html", "{}/report.json", "{}/report.txt")),
)
STAGES = {stage.name: stage for stage in ALL}


def stage_named(name: str, where: object) -> Stage:
    """
    Raises:
        ConfigError: there is none of that name.
    """
    if name not in STAGES:
        fix = f"one of {', '.join(STAGES)}"
        raise ConfigError(f"there is no stage {name!r}", where=where, fix=fix)
    return STAGES[name]
