"""What is to be submitted: pieces of work, the jobs that they make, and what waits for what."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kit.command import option, parse_mapping, parse_part, require
from kit.errors import ConfigError
from kit.files import sha256_of
from kit.run.launch_files import read_launch_file
from kit.shipped import LAUNCHES, find
from kit.yaml_files import read_yaml
from slurm.resources import Cluster, Resources, read_part
from slurm.stages import Stage, stage_named


@dataclass
class Entry:
    """The keys of a stage in a pipeline file, and of a sweep file."""

    stage: str = option("train_grpo", help="in a pipeline file its name, if left out")
    accelerate_config: str | None = option(None, help="a file of accelerate_configs/")
    at_once: int | None = option(None, help="of shards or runs, how many at a time; or all")
    config: dict = field(default_factory=dict)
    resources: dict = field(default_factory=dict)

    def __post_init__(self):
        least = self.at_once is None or self.at_once >= 1
        require(least, "at_once", "must be at least 1", self.at_once)

    @property
    def launch(self) -> Path | None:
        return find(self.accelerate_config, LAUNCHES) if self.accelerate_config else None

    def own(self, where: object) -> dict:
        """Its own keys of :class:`Resources`, typed."""
        return read_part(Resources, self.resources, f"{where}, resources")


@dataclass
class PipelineEntry(Entry):
    shards: int = option(1, help="jobs that share an evaluation")


@dataclass
class PipelineFile:
    run: str = option("runs/pipeline", help="run folder")
    stages: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """One run of a stage with its resolved configuration.

    ``shown``: of a sweep's, the point of the grid and the metrics that its table shows.
    """

    name: str
    stage: Stage
    config: object
    shown: dict = field(default_factory=dict)

    @property
    def output(self) -> Path:
        return self.stage.output_of(self.config)


@dataclass(frozen=True)
class Job:
    """What SLURM gets: one piece of work, or several as an array.

    ``after``: the jobs that must have ended well before this one starts. ``at_once``: elements of
    an array that may run at a time. ``shards_of``: the job that merges what the elements make.
    """

    name: str
    works: tuple[Work, ...]
    resources: Resources
    launch: Path | None = None
    after: tuple[str, ...] = ()
    at_once: int | None = None
    shards_of: str | None = None


def require_launch(launch: Path | None, resources: Resources, work: Work) -> None:
    """
    Raises:
        ConfigError: the accelerate configuration is missing or for one process only, or it, its
            DeepSpeed file and the configuration of a training run contradict each other.
    """
    if launch is None:
        return
    file = read_launch_file(launch)
    if file.kind == "NO" and resources.tasks > 1:
        raise ConfigError(
            f"{work.name}: {resources.tasks} processes under a configuration for one",
            where=f"accelerate_config: {launch}",
            fix="use multi_gpu.yaml or a zero*.yaml, or ask for one GPU on one node",
        )
    if work.stage.trains:
        from kit.plan.launches import plan_of_file  # loads torch

        plan_of_file(
            str(launch), work.config, processes=resources.tasks,
            bf16="none" if file.content.get("use_cpu") else "native", hidden_size=lambda: 1,
        )  # fmt: skip


def jobs_of(
    name: str, entry: PipelineEntry, config: object, cluster: Cluster, where: object
) -> list[Job]:
    """The jobs of one run of a stage: itself, or its shards and the merging of them.

    Raises:
        ConfigError: it cannot be split, or launched like that.
    """
    stage = stage_named(entry.stage, where)
    own, launch = entry.own(where), entry.launch
    resources = cluster.resources(stage.kind, launch, own)
    require(entry.shards >= 1, "shards", "must be at least 1", entry.shards)
    work = Work(name, stage, config)
    require_launch(launch, resources, work)
    if entry.shards == 1:
        if entry.at_once:
            what, fix = f"at_once {entry.at_once} of one job", "say into how many: shards"
            raise ConfigError(what, where=f"{name}: at_once", fix=fix)
        return [Job(name, (work,), resources, launch)]
    if not hasattr(config, "num_shards"):
        fix = "evaluate and cf_proxy can"
        raise ConfigError(f"{entry.stage} cannot be split", where=f"{name}: shards", fix=fix)
    parts = f"{name}_shards"
    split = [replace(config, num_shards=entry.shards, shard_index=i) for i in range(entry.shards)]
    works = tuple(Work(f"{parts}/{i}", stage, part) for i, part in enumerate(split))
    return [
        Job(parts, works, resources, launch, at_once=entry.at_once, shards_of=name),
        Job(name, (work,), cluster.light(own), after=(parts,)),
    ]


def read_pipeline(path: str | Path, cluster: Cluster, run: str | None) -> tuple[Path, list[Job]]:
    """The run folder and the jobs of a pipeline file, in the order in which they can run.

    Who reads what another makes, waits for it: nothing else has to be said about order.

    Raises:
        ConfigError: an unknown key, stage or value, or stages that wait for each other.
    """
    content = PipelineFile(**parse_part(PipelineFile, read_yaml(path, as_text=True), path))
    folder = Path(run or content.run)
    jobs: list[Job] = []
    for name, written in content.stages.items():
        where = f"{path}, stages: {name}"
        if not re.fullmatch(r"\w[\w.-]*", str(name)):
            raise ConfigError(f"{name!r} cannot name a stage", where=where, fix="rename it")
        entry = PipelineEntry(**{"stage": name} | parse_part(PipelineEntry, written, where))
        stage = stage_named(entry.stage, where)
        config = parse_mapping(stage.config_class, filled(entry.config, folder), where)
        jobs += jobs_of(name, entry, config, cluster, where)
    if not jobs:
        raise ConfigError("no stages", where=path, fix="see slurm/pipeline.yaml")
    return folder, in_order(jobs, path)


def filled(value, run: Path):
    """A value with ``{run}`` replaced by the run folder.

    >>> filled({"data": "{run}/a.json", "more": ["x={run}/b"]}, Path("runs/c"))
    {'data': 'runs/c/a.json', 'more': ['x=runs/c/b']}
    """
    if isinstance(value, dict):
        return {key: filled(inner, run) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, run) for inner in value]
    return value.replace("{run}", str(run)) if isinstance(value, str) else value


def in_order(jobs: Sequence[Job], where: object) -> list[Job]:
    """Jobs with ``after`` filled by who reads whose output, each behind those that it waits for.

    Raises:
        ConfigError: two write the same, or some wait for each other.
    """
    made: dict[str, str] = {}
    for job in jobs:
        if job.shards_of:
            continue
        for work in job.works:
            path = os.path.abspath(work.output)
            if path in made:
                what = f"{job.name} and {made[path]} both write {work.output}"
                raise ConfigError(what, where=where, fix="give each its own output")
            made[path] = job.name
    waiting = {job.name: _after(job, made) for job in jobs}
    by_name = {job.name: job for job in jobs}
    ordered: list[Job] = []
    while waiting:
        free = [name for name, after in waiting.items() if not after & waiting.keys()]
        if not free:
            what = f"{' and '.join(waiting)} wait for each other"
            raise ConfigError(what, where=where, fix="let none read what a later one makes")
        for name in free:
            after = tuple(sorted(waiting.pop(name)))
            ordered.append(replace(by_name[name], after=after))
    return ordered


def _after(job: Job, made: dict[str, str]) -> set[str]:
    found = set(job.after)
    for work in job.works:
        for path in inputs_of(work):
            for folder in (path, *path.parents):
                found.add(made.get(str(folder), job.name))
    return found - {job.name, job.shards_of}


def inputs_of(work: Work) -> Iterator[Path]:
    """The paths, absolute, that a configuration names, but for those that it writes."""
    written = (work.stage.output, "output", "images_dir", "resume_from_checkpoint")
    for key, value in vars(work.config).items():
        if key in written or key == "source":
            continue
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and text:
                yield Path(os.path.abspath(text.partition("=")[2] or text))


# ------------------------------------------------------------------------ fingerprints
def fingerprints(jobs: Sequence[Job]) -> dict[str, str]:
    """What the result of each piece of work depends on, as one number: its configuration, how it
    is launched, the files that it reads, and the work that it waits for."""
    outputs = {os.path.abspath(work.output) for job in jobs for work in job.works}
    shards = {job.name for job in jobs if job.shards_of}  # into how many does not matter
    by_job: dict[str, list[str]] = {}
    found: dict[str, str] = {}
    for job in jobs:
        for work in job.works:
            facts = {
                "stage": work.stage.name,
                "config": dataclasses.asdict(work.config),
                "launch": _launch_facts(job) if work.stage.trains else None,
                "reads": [_digest(path, outputs) for path in inputs_of(work)],
                "after": [x for n in job.after if n not in shards for x in by_job.get(n, [])],
            }
            text = json.dumps(facts, sort_keys=True, default=str)
            found[work.name] = hashlib.sha256(text.encode()).hexdigest()
            by_job.setdefault(job.name, []).append(found[work.name])
    return found


def _launch_facts(job: Job) -> list:
    """What a training run depends on beside its configuration."""
    if job.launch is None:
        return [job.resources.tasks]
    file = read_launch_file(job.launch)
    counted = ("num_processes", "num_machines")  # SLURM says how many
    content = {key: value for key, value in file.content.items() if key not in counted}
    settings = file.deepspeed_file.read_text(encoding="utf-8") if file.deepspeed_file else None
    return [job.resources.tasks, content, settings]


def _digest(path: Path, outputs: set[str]) -> list | None:
    """What stands at a path that no work of the plan writes."""
    if not path.exists() or any(str(p) in outputs for p in (path, *path.parents)):
        return None
    if path.is_file():
        return [sha256_of(path)]
    return sorted(
        [str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns]
        for p in path.rglob("*")
        if p.is_file()
    )
