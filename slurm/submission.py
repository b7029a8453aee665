"""Submitting a plan: what is done is left out, what was begun goes on, what changed starts anew."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import submitit
import yaml

import kit
from kit.command import to_yaml
from kit.errors import UserError
from kit.files import atomic_write
from kit.run.launch_files import read_launch_file
from kit.shipped import CONFIGS, ROOT
from slurm import cluster
from slurm.jobs import StageJob
from slurm.plan import Job, Work, fingerprints
from slurm.records import Record
from slurm.status import COMMAND, alive_in

UNCHECKED = """not checked, as there is no SLURM on this machine:
- that the cluster has these partitions, accounts, nodes, GPUs and memory, and allows that time
- that it knows the options that are passed on, and the jobs to wait for
- that its nodes see the run folder, the data, this Python or the image
- that no job of this run is still under way"""
SNAPSHOT = {  # an installed kit lies apart
    "kit": Path(kit.__file__).parent, "slurm": Path(__file__).parent, CONFIGS: ROOT / CONFIGS,
}  # fmt: skip


def submit_all(run: Path, jobs: Sequence[Job], *, dry_run: bool) -> int:
    """Submit what is not done of a plan; returns the exit code.

    Raises:
        UserError: an earlier submission is still under way, the cluster cannot give what is asked
            for, an output holds something that was not submitted from here, or SLURM refuses (what
            was submitted by then is cancelled).
    """
    run = Path(os.path.abspath(run))
    if re.search(r"[%\\\x00-\x1f]", str(run)):
        what = "SLURM puts something else for % and \\ in the path of a run folder"
        raise UserError(what, where=run, fix="choose one without them: --run_dir")
    checked = cluster.is_here() or not dry_run
    if checked and (alive := alive_in(run)):
        raise UserError(
            f"job {', '.join(alive)} of this run is still under way",
            where=run,
            fix=f"wait, or {COMMAND} cancel {os.path.relpath(run)}",
        )
    plan = Submission(run, jobs)
    for job in jobs:
        if not plan.left[job.name]:
            print(f"{job.name}: done and unchanged")
    for job in plan.todo:
        if checked:
            plan.require(job)
        for work in plan.left[job.name]:
            plan.require_own_output(work)
    if plan.todo and checked:
        cluster.warn_if_not_shared(run)
    if dry_run:
        for job in plan.todo:
            plan.show(job)
        if not checked:
            print(f"\n{UNCHECKED}")
        return 0
    if plan.todo:
        snapshot(plan.code)
    try:
        for job in plan.todo:
            print(plan.submit(job))
    except UserError:
        submitted = [x for found in plan.ids.values() for x in found]
        if submitted:
            subprocess.run(["scancel", *submitted], check=False)
        raise
    print(f"{COMMAND} status {os.path.relpath(run)}")
    return 0


class Submission:
    """A plan on its way into a run folder.

    ``left``: the works of each job, by its name, that are not done or were done otherwise;
    ``todo``: the jobs that have such; ``ids``: of those that were submitted, an id a work.
    """

    def __init__(self, run: Path, jobs: Sequence[Job]):
        self.run = run
        self.jobs = list(jobs)
        self.prints = fingerprints(jobs)
        self.code = run / "slurm" / f"code-{fingerprint_of_code()}"
        self.ids: dict[str, list[str]] = {}
        self.left = {job.name: self._left(job) for job in jobs}
        for job in jobs:
            if job.shards_of and not self.left[job.shards_of]:  # shards are there to be merged
                self.left[job.name] = []
        self.todo = [job for job in jobs if self.left[job.name]]

    def _left(self, job: Job) -> list[Work]:
        left = [w for w in job.works if not self.record_of(w).is_done(self.prints[w.name])]
        if job.shards_of and not all(w.stage.parts_of(w.config).exists() for w in job.works):
            return list(job.works)
        return left

    def record_of(self, work: Work) -> Record:
        return Record(self.run / "slurm" / work.name)

    def require(self, job: Job) -> None:
        """
        Raises:
            UserError: SLURM would refuse it, or it could never start.
        """
        awaited = cluster.awaited(job.resources.after)
        executor = self.executor_of(job, {}, awaited)
        script = cluster.header(executor, len(self.left[job.name]))
        cluster.require(script, job.resources, job.name)

    def require_own_output(self, work: Work) -> None:
        """
        Raises:
            UserError: in the output folder stands a training run that was not submitted from here,
                or anything that was submitted otherwise and is no part of a larger run.
        """
        output = work.output
        before = self.record_of(work).request.get("fingerprint")
        if before is not None:
            if before != self.prints[work.name] and self.run == Path(os.path.abspath(output)):
                what = "was submitted with another configuration, launch or data"
                fix = "choose another output folder, or remove it"
                raise UserError(what, where=output, fix=fix)
            return
        if not work.stage.trains or work.config.resume_from_checkpoint:
            return
        if any(output.glob("checkpoint-*")) or (output / "summary.json").exists():
            raise UserError(
                "the output folder holds a run that was not submitted from here",
                where=output,
                fix="choose another output_dir, or go on from it: resume_from_checkpoint: latest",
            )

    def submit(self, job: Job) -> str:
        """Write the records of a job's works and submit it; returns what to say of it."""
        awaited = cluster.awaited(job.resources.after)
        executor = self.executor_of(job, self.ids, awaited)
        records = [self.record_of(work) for work in self.left[job.name]]
        for record, work in zip(records, self.left[job.name], strict=True):
            prepare_record(record, work, job, self.prints[work.name])
            record.write_request(
                stage=work.stage.name,
                fingerprint=self.prints[work.name],
                job_id="",  # it may start before its number is known
                order=self.jobs.index(job),
                code=str(self.code),
                logs=str(executor.folder),
                shown=work.shown,
            )
        ids = cluster.submit(executor, [StageJob(str(record.folder)) for record in records])
        for record, job_id in zip(records, ids, strict=True):
            record.write_request(**record.request | {"job_id": job_id})
        self.ids[job.name] = ids
        shown = ", ".join(ids) if len(ids) < 4 else f"{ids[0]} to {ids[-1]}"
        waits = ", ".join([*awaited, *(name for name in job.after if name in self.ids)])
        return f"{job.name}: job {shown}" + (f", after {waits}" if waits else "")

    def executor_of(
        self, job: Job, ids: dict[str, list[str]], awaited: Sequence[str]
    ) -> submitit.SlurmExecutor:
        """submitit's executor for a job that waits for those of ``ids`` that it comes after, and
        for the ``awaited`` of others."""
        waits = [*awaited, *(re.sub(r"_\d+$", "", ids[n][0]) for n in job.after if n in ids)]
        return cluster.executor_for(
            self.run / "slurm" / job.name / "logs",
            self.code,
            f"{self.run.name}.{job.name}",  # as squeue tells two runs apart
            job.resources,
            after=f"afterok:{':'.join(waits)}" if waits else None,
            at_once=job.at_once,
        )

    def show(self, job: Job) -> None:
        """Print what would be submitted."""
        works = self.left[job.name]
        executor = self.executor_of(
            job, {name: [f"<{name}>"] for name in job.after}, job.resources.after
        )
        print(f"\n==== {job.name}: {len(works)} x {job.resources.tasks} processes")
        print(cluster.header(executor, len(works)).rstrip())
        for work in works:
            print(f"\n# {work.name}: medvqa {work.stage.name}")
            if job.launch:
                print(f"# accelerate_config: {job.launch}")
            print(to_yaml(work.config).rstrip())


def prepare_record(record: Record, work: Work, job: Job, fingerprint: str) -> None:
    """Write down what is to run; what another configuration left there is moved aside."""
    before = record.request.get("fingerprint")
    if before is not None and before != fingerprint and job.shards_of is None:
        for path in (work.output, work.stage.parts_of(work.config)):
            if path and path.exists():
                move_aside(path)
    with contextlib.suppress(FileNotFoundError):
        (record.folder / "done.json").unlink()
    with atomic_write(record.config_file) as stream:
        stream.write(to_yaml(work.config))
    record.accelerate_file.unlink(missing_ok=True)
    if job.launch:
        file, copy = read_launch_file(job.launch), None
        if file.deepspeed_file:
            copy = record.folder / "deepspeed.json"
            shutil.copyfile(file.deepspeed_file, copy)
        with atomic_write(record.accelerate_file) as stream:
            stream.write(yaml.safe_dump(file.naming(copy), sort_keys=False))


def move_aside(path: Path) -> None:
    """Rename what stands at ``path`` to the first free ``path.old-N``; nothing is deleted."""
    number = 1
    while (aside := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    path.rename(aside)
    print(f"{os.path.relpath(path)} has another configuration: moved to {aside.name}")


# ------------------------------------------------------------------------ the code that runs
def fingerprint_of_code() -> str:
    """Eight hex digits that tell one state of the kit from another."""
    digest = hashlib.sha256()
    for name, file in _code_files():
        digest.update(name.encode() + file.read_bytes())
    return digest.hexdigest()[:8]


def snapshot(folder: Path) -> None:
    """Copy the kit to ``folder``, so that edits change nothing of what waits in a queue."""
    if folder.exists():
        return
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    for name, file in _code_files():
        (temporary / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, temporary / name)
    temporary.rename(folder)


def _code_files() -> Iterator[tuple[str, Path]]:
    for name, folder in SNAPSHOT.items():
        for file in sorted(folder.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".pyc":
                yield f"{name}/{file.relative_to(folder)}", file
