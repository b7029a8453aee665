"""Runs on SLURM that are preempted, run out of time, lose a node: each ends as if nothing was."""

import os
import re
import signal
import subprocess
import time
from itertools import pairwise

import pytest
from helpers import (
    adapter_of,
    flags_of,
    lasting,
    most_apart,
    python_path,
    rows,
    settings_of,
)
from ranks import launcher, run
from slurm_client import Image, has_steps, logs_of, pid_of, program, start_at, wait_for

from slurm import cluster as cluster_of_slurm
from slurm.jobs import MAX_STARTS_WITHOUT_PROGRESS
from slurm.records import Record

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]

PREEMPTIONS = int(os.environ.get("PREEMPTIONS", 1))  # ten were shown; one keeps the tests short
STEPS = max(8, 2 * PREEMPTIONS + 4)
TWO_NODES = ("--nodes", 2, "--accelerate_config", "accelerate_configs/cpu_zero2.yaml")


@pytest.fixture(scope="module")
def settings(prepared, trained):
    """Of a GRPO run that saves only if it is asked to leave, by its output folder."""

    def of(folder, **changes):
        own = {
            "max_steps": STEPS, "save_steps": 0, "reward_funcs": ["slurm_reward:reward"],
            "weights": "0.3,0.7,0,0",  # no sentence encoder, which takes seconds to load
        }  # fmt: skip
        return settings_of("grpo", prepared, trained, folder, **own | changes)

    return of


@pytest.fixture(scope="module")
def uninterrupted(settings, trained, tmp_path_factory):
    """The folder of the run as two processes of a workstation make it. When it saves does not
    matter."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "grpo"
    flags = flags_of(settings(folder))
    done = run([*launcher("cpu_zero2"), "launch/train_grpo.py", *flags])
    assert done.returncode == 0, done.stderr
    assert len(rows(folder)) == STEPS
    assert most_apart(adapter_of(folder), adapter_of(trained["sft"])) > 0
    return folder


class GrpoRun:
    """A GRPO run of two nodes that was submitted. After ``hold`` it waits in the second step of a
    start until it hears a signal."""

    def __init__(self, client, settings, folder, *more, hold=False, **environment):
        self.client, self.folder = client, folder
        self._hold = folder.parent / "hold"
        self._held = [folder.parent / f"held-{rank}" for rank in (0, 1)]
        if hold:
            self.hold()
        environment = {"PYTHONPATH": python_path(), "HOLD": str(self._hold)} | environment
        client.stage("train_grpo", settings, *TWO_NODES, *more, **environment)
        self.record = Record(folder / "slurm" / "train_grpo")
        self.job_id = self.record.request["job_id"]

    def hold(self) -> None:
        for path in self._held:
            path.unlink(missing_ok=True)
        self._hold.touch()

    def await_held(self) -> None:
        self.wait_for(lambda: all(path.exists() for path in self._held), "the second step")

    def let_go(self) -> None:
        self._hold.unlink(missing_ok=True)

    def wait_for(self, truth, what: str, every: float = 0.1):
        """Wait for something that the job does; what its logs say if it ends without."""
        look = 0.0

        def found():
            nonlocal look
            if (value := truth()) or time.monotonic() < look:
                return value
            look = time.monotonic() + 0.5
            alive, value = self.client.waiting(), truth()
            assert alive or value, f"it ended before {what}\n{logs_of(self.record.folder)}"
            return value

        return wait_for(found, what, every=every)

    def await_start(self, number: int = 1) -> None:
        self.wait_for(lambda: len(self.starts) >= number, f"start {number}", every=0.02)

    def await_requeue(self) -> None:
        pending = f"{self.job_id} {self.folder.name}.train_grpo PENDING"
        wait_for(lambda: pending in self.client.queue(), "the requeue", every=0.05)

    def signal(self) -> None:
        """What SLURM sends ahead of a time limit, to all ranks."""
        subprocess.run(["scancel", "--signal=USR2", self.job_id], check=True)

    @property
    def status(self) -> dict:
        return self.client.status(self.folder)["train_grpo"]

    @property
    def starts(self) -> list[dict]:
        return [a for a in self.record.attempts() if a["event"] == "start"]

    def ends_like(self, whole) -> None:
        self.client.finish()
        assert self.status["state"] == "COMPLETED", logs_of(self.record.folder)
        assert most_apart(adapter_of(self.folder), adapter_of(whole)) == 0
        assert lasting(self.folder) == lasting(whole)


def test_runs_into_its_time_limit_and_is_preempted(client, settings, uninterrupted, tmp_path):
    """SLURM looks every 30 s whether a job is within 100 s (and 30) of its end: at the first look
    it signals this one, which has time enough to save. The next start has an hour, but urgent jobs
    come. What a kill left of a result that submitit was writing does not fail the run."""
    folder = tmp_path / "grpo"
    limit = ("--time", 2, "--signal_delay_s", 100)
    grpo = GrpoRun(client, settings(folder), folder, *limit, hold=True)
    grpo.await_start()
    grpo.await_requeue()
    status = grpo.status
    assert (status["state"], status["requeues"]) == ("PENDING", 1)
    assert "requeued" in status["why"]
    assert status["total"] == STEPS
    assert status["done"] in (1, 2), "2 if it had come to the step in which it is held"
    subprocess.run(["scontrol", "update", f"JobId={grpo.job_id}", "TimeLimit=60"], check=True)
    for kind in ("0_result", "1_result", "submitted"):
        (grpo.record.folder / "logs" / f"{grpo.job_id}_{kind}.pkl.save_tmp").write_bytes(b"half")
    done = [0, status["done"]]
    for number in range(PREEMPTIONS):
        grpo.hold()
        grpo.await_start(number + 2)
        grpo.await_held()
        client.urgent()
        grpo.await_requeue()
        done.append(done[-1] + 2)
    grpo.let_go()
    grpo.ends_like(uninterrupted)
    assert grpo.status["requeues"] == PREEMPTIONS + 1
    assert [a["restarts"] for a in grpo.starts] == list(range(PREEMPTIONS + 2))
    assert [a["done"] for a in grpo.starts] == done


def test_shards_are_preempted(client, prepared, tmp_path):
    """Each goes on with the batches that it has not answered; the merged files are those of one
    undisturbed process. In a container, where there is no scontrol."""
    settings = {
        "base_model": "tiny", "data": prepared["test"], "per_device_eval_batch_size": 1,
        "max_new_tokens": 40,
    }  # fmt: skip
    whole, folder = tmp_path / "whole", tmp_path / "evaluation"
    done = run([*launcher(None), "launch/evaluate.py", *flags_of(settings | {"output": whole})])
    assert done.returncode == 0, done.stderr
    image = Image(tmp_path)
    client.stage("evaluate", settings | {"output": folder}, "--shards", 2, *image.flags)
    shards = [client.status(folder)[f"evaluate_shards/{i}"]["job_id"] for i in (0, 1)]
    wait_for(lambda: len(list((folder / "parts").glob("0*.jsonl"))) > 2, "batches", every=0.05)
    client.urgent(*shards)
    client.finish()
    status = client.status(folder)
    assert {row["state"] for row in status.values()} == {"COMPLETED"}
    assert [status[f"evaluate_shards/{i}"]["requeues"] for i in (0, 1)] == [1, 1]
    assert image.calls.read_text().count("\n") == 2 * 2 + 1
    assert not list((folder / "slurm").rglob("requeue-*"))
    for name in ("metrics.json", "predictions.jsonl"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_a_node_goes_down_and_comes_back(client, cluster, settings, uninterrupted, tmp_path):
    """Its daemon alone, then its rank falls silent too: whatever was saved last is gone on from,
    and nothing is asked of the user."""
    folder = tmp_path / "grpo"
    grpo = GrpoRun(client, settings(folder, save_steps=1), folder)
    for number, what in enumerate(("daemon", "machine"), start=1):
        grpo.hold()
        grpo.await_start(number)
        grpo.await_held()  # its first step is saved
        if what == "machine":
            silent = pid_of(grpo.job_id, 1)
            os.kill(silent, signal.SIGSTOP)
        cluster.kill_node("n2")
        try:
            grpo.await_requeue()
            start_at(grpo.job_id, "now+1hour")
            assert grpo.status["state"] == "PENDING"
        finally:
            if what == "machine":
                os.kill(silent, signal.SIGKILL)
            cluster.start_node("n2")
        wait_for(lambda: not has_steps(grpo.job_id), "the end of what ran on n2")
    grpo.let_go()
    grpo.ends_like(uninterrupted)
    assert len(grpo.starts) == 3
    assert all(a["done"] < b["done"] for a, b in pairwise(grpo.starts))


def test_signals_at_awkward_moments(client, settings, uninterrupted, tmp_path):
    """One job that is signalled before it can hear it, then while it saves, then twice over one
    rank alone: each time it is requeued once and goes on."""
    folder = tmp_path / "grpo"
    grpo = GrpoRun(client, settings(folder, save_steps=1), folder)
    grpo.await_start()
    grpo.signal()  # while it loads libraries: not lost, not deadly
    grpo.await_start(2)
    assert grpo.starts[1]["done"] == 1, "heard as soon as it could be"

    ranks = [wait_for(lambda r=r: pid_of(grpo.job_id, r), f"rank {r}") for r in (0, 1)]
    saved = grpo.wait_for(lambda: stopped_while_saving(ranks[0], folder), "saving", every=0.002)
    for pid in ranks:
        os.kill(pid, signal.SIGUSR2)
    os.kill(ranks[0], signal.SIGCONT)
    grpo.await_start(3)
    assert grpo.starts[2]["done"] == saved + 1, "heard at the end of the next step"

    grpo.hold()
    grpo.await_held()
    alone = pid_of(grpo.job_id, 1)
    for number in (signal.SIGUSR2, signal.SIGUSR2, signal.SIGTERM):
        os.kill(alone, number)
    grpo.ends_like(uninterrupted)
    assert [a["done"] for a in grpo.starts] == [0, 1, saved + 1, saved + 3]
    assert grpo.status["requeues"] == 3


def stopped_while_saving(pid: int, folder) -> int:
    """Stop a process while it writes a checkpoint, and say which; 0 if it is at something else."""
    if not list(folder.glob(".checkpoint-*.tmp")):
        return 0
    os.kill(pid, signal.SIGSTOP)
    staged = list(folder.glob(".checkpoint-*.tmp"))
    if staged:
        return int(re.search(r"\d+", staged[0].name)[0])
    os.kill(pid, signal.SIGCONT)
    return 0


def test_slurm_refuses_to_requeue_then_the_user_cancels(
    client, settings, uninterrupted, tmp_path, monkeypatch
):
    """Refused: all is saved, it says so, and the same command goes on. Cancelled means cancelled,
    also right after a signal that asks for a requeue; submitted again, it goes on."""
    folder = tmp_path / "grpo"
    programs = program(
        tmp_path / "programs" / "scontrol",
        'if [ "$1" = requeue ]; then echo "slurm_requeue error: disabled" >&2; exit 1; fi',
        'exec /usr/bin/scontrol "$@"',
    )
    refuses = {"PATH": f"{programs}:{os.environ['PATH']}"}
    monkeypatch.setattr(cluster_of_slurm, "SECONDS_BETWEEN_TRIES", (0, 0))
    grpo = GrpoRun(client, settings(folder), folder, hold=True, **refuses)
    grpo.await_held()
    grpo.signal()
    client.finish()
    assert grpo.status["state"] == "FAILED"
    assert "SLURM does not requeue" in grpo.status["why"]
    log = logs_of(grpo.record.folder)
    assert f"SLURM does not requeue job {grpo.job_id}: slurm_requeue error: disabled" in log
    assert "submit the same command again" in log
    assert "Traceback" not in log

    grpo = GrpoRun(client, settings(folder), folder, hold=True)
    grpo.await_held()
    grpo.signal()
    assert grpo.job_id in client.submit("cancel", folder)
    client.finish()
    assert grpo.status["state"] == "CANCELLED"

    grpo = GrpoRun(client, settings(folder), folder)
    grpo.ends_like(uninterrupted)
    done = [a["done"] for a in grpo.starts]
    assert done[:2] == [0, 2]
    assert done[2] in (2, 4), "from what was saved by then"


CRASHES = {
    "error": "raise RuntimeError('a bug of the user')",
    "death": "os.environ['RANK'] == '1' and os.kill(os.getpid(), signal.SIGSEGV); return [0] * 4",
}


@pytest.mark.parametrize("kind", CRASHES)
def test_a_crash_is_not_requeued(kind, client, settings, tmp_path):
    """All ranks raise, or one dies and takes the other with it: once, and it is reported."""
    module = tmp_path / "crash.py"
    module.write_text(f"import os, signal\ndef reward(**_):\n    {CRASHES[kind]}\n")
    changes = {"reward_funcs": ["crash:reward"]}
    folder = tmp_path / "grpo"
    grpo = GrpoRun(client, settings(folder, **changes), folder, PYTHONPATH=str(tmp_path))
    client.finish()
    assert grpo.status["state"] == "FAILED"
    assert (len(grpo.starts), grpo.status["requeues"]) == (1, 0)
    if kind == "error":
        why = "exit code 2, the reward function raised RuntimeError: a bug of the user"
        assert grpo.status["why"] == why
    else:
        assert "task 1: Segmentation fault" in logs_of(grpo.record.folder)


def test_a_job_that_never_gets_further_is_not_started_for_ever(client, settings, tmp_path):
    """Killed with its node at the same place again and again, it says so and ends."""
    folder = tmp_path / "grpo"
    grpo = GrpoRun(client, settings(folder), folder, "--begin", "now+1hour")
    for restarts in range(MAX_STARTS_WITHOUT_PROGRESS):
        grpo.record.append_event(
            "start", job_id=grpo.job_id, restarts=restarts, done=0, nodes=["n1"]
        )
    client.finish()
    assert grpo.status["state"] == "FAILED"
    log = logs_of(grpo.record.folder)
    assert "without getting beyond 0 steps" in log
    assert "Traceback" not in log
