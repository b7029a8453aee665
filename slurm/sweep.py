"""A grid of training runs as one job array, and the table of what came out."""

from __future__ import annotations

import dataclasses
import itertools
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kit.command import option, parse_mapping, parse_part, require
from kit.errors import ConfigError
from kit.files import atomic_write, log_rows, write_json
from kit.yaml_files import read_yaml
from slurm.plan import Entry, Job, Work, filled, job_of, require_launch
from slurm.records import Record, records_of
from slurm.resources import Resources, read_cluster
from slurm.stages import STAGES, stage_named
from slurm.status import columns, status_of

RUNS = "runs"  # the job array


@dataclass
class SweepFile(Entry):
    run: str = option("runs/sweep", help="run folder")
    at_once: int | None = option(None, help="runs at a time; all if left out")
    metrics: list[str] = option(help="columns of the table", default_factory=lambda: ["loss"])
    grid: dict = field(default_factory=dict)


@dataclass
class TableConfig:
    """Gather the last metrics of the runs of a sweep; seeds are averaged over."""

    run: str = option("", help="run folder of the sweep")
    keys: list[str] = option(help="what differs between runs", default_factory=list)
    metrics: list[str] = option(help="columns", default_factory=list)
    output: str = option("", help="folder for table.json and table.txt")


def read_sweep(path: str | Path, cluster: str | Path, run: str | None) -> tuple[Path, list[Job]]:
    """The run folder and the jobs of a sweep file: an array with a run for each point of the grid,
    and the table when all have ended, well or not.

    Raises:
        ConfigError: an unknown key or value.
    """
    content = SweepFile(**parse_part(SweepFile, read_yaml(path, as_text=True), path))
    folder = Path(run or content.run)
    stage = stage_named(content.stage, f"{path}, stage")
    if not stage.trains:
        raise ConfigError("only training can be swept", where=path, fix="train_sft or train_grpo")
    at_once, launch, grid = content.at_once, content.launch, content.grid
    require(at_once is None or at_once >= 1, "at_once", "must be at least 1", at_once)
    resources = content.resources_for(stage, cluster, path)
    fixed = filled(content.config, folder)
    works = []
    for number, point in enumerate(points(grid, path)):
        output = folder / name_of(point)
        if any(work.output == output for work in works):
            fix = "leave one out: they would write the same folder"
            raise ConfigError(f"two runs are named {output.name}", where=path, fix=fix)
        config = parse_mapping(
            stage.config_class, fixed | point | {"output_dir": str(output)}, path
        )
        works.append(Work(f"{RUNS}/{number}", stage, config))
    (one,) = job_of(RUNS, content.stage, works[0].config, resources, launch, 1, cluster)
    for work in works[1:]:
        require_launch(launch, one.resources, work.name, stage, work.config)
    runs = dataclasses.replace(one, works=tuple(works), at_once=at_once or len(works))
    table = TableConfig(
        run=str(folder),
        keys=list(grid),
        metrics=content.metrics,
        output=str(folder / "table"),
    )
    light = Resources(**read_cluster(cluster, "cpu"))
    work = Work("table", STAGES["sweep_table"], table)
    return folder, [runs, Job("table", (work,), light, after=(RUNS,), after_any=True)]


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
def table(config: TableConfig) -> int:
    """Write ``table.json`` and ``table.txt``; returns the exit code."""
    run = Path(config.run)
    states = {s.name: s for s in status_of(run)}
    rows, failures = [], []
    for name, record in records_of(run).items():
        if not name.startswith(f"{RUNS}/"):
            continue
        settings = record.config
        point = {key: getattr(settings, key) for key in config.keys}
        if record.has_ended_well():
            rows.append({"point": point, "metrics": last_metrics(record, config.metrics)})
        else:
            state = states[name]
            failures.append(
                {"point": point, "state": state.state, "why": state.why, "logs": state.logs}
            )
    groups = summarise(rows, config.metrics)
    found = {"groups": groups, "runs": rows, "failures": failures}
    write_json(Path(config.output) / "table.json", found)
    text = text_of(groups, failures, config.metrics)
    with atomic_write(Path(config.output) / "table.txt") as stream:
        stream.write(text)
    print(text)
    return 0


def last_metrics(record: Record, names: Sequence[str]) -> dict[str, float]:
    """The last value that a run logged of each metric."""
    found = {}
    for row in log_rows(record.stage.output_of(record.config) / "metrics.jsonl")[0]:
        found |= {name: row[name] for name in names if name in row}
    return found


def summarise(rows: Sequence[dict], names: Sequence[str]) -> list[dict]:
    """Mean and standard deviation (of a sample, n - 1) over the seeds of each point.

    >>> rows = [{"point": {"beta": 0, "seed": s}, "metrics": {"loss": s}} for s in (1, 3)]
    >>> summarise(rows, ["loss"])[0]["metrics"]
    {'loss': {'mean': 2, 'sd': 1.4142135623730951, 'n': 2}}
    """
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        key = tuple((k, str(v)) for k, v in row["point"].items() if k != "seed")
        groups.setdefault(key, []).append(row["metrics"])
    found = []
    for key, members in groups.items():
        metrics = {}
        for name in names:
            values = [m[name] for m in members if name in m]
            if values:
                spread = statistics.stdev(values) if len(values) > 1 else None
                metrics[name] = {"mean": statistics.mean(values), "sd": spread, "n": len(values)}
        found.append({"point": dict(key), "metrics": metrics})
    return found


def text_of(groups: Sequence[dict], failures: Sequence[dict], names: Sequence[str]) -> str:
    """The table for people; the failed runs below it, each with its reason and log."""
    lines = [["", "n", *names]]
    for group in groups:
        metrics = group["metrics"]
        n = max((m["n"] for m in metrics.values()), default=0)
        cells = [_cell(metrics.get(name)) for name in names]
        lines.append([_words(group["point"]) or "all", str(n), *cells])
    text = "\n".join(columns(lines))
    for failure in failures:
        why = f" ({failure['why']})" if failure["why"] else ""
        text += f"\n{_words(failure['point'])}: {failure['state']}{why}; {failure['logs']}"
    return text + "\n"


def _words(point: dict) -> str:
    return ", ".join(f"{key} {value}" for key, value in point.items())


def _cell(found: dict | None) -> str:
    if found is None:
        return "-"
    spread = f" +- {found['sd']:.3g}" if found["sd"] is not None else ""
    return f"{found['mean']:.4g}{spread}"
