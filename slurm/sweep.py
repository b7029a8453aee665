"""A grid of training runs as one job array, and the table of what has come out."""

from __future__ import annotations

import dataclasses
import itertools
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kit.command import option, parse_mapping, parse_part
from kit.errors import ConfigError
from kit.yaml_files import read_yaml
from slurm.plan import Entry, Job, PipelineEntry, Work, filled, jobs_of, require_launch
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
    fixed = filled(content.config, folder)
    works = []
    for number, point in enumerate(points(content.grid, path)):
        output = folder / name_of(point)
        if any(work.output == output for work in works):
            fix = "leave one out: they would write the same folder"
            raise ConfigError(f"two runs are named {output.name}", where=path, fix=fix)
        config = parse_mapping(
            stage.config_class, fixed | point | {"output_dir": str(output)}, path
        )
        shown = {"point": point, "metrics": content.metrics}
        works.append(Work(f"{RUNS}/{number}", stage, config, shown))
    keys = {f.name: getattr(content, f.name) for f in dataclasses.fields(Entry)}
    (one,) = jobs_of(RUNS, PipelineEntry(**keys), works[0].config, cluster, path)
    for work in works[1:]:
        require_launch(content.launch, one.resources, work)
    at_once = content.at_once or len(works)
    return folder, [dataclasses.replace(one, works=tuple(works), at_once=at_once)]


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


# ------------------------------------------------------------------------ the table
def summarise(rows: Sequence[tuple[dict, dict]]) -> list[tuple[dict, int, dict]]:
    """Of the points and metrics of runs: each point without its seed, how many seeds there are, and
    mean and standard deviation (of a sample, n - 1; None of one) of each metric over them.

    >>> summarise([({"beta": 0, "seed": s}, {"loss": s}) for s in (1, 3)])
    [({'beta': 0}, 2, {'loss': (2, 1.4142135623730951)})]
    """
    groups: dict[tuple, list[dict]] = {}
    for point, metrics in rows:
        key = tuple((k, v) for k, v in point.items() if k != "seed")
        groups.setdefault(key, []).append(metrics)
    found = []
    for key, members in groups.items():
        spread = {}
        for name in dict.fromkeys(name for metrics in members for name in metrics):
            values = [metrics[name] for metrics in members if name in metrics]
            sd = statistics.stdev(values) if len(values) > 1 else None
            spread[name] = (statistics.mean(values), sd)
        found.append((dict(key), len(members), spread))
    return found


def cells_of(rows: Sequence[tuple[dict, dict]]) -> list[list[str]]:
    """The table for people.

    >>> cells_of([({"beta": 0, "seed": s}, {"loss": s}) for s in (1, 3)])
    [['', 'n', 'loss'], ['beta 0', '2', '2 +- 1.41']]
    """
    names = list(dict.fromkeys(name for _, metrics in rows for name in metrics))
    cells = [["", "n", *names]]
    for point, count, metrics in summarise(rows):
        words = ", ".join(f"{key} {value}" for key, value in point.items()) or "all"
        cells.append([words, str(count), *(_cell(*metrics.get(x, (None, None))) for x in names)])
    return cells


def _cell(mean: float | None, sd: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.4g}" + (f" +- {sd:.3g}" if sd is not None else "")
