"""Submitting a plan: what is done is left out, what was begun goes on, what changed starts anew."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import yaml

from kit.command import to_yaml
from kit.errors import UserError
from kit.files import atomic_write
from kit.run.launch_files import read_launch_file
from slurm import cluster
from slurm.jobs import StageJob
from slurm.plan import ROOT, Job, Work, fingerprints
from slurm.records import Record
from slurm.stages import parts_of
from slurm.status import alive_in

UNCHECKED = """not checked, as there is no SLURM on this machine:
- that the cluster has these partitions, accounts, nodes, GPUs and memory, and allows that time
- that its nodes see the run folder, the data and this Python
- that no job of this run is still under way"""
SNAPSHOT = ("kit", "slurm", "launch")


def submit_all(run: Path, jobs: Sequence[Job], *, dry_run: bool) -> int:
    """Submit what is not done of a plan; returns the exit code.

    Raises:
        UserError: an earlier submission is still under way, the cluster cannot give what is asked
            for, an output holds something that was not submitted from here, or SLURM refuses (what
            was submitted by then is cancelled).
    """
    run = Path(os.path.abspath(run))
    require_plain_path(run)
    checked = cluster.is_here() or not dry_run
    if checked:
        require_no_active_jobs(run)
    prints = fingerprints(jobs)
    left = {job.name: remaining_works(run, job, prints) for job in jobs}
    for job in jobs:
        if job.shards_of and not left[job.shards_of]:  # shards are there to be merged
            left[job.name] = []
        if job.after_any and any(left[name] for name in job.after):  # and a table to be filled
            left[job.name] = list(job.works)
        if not left[job.name]:
            print(f"{job.name}: done and unchanged")
    todo = [job for job in jobs if left[job.name]]
    code = run / "slurm" / f"code-{fingerprint_of_code()}"
    for job in todo:
        if checked:
            script = cluster.header(executor_of(run, job, code, {}), len(left[job.name]))
            cluster.require(script, job.resources, job.name)
        for work in left[job.name]:
            require_own_output(run, work, prints[work.name])
    if todo and checked:
        cluster.warn_if_not_shared(run)
    if dry_run:
        for job in todo:
            show(run, job, left[job.name], code)
        if not checked:
            print(f"\n{UNCHECKED}")
        return 0
    if todo:
        snapshot(code)
    ids: dict[str, list[str]] = {}
    try:
        for job in todo:
            order = jobs.index(job)
            ids[job.name] = found = submit_one(run, job, left[job.name], code, ids, prints, order)
            shown = ", ".join(found) if len(found) < 4 else f"{found[0]} to {found[-1]}"
            waits = ", ".join(name for name in job.after if name in ids)
            print(f"{job.name}: job {shown}" + (f", after {waits}" if waits else ""))
    except UserError:
        submitted = [x for found in ids.values() for x in found]
        if submitted:
            subprocess.run(["scancel", *submitted], check=False)
        raise
    print(f"python slurm/submit.py status {os.path.relpath(run)}")
    return 0


def require_plain_path(run: Path) -> None:
    """
    Raises:
        UserError: SLURM would write the logs to another path.
    """
    if re.search(r"[%\\\x00-\x1f]", str(run)):
        what = "SLURM puts something else for % and \\ in the path of a run folder"
        raise UserError(what, where=run, fix="choose one without them: --run_dir")


def require_no_active_jobs(run: Path) -> None:
    """
    Raises:
        UserError: jobs of this run folder wait or run.
    """
    alive = alive_in(run)
    if alive:
        raise UserError(
            f"job {', '.join(alive)} of this run is still under way",
            where=run,
            fix=f"wait, or python slurm/submit.py cancel {os.path.relpath(run)}",
        )


def remaining_works(run: Path, job: Job, prints: dict[str, str]) -> list[Work]:
    """The pieces of work of a job that are not done, or were done otherwise."""
    left = [w for w in job.works if not record_of(run, w).is_done(prints[w.name])]
    if job.shards_of and not all(parts_of(w.stage, w.config).exists() for w in job.works):
        return list(job.works)
    return left


def record_of(run: Path, work: Work) -> Record:
    return Record(run / "slurm" / work.name)


def require_own_output(run: Path, work: Work, fingerprint: str) -> None:
    """
    Raises:
        UserError: in the output folder stands a training run that was not submitted from here, or
            anything that was submitted otherwise and is no part of a larger run.
    """
    output = work.output
    before = record_of(run, work).request.get("fingerprint")
    if before is not None:
        if before != fingerprint and run == Path(os.path.abspath(output)):
            what = "was submitted with another configuration, launch or data"
            raise UserError(what, where=output, fix="choose another output folder, or remove it")
        return
    if not work.stage.trains or work.config.resume_from_checkpoint:
        return
    if any(output.glob("checkpoint-*")) or (output / "summary.json").exists():
        raise UserError(
            "the output folder holds a run that was not submitted from here",
            where=output,
            fix="choose another output_dir, or go on from it: resume_from_checkpoint: latest",
        )


def submit_one(
    run: Path,
    job: Job,
    works: Sequence[Work],
    code: Path,
    ids: dict[str, list[str]],
    prints: dict[str, str],
    order: int,
) -> list[str]:
    """Write the records of a job's works and submit it; returns a job id a work."""
    executor = executor_of(run, job, code, ids)
    records = [record_of(run, work) for work in works]

    def write(job_ids: Sequence[str]) -> None:
        for record, work, job_id in zip(records, works, job_ids, strict=True):
            record.write_request(
                stage=work.stage_name,
                fingerprint=prints[work.name],
                job_id=job_id,
                order=order,
                code=str(code),
                logs=str(executor.folder),
            )

    for record, work in zip(records, works, strict=True):
        prepare_record(record, work, job, prints[work.name])
    write([""] * len(works))  # it may start before its number is known
    job_ids = cluster.submit(executor, [StageJob(str(record.folder)) for record in records])
    write(job_ids)
    return job_ids


def executor_of(run: Path, job: Job, code: Path, ids: dict[str, list[str]]):
    """submitit's executor for a job that waits for those of ``ids`` that it comes after."""
    waits = [re.sub(r"_\d+$", "", ids[name][0]) for name in job.after if name in ids]
    kind = "afterany" if job.after_any else "afterok"
    return cluster.executor_for(
        run / "slurm" / job.name / "logs",
        code,
        f"{run.name}.{job.name}",  # as squeue tells two runs apart
        job.resources,
        after=f"{kind}:{':'.join(waits)}" if waits else None,
        at_once=job.at_once,
    )


def prepare_record(record: Record, work: Work, job: Job, fingerprint: str) -> None:
    """Write down what is to run; what another configuration left there is moved aside."""
    before = record.request.get("fingerprint")
    if before is not None and before != fingerprint and job.shards_of is None:
        parts = parts_of(work.stage, work.config)
        for path in (work.output, *([parts] if parts else [])):
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
    if not path.exists():
        return
    number = 1
    while (aside := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    path.rename(aside)
    print(f"{os.path.relpath(path)} has another configuration: moved to {aside.name}")


# ------------------------------------------------------------------------ the code that runs
def fingerprint_of_code() -> str:
    """Eight hex digits that tell one state of the kit from another."""
    digest = hashlib.sha256()
    for file in _code_files():
        digest.update(str(file).encode() + (ROOT / file).read_bytes())
    return digest.hexdigest()[:8]


def snapshot(folder: Path) -> None:
    """Copy the kit to ``folder``, so that edits change nothing of what waits in a queue."""
    if folder.exists():
        return
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    for file in _code_files():
        (temporary / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, temporary / file)
    temporary.rename(folder)


def _code_files() -> list[Path]:
    return sorted(
        path.relative_to(ROOT)
        for name in SNAPSHOT
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    )


# ------------------------------------------------------------------------ telling
def show(run: Path, job: Job, works: Sequence[Work], code: Path) -> None:
    """Print what would be submitted."""
    executor = executor_of(run, job, code, {name: [f"<{name}>"] for name in job.after})
    print(f"\n==== {job.name}: {len(works)} x {job.resources.tasks} processes")
    print(cluster.header(executor, len(works)).rstrip())
    for work in works:
        print(f"\n# {work.name}: launch/{work.stage_name}.py")
        if job.launch:
            print(f"# accelerate_config: {job.launch}")
        print(to_yaml(work.config).rstrip())
