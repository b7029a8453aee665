"""What runs in a job: one submitit task is one rank, and runs the stage in its own process.

SLURM tells the ranks, the accelerate configuration the rest, so that it means the same here as
under ``accelerate launch``. A signal sets the flag of ``kit.run.stop.StopRequest``, and
nothing else; when all ranks have saved, rank 0 asks the batch script around them to requeue the job
(``slurm.cluster.requeueing``): an image has no scontrol.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from pathlib import Path

from submitit import JobEnvironment
from submitit.helpers import TorchDistributedEnvironment

from kit import command
from kit.errors import UserError
from kit.files import read_json
from slurm.records import Record

MAX_STARTS_WITHOUT_PROGRESS = 5


class StageJob:
    """A piece of work as submitit pickles it: only where its record is."""

    def __init__(self, folder: str):
        self.folder = folder

    def __call__(self) -> None:
        take_over_signals()
        job = JobEnvironment()
        remove_stale_results(job)
        join_ranks(Record(Path(self.folder)))
        code = self.attempt(job)
        if code:
            sys.exit(code)

    def attempt(self, job: JobEnvironment) -> int:
        """Run the stage, from where it stands; returns the exit code of this rank."""
        record = Record(Path(self.folder))
        main = job.global_rank == 0
        code = 1
        try:
            code = exit_code_of(lambda: self.run_stage(record, job))
        finally:
            if main:
                record.append_event("end", job_id=job.job_id, code=code)
        if code == 0:
            if main:
                record.write_done()
            return 0
        from kit.run.stop import EXIT_REQUEUE  # loads torch, which not every stage needs

        if code == EXIT_REQUEUE:
            if main:
                record.ask_requeue(job.job_id)
            return 0
        return code

    def run_stage(self, record: Record, job: JobEnvironment) -> int:
        stage = record.stage
        config = record.config
        done, _, unit = stage.progress(config)
        if job.global_rank == 0:
            idle = record.starts_without_progress(job.job_id, done)
            if unit and idle >= MAX_STARTS_WITHOUT_PROGRESS:
                raise UserError(
                    f"started {idle} times without getting beyond {done} {unit}",
                    where=self.folder,
                    fix="save more often (save_steps), ask for more time, or see the logs there",
                )
            restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
            record.append_event(
                "start", job_id=job.job_id, restarts=restarts, done=done, nodes=list(job.hostnames)
            )
        if stage.trains:
            summary = read_json(stage.output_of(config) / "summary.json")
            if summary.get("finished"):
                return 0
            if done:
                config = dataclasses.replace(
                    config, resume_from_checkpoint="latest", resume_weights_only=False
                )
        return stage.run(config)


def exit_code_of(function) -> int:
    """Run as a command line does: a user's mistake is printed and becomes code 2."""
    try:
        command.run(function)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def take_over_signals() -> None:
    """In place of submitit's handlers, which let rank 0 alone save and leave at once.

    The signal ahead of a preemption or time limit is kept waiting until the stage hears it;
    SIGTERM ends what cannot save.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    signal.signal(signal.SIGUSR2, lambda number, frame: None)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCONT, signal.SIG_DFL)


def remove_stale_results(job: JobEnvironment) -> None:
    """A result that was being written when the job was killed would keep submitit from ever
    writing another."""
    path = job.paths.result_pickle
    path.with_suffix(path.suffix + ".save_tmp").unlink(missing_ok=True)


def join_ranks(record: Record) -> None:
    """Set the environment variables of ``accelerate launch`` and of torch."""
    # all GPUs of the node stay visible: accelerate chooses by LOCAL_RANK
    ranks = TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    if record.accelerate_file.exists():
        from kit.plan.accelerate_internals import environment_of

        file = str(record.accelerate_file)
        os.environ.update(environment_of(file, processes=ranks.world_size))
    elif ranks.world_size == 1:  # as started by plain Python
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            del os.environ[name]
