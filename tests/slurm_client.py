"""What tests of SLURM runs share: submit.py in this process, SLURM's commands, waiting, faults."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml
from helpers import ROOT, flags_of

from kit import command
from slurm.submit import main

CLUSTER_FILE = ROOT / "tests" / "local_cluster" / "cluster.yaml"
PATIENCE = 300.0  # seconds; no job here takes half of that, beside a busy second core too


def submit(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """What ``python slurm/submit.py`` does from the repository's root, without the start of Python.
    ``environment``: variables for this call alone; SLURM hands them on to the job."""
    stdout, stderr = io.StringIO(), io.StringIO()
    argv = [str(argument) for argument in arguments]
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        patch.chdir(ROOT)
        for name, value in ({"OMP_NUM_THREADS": "1"} | environment).items():
            patch.setenv(name, value)
        try:
            command.run(lambda: main(argv))
        except SystemExit as end:
            code = end.code
    return subprocess.CompletedProcess(argv, code, stdout.getvalue(), stderr.getvalue())


class SlurmClient:
    """What a user does at a login node."""

    def submit(self, *arguments: object, ok: bool = True, **environment: str) -> str:
        done = submit(*arguments, **environment)
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        return done.stdout + done.stderr

    def stage(self, name: str, settings: dict, *more: object, **options) -> str:
        """Submit one stage to the local cluster."""
        return self.submit(
            "stage", name, *flags_of(settings), "--cluster", CLUSTER_FILE, *more, **options
        )

    def status(self, run: Path) -> dict[str, dict]:
        return {row["name"]: row for row in json.loads(self.submit("status", run, "--json"))}

    def queue(self) -> list[str]:
        return ask("squeue", "--noheader", "--format=%i %j %T").splitlines()

    def waiting(self) -> list[str]:
        """The jobs that wait or run. One that was requeued may start in two seconds: SLURM would
        hold it back until its old credential expires."""
        lines = ask("squeue", "--noheader", "--format=%i %r %S").splitlines()
        later = (datetime.now() + timedelta(seconds=2.5)).isoformat()
        for job_id, _, begin in (line.split() for line in lines if " BeginTime 2" in line):
            if begin > later:  # sooner, its nodes would still refuse it; it may have started
                start_at(job_id, "now+2seconds")
        return lines

    def finish(self, seconds: float = PATIENCE) -> None:
        """Wait until all jobs have ended, those that are requeued meanwhile too."""
        wait_for(lambda: not self.waiting(), "the end of all jobs", seconds)

    def urgent(self, *halted: str) -> None:
        """Run a job on both nodes that preempts, takes a moment and is gone. What the jobs
        ``halted`` do stands still until SLURM has signalled them."""
        pids = [wait_for(lambda x=x: pid_of(x, 0), f"the process of job {x}") for x in halted]
        before = [restarts_of(show(job_id)) for job_id in halted]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        urgent = subprocess.Popen(
            ["srun", "--partition=urgent", "--nodes=2", "--ntasks=2", "--job-name=urgent",
             "--mem=100", "true"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        for job_id, pid, restarts in zip(halted, pids, before, strict=True):

            def preempted(job_id=job_id, restarts=restarts) -> bool:
                shown = show(job_id)  # a quick job is requeued already, which clears the time
                return "PreemptTime=2" in shown or restarts_of(shown) != restarts

            wait_for(preempted, f"preempting job {job_id}")
            with contextlib.suppress(ProcessLookupError):  # SLURM lets it go on itself
                os.kill(pid, signal.SIGCONT)
        output, _ = urgent.communicate(timeout=PATIENCE)
        assert urgent.returncode == 0, output


def restarts_of(shown: str) -> str:
    return shown.split(" Restarts=")[1].split()[0]


def show(job_id: str) -> str:
    return ask("scontrol", "--oneliner", "show", "job", job_id)


def ask(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def start_at(job_id: str, time: str) -> None:
    """When a job may start; it may have started meanwhile."""
    command = ["scontrol", "update", f"JobId={job_id}", f"StartTime={time}"]
    subprocess.run(command, capture_output=True)


def wait_for(truth, what: str, seconds: float = PATIENCE, every: float = 0.2):
    end = time.monotonic() + seconds
    while not (found := truth()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(every)
    return found


def program(path: Path, *lines: str) -> Path:
    """A script that can be started; returns its folder, to be put on PATH."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/bash", *lines, ""]))
    path.chmod(0o755)
    return path.parent


class Image:
    """A stand-in for an image and apptainer: what runs in it sees bash and Python, and nothing of
    SLURM. ``calls``: what it was started with; ``seen``: the variables of what runs in it."""

    def __init__(self, folder: Path):
        self.calls, self.seen = folder / "calls", folder / "seen"
        inside = program(folder / "inside" / "python", f'exec {sys.executable} "$@"')
        (inside / "bash").symlink_to("/bin/bash")
        outside = program(
            folder / "outside" / "apptainer",
            f'echo "$*" >> {self.calls}',
            f"printenv -0 > {self.seen}",
            'while [ "$1" != phantom.sif ]; do shift; done; shift',
            f'PATH={inside} exec "$@"',
        )
        self.flags = ("--container", "phantom.sif", "--env", f"PATH={outside}:{os.environ['PATH']}")


def write_yaml(path: Path, content: dict) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def logs_of(record: Path) -> str:
    return "\n".join(p.read_text() for p in sorted((record / "logs").glob("*_log.*")))


def processes(**variables: str) -> dict[int, list[bytes]]:
    """The command lines of this cluster's processes that have these environment variables."""
    cluster = {"SLURM_CONF": os.environ["SLURM_CONF"]}
    wanted = {f"{k}={v}".encode() for k, v in (variables | cluster).items()}
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if wanted <= set((folder / "environ").read_bytes().split(b"\0")):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().split(b"\0")
    return found


def pid_of(job_id: str, rank: int) -> int | None:
    """The process of a rank of a running job, or element of an array, on this machine."""
    job, _, element = job_id.partition("_")
    named = {"SLURM_JOB_ID": job}
    if element:
        named = {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": element}
    for pid, words in processes(**named, SLURM_PROCID=str(rank)).items():
        if b"python" in words[0] and b"submitit.core._submit" in words:
            return pid
    return None


def has_steps(job_id: str) -> bool:
    """Whether a node still looks after something of a job."""
    mark = f"slurmstepd: [{job_id}.".encode()
    return any(words[0].startswith(mark) for words in processes().values())
