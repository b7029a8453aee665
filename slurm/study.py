"""The runs of a study as jobs: each waits for those whose output it reads, the page for all."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from kit.errors import ConfigError
from kit.study.config import StudyConfig
from kit.study.plan import LAUNCHED, plan
from kit.study.study_file import Study, read_study
from slurm.plan import Job, PipelineEntry, in_order, jobs_of
from slurm.resources import Cluster

PAGE = "page"  # the job that makes it


def read_study_jobs(path: str | Path, cluster: Cluster, run: str | None) -> tuple[Path, list[Job]]:
    """The run folder and the jobs of a study file (``kit.study``), in an order in which they can
    run. What ``resources`` of the file says of a command is for its jobs alone.

    Raises:
        ConfigError: an unknown key, command or value.
    """
    study = read_study(path, run or "")
    runs = plan(study)
    unknown = study.file.resources.keys() - {one.command for one in runs}
    if unknown:
        fix = "one of the commands that it runs"
        where = f"{study.path}, resources"
        raise ConfigError(f"no run is a {unknown.pop()}", where=where, fix=fix)
    jobs = []
    for one in runs:
        launch = study.file.accelerate_config if one.command in LAUNCHED else None
        entry = _entry(one.command, study, launch)
        jobs += jobs_of(one.name.replace("/", "."), entry, one.config, cluster, study.path)
    page = StudyConfig(
        study=os.path.abspath(study.path), output=str(study.folder),
        page=str(study.folder / PAGE), page_only=True,
    )  # fmt: skip
    (last,) = jobs_of(PAGE, _entry("study", study), page, cluster, study.path)
    after = tuple(one.name.replace("/", ".") for one in runs if one.evaluation)
    return study.folder, in_order([*jobs, replace(last, after=after)], study.path)


def _entry(command: str, study: Study, launch: str | None = None) -> PipelineEntry:
    resources = study.file.resources.get(command, {})
    return PipelineEntry(command, accelerate_config=launch, resources=resources)
