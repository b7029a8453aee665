"""A grid of training runs as one job array, and the table of what has come out."""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kit.command import option, parse_mapping, parse_part
from kit.errors import ConfigError
from kit.yaml_files import read_yaml
from slurm.plan import Entry, Job, Work, filled, require_launch
from slurm.resources import Cluster
from slurm.stages import stage_named

RUNS = "runs"  # the job array


@dataclass
class SweepFile(Entry):
    run: str = option("runs/sweep", help="run folder")
    metrics: list[str] = option(help="columns of the table", default_factory=lambda: ["loss"])
    grid: dict = field(default_factory=dict)


def read_sweep(path: str | Path, cluster: Cluster, run: str | None) -> tuple[Path, list[Job]]:
    """The run folder and the job of a sweep file: an array with a run for each point of the grid.

    Raises:
        ConfigError: an unknown key or value.
    """
    content = SweepFile(**parse_part(SweepFile, read_yaml(path, as_text=True), path))
    folder = Path(run or content.run)
    stage = stage_named(content.stage, f"{path}, stage")
    if not stage.trains:
        raise ConfigError("only training can be swept", where=path, fix="train_sft or train_grpo")
    resources = cluster.resources(stage.kind, content.launch, content.own(path))
    fixed = filled(content.config, folder)
    works: list[Work] = []
    for number, point in enumerate(points(content.grid, path)):
        output = folder / name_of(point)
        if any(work.output == output for work in works):
            fix = "leave one out: they would write the same folder"
            raise ConfigError(f"two runs are named {output.name}", where=path, fix=fix)
        own = fixed | point | {"output_dir": str(output)}
        shown = {"point": point, "metrics": content.metrics}
        config = parse_mapping(stage.config_class, own, path)
        works.append(Work(f"{RUNS}/{number}", stage, config, shown))
        require_launch(content.launch, resources, works[-1])
    at_once = content.at_once or len(works)
    return folder, [Job(RUNS, tuple(works), resources, content.launch, at_once=at_once)]


def points(grid: dict, where: object) -> list[dict]:
    """All combinations.

    >>> points({"beta": [0, 0.04], "seed": [1, 2]}, "-")[1]
    {'beta': 0, 'seed': 2}

    Raises:
        ConfigError: a key has no list of values.
    """
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            what = f"grid: {key} has no list of values"
            raise ConfigError(what, where=where, fix=f"{key}: [a, b]")
    if not grid:
        raise ConfigError("no grid", where=where, fix="grid: {seed: [1, 2, 3]}")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def name_of(point: dict) -> str:
    """The folder of a run.

    >>> name_of({"weights": "0.2,0.4,0.2,0.2", "seed": 1})
    'weights=0.2-0.4-0.2-0.2_seed=1'
    """
    return "_".join(re.sub(r"[^\w.=-]+", "-", f"{k}={v}") for k, v in point.items())


def table_of_runs(runs: Sequence[tuple[dict, dict]]) -> list[list[str]]:
    """The points and metrics of runs as a table: a row for each point without its seed, with how
    many seeds there are, and mean and standard deviation (of a sample, n - 1) over them.

    >>> table_of_runs([({"beta": 0, "seed": s}, {"loss": s}) for s in (1, 3)])
    [['', 'n', 'loss'], ['beta 0', '2', '2 +- 1.41']]
    """
    names = list(dict.fromkeys(name for _, metrics in runs for name in metrics))
    groups: dict[str, list[dict]] = {}
    for point, metrics in runs:
        words = ", ".join(f"{key} {value}" for key, value in point.items() if key != "seed")
        groups.setdefault(words or "all", []).append(metrics)
    rows = [["", "n", *names]]
    for words, members in groups.items():
        cells = (_cell([metrics[x] for metrics in members if x in metrics]) for x in names)
        rows.append([words, str(len(members)), *cells])
    return rows


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = f" +- {statistics.stdev(values):.3g}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4g}{spread}"
