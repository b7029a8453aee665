"""What tests of SLURM runs share: the user's commands, waiting, faults."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml
from helpers import ROOT, flags_of

CLUSTER_FILE = ROOT / "slurm" / "local_cluster" / "cluster.yaml"
PATIENCE = 300.0  # seconds; no job here takes half of that


class Desk:
    def submit(self, *arguments: object, ok: bool = True, **environment: str):
        done = subprocess.run(
            [sys.executable, "slurm/submit.py", *map(str, arguments)],
            cwd=ROOT, capture_output=True, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        )  # fmt: skip
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        return done.stdout + done.stderr

    def stage(self, name: str, settings: dict, *more: object, **options) -> str:
        """Submit one stage to the local cluster."""
        return self.submit(
            "stage", name, *flags_of(settings), "--cluster", CLUSTER_FILE, *more, **options
        )

    def status(self, run: Path) -> dict[str, dict]:
        said = self.submit("status", run, "--json")
        return {row["name"]: row for row in json.loads(said)}

    def queue(self) -> list[str]:
        return ask("squeue", "--noheader", "--format=%i %j %T").splitlines()

    def finish(self, seconds: float = PATIENCE) -> None:
        wait_for(lambda: not self.queue(), "the end of all jobs", seconds)

    def urgent(self, nodes: int = 2) -> None:
        """A job that preempts, runs a moment and is gone."""
        subprocess.run(
            ["srun", "--partition=urgent", f"--nodes={nodes}", f"--ntasks={nodes}",
             "--job-name=urgent", "--mem=100", "true"],
            check=True, capture_output=True, timeout=PATIENCE,
        )  # fmt: skip


def ask(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def wait_for(truth, what: str, seconds: float = PATIENCE, every: float = 0.2):
    end = time.monotonic() + seconds
    while not (found := truth()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(every)
    return found


def write_yaml(path: Path, content: dict) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def logs_of(record: Path) -> str:
    return "\n".join(p.read_text() for p in sorted((record / "logs").glob("*_log.*")))


def pid_of(job_id: str, rank: int) -> int | None:
    """The process of a rank of a running job on this machine."""
    wanted = {f"SLURM_JOB_ID={job_id}".encode(), f"SLURM_PROCID={rank}".encode()}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            named = set((folder / "environ").read_bytes().split(b"\0"))
            ours = b"python" in command[0] and b"submitit.core._submit" in command
            if ours and wanted <= named:
                return int(folder.name)
        except OSError:  # it has ended
            continue
    return None


def signal_rank(job_id: str, rank: int, number: signal.Signals = signal.SIGUSR2) -> None:
    os.kill(wait_for(lambda: pid_of(job_id, rank), f"rank {rank} of job {job_id}"), number)
