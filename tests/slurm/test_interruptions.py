"""Runs on SLURM that are preempted, run out of time, lose a node: each ends as if nothing was."""

import os
import signal
import subprocess
from itertools import pairwise

import pytest
from desk import logs_of, pid_of, signal_rank, wait_for
from helpers import adapter_of, flags_of, lasting, launcher, most_apart, rows, run, settings_of

from slurm.jobs import MAX_STARTS_WITHOUT_PROGRESS
from slurm.records import Record

pytestmark = pytest.mark.slow

PREEMPTIONS = int(os.environ.get("PREEMPTIONS", 2))  # ten were shown; two keep the tests short
STEPS = 6 * PREEMPTIONS
TWO_NODES = ("--nodes", 2, "--accelerate_config", "accelerate_configs/cpu_zero2.yaml")
LONGER = {"max_steps": 80, "num_generations": 4, "max_completion_length": 48}


@pytest.fixture(scope="module")
def settings(prepared, trained):
    """Of a GRPO run that saves only if it is asked to leave, by its output folder."""

    def of(folder, **changes):
        changes = {"max_steps": STEPS, "save_steps": 0} | changes
        return settings_of("grpo", prepared, trained, folder, **changes)

    return of


@pytest.fixture(scope="module")
def undisturbed(settings, tmp_path_factory):
    """A run of two processes as a workstation makes it: its folder, made once a configuration.
    When it saves does not matter."""
    made = {}

    def of(**changes):
        changes.pop("save_steps", None)
        key = str(changes)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("undisturbed") / "grpo"
            flags = flags_of(settings(made[key], **changes))
            done = run([*launcher("cpu_zero2"), "launch/train_grpo.py", *flags])
            assert done.returncode == 0, done.stderr
        return made[key]

    return of


class Sent:
    """A GRPO run of two nodes that was sent to SLURM."""

    def __init__(self, desk, settings, folder, *more, **options):
        self.desk, self.folder = desk, folder
        desk.stage("train_grpo", settings, *TWO_NODES, *more, **options)
        self.record = Record(folder / "slurm" / "train_grpo")
        self.job_id = self.record.request["job_id"]

    def steps(self) -> int:
        logged = (self.folder / "metrics.jsonl").exists() and rows(self.folder)
        return logged[-1]["step"] if logged else 0

    def await_step(self) -> None:
        """Wait until it has made a step more than it has now."""
        before = self.steps()
        wait_for(lambda: self.steps() > before, "a step", every=0.05)
        assert not self.record.has_ended_well()

    def await_requeue(self) -> None:
        wait_for(lambda: f"{self.job_id} train_grpo PENDING" in self.desk.queue(), "the requeue")

    @property
    def status(self) -> dict:
        return self.desk.status(self.folder)["train_grpo"]

    @property
    def starts(self) -> list[dict]:
        return [a for a in self.record.attempts() if a["event"] == "start"]

    def ends_like(self, whole) -> None:
        self.desk.finish()
        assert self.status["state"] == "COMPLETED", logs_of(self.record.folder)
        assert most_apart(adapter_of(self.folder), adapter_of(whole)) == 0
        assert lasting(self.folder) == lasting(whole)


def test_preempted_by_an_urgent_job(desk, settings, undisturbed, tmp_path):
    sent = Sent(desk, settings(tmp_path / "grpo"), tmp_path / "grpo")
    for number in range(PREEMPTIONS):
        sent.await_step()
        desk.urgent()
        sent.await_requeue()
        if number == 0:
            status = sent.status
            assert (status["state"], status["requeues"]) == ("PENDING", 1)
            assert "requeued" in status["why"]
            assert (status["done"], status["total"]) == (sent.steps(), STEPS)
    sent.ends_like(undisturbed())
    assert sent.status["requeues"] == PREEMPTIONS
    assert [a["restarts"] for a in sent.starts] == list(range(PREEMPTIONS + 1))
    assert all(a["done"] < b["done"] for a, b in pairwise(sent.starts))


def test_runs_into_its_time_limit(desk, settings, undisturbed, tmp_path):
    """One minute, of which it is told long before the end."""
    limit = ("--time", 1, "--signal_delay_s", 35)
    sent = Sent(desk, settings(tmp_path / "grpo", **LONGER), tmp_path / "grpo", *limit)
    sent.ends_like(undisturbed(**LONGER))
    assert sent.status["requeues"] >= 1


def test_shards_are_preempted(desk, prepared, tmp_path):
    """Each goes on with the batches that it has not answered; the merged files are those of one
    undisturbed process."""
    settings = {
        "base_model": "tiny", "data": prepared["test"], "per_device_eval_batch_size": 1,
        "max_new_tokens": 40,
    }  # fmt: skip
    whole, folder = tmp_path / "whole", tmp_path / "evaluation"
    done = run([*launcher(None), "launch/evaluate.py", *flags_of(settings | {"output": whole})])
    assert done.returncode == 0, done.stderr
    desk.stage("evaluate", settings | {"output": folder}, "--shards", 2)
    wait_for(lambda: len(list((folder / "parts").glob("0*.jsonl"))) > 2, "some batches")
    desk.urgent()
    desk.finish()
    status = desk.status(folder)
    assert {row["state"] for row in status.values()} == {"COMPLETED"}
    assert sum(row["requeues"] for row in status.values()) >= 1
    for name in ("metrics.json", "predictions.jsonl"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("what", ["daemon", "machine"])
def test_a_node_goes_down_and_comes_back(what, desk, cluster, settings, undisturbed, tmp_path):
    """Its daemon alone, or its rank falls silent too: whatever was saved last is gone on from, and
    nothing is asked of the user."""
    changes = LONGER | {"save_steps": 2}
    sent = Sent(desk, settings(tmp_path / "grpo", **changes), tmp_path / "grpo")
    wait_for(lambda: list(sent.folder.glob("checkpoint-*")), "a checkpoint", every=0.05)
    if what == "machine":
        silent = pid_of(sent.job_id, 1)
        os.kill(silent, signal.SIGSTOP)
    cluster.kill_node("n2")
    try:
        sent.await_requeue()
        waits = sent.status
        assert waits["state"] == "PENDING"
    finally:
        if what == "machine":
            os.kill(silent, signal.SIGKILL)
        cluster.start_node("n2")
    sent.ends_like(undisturbed(**changes))
    assert len(sent.starts) == 2
    assert sent.starts[1]["done"] >= 2


def test_signals_to_one_rank_twice(desk, settings, undisturbed, tmp_path):
    sent = Sent(desk, settings(tmp_path / "grpo"), tmp_path / "grpo")
    sent.await_step()
    for number in (signal.SIGUSR2, signal.SIGUSR2, signal.SIGTERM):
        signal_rank(sent.job_id, 1, number)
    sent.ends_like(undisturbed())
    assert len(sent.starts) == 2
    assert sent.status["requeues"] == 1


def test_a_signal_while_saving(desk, settings, undisturbed, tmp_path):
    changes = {"save_steps": 1}
    sent = Sent(desk, settings(tmp_path / "grpo", **changes), tmp_path / "grpo")
    wait_for(lambda: list(sent.folder.glob(".checkpoint-*.tmp")), "saving", every=0.001)
    subprocess.run(["scancel", "--signal=USR2", sent.job_id], check=True)
    sent.ends_like(undisturbed(**changes))
    assert len(sent.starts) == 2


def test_a_signal_before_the_run_can_hear_it(desk, settings, undisturbed, tmp_path):
    """While it loads libraries: it is heard as soon as it can be, not lost, not deadly."""
    sent = Sent(desk, settings(tmp_path / "grpo"), tmp_path / "grpo")
    wait_for(lambda: sent.starts, "the start", every=0.01)
    subprocess.run(["scancel", "--signal=USR2", sent.job_id], check=True)
    sent.ends_like(undisturbed())
    assert [a["done"] for a in sent.starts] == [0, 1]


def test_slurm_refuses_to_requeue(desk, settings, undisturbed, tmp_path):
    """All is saved, it says so, and the same command goes on."""
    programs = tmp_path / "programs"
    programs.mkdir()
    fake = programs / "scontrol"
    fake.write_text(
        '#!/bin/bash\nif [ "$1" = requeue ]; then echo "slurm_requeue error: disabled" >&2; exit 1;'
        '\nfi\nexec /usr/bin/scontrol "$@"\n'
    )
    fake.chmod(0o755)
    path = {"PATH": f"{programs}:{os.environ['PATH']}"}
    sent = Sent(desk, settings(tmp_path / "grpo"), tmp_path / "grpo", **path)
    sent.await_step()
    subprocess.run(["scancel", "--signal=USR2", sent.job_id], check=True)
    desk.finish()
    assert sent.status["state"] == "FAILED"
    said = logs_of(sent.record.folder)
    assert f"SLURM does not requeue job {sent.job_id}: slurm_requeue error: disabled" in said
    assert "submit the same command again" in said
    assert "Traceback" not in said
    again = Sent(desk, settings(tmp_path / "grpo"), tmp_path / "grpo")
    again.ends_like(undisturbed())
    assert again.starts[-1]["done"] > 0


def test_stale_files_of_submitit(desk, settings, undisturbed, tmp_path):
    """What a kill left of a result that was being written does not fail the run that ends well."""
    sent = Sent(desk, settings(tmp_path / "grpo"), tmp_path / "grpo")
    wait_for(lambda: sent.starts, "the start", every=0.01)
    for rank in (0, 1):
        for kind in (f"{rank}_result", "submitted"):
            path = sent.record.logs / f"{sent.job_id}_{kind}.pkl.save_tmp"
            path.write_bytes(b"half")
    sent.await_step()
    desk.urgent()  # the second start finds them
    sent.ends_like(undisturbed())
    assert sent.starts[1]["restarts"] == 1


CRASHES = {
    "error": "raise RuntimeError('a bug of the user')",
    "death": "os.environ['RANK'] == '1' and os.kill(os.getpid(), signal.SIGSEGV); return [0] * 4",
}


@pytest.mark.parametrize("kind", CRASHES)
def test_a_crash_is_not_requeued(kind, desk, settings, tmp_path):
    """All ranks raise, or one dies and takes the other with it: once, and it is told."""
    module = tmp_path / "crash.py"
    module.write_text(f"import os, signal\ndef reward(**_):\n    {CRASHES[kind]}\n")
    changes = {"reward_funcs": ["crash:reward"]}
    sent = Sent(
        desk, settings(tmp_path / "grpo", **changes), tmp_path / "grpo", PYTHONPATH=str(tmp_path)
    )
    desk.finish()
    assert sent.status["state"] == "FAILED"
    assert (len(sent.starts), sent.status["requeues"]) == (1, 0)
    if kind == "error":
        why = "exit code 2, the reward function raised RuntimeError: a bug of the user"
        assert sent.status["why"] == why
    else:
        assert "task 1: Segmentation fault" in logs_of(sent.record.folder)


def test_cancelled_means_cancelled(desk, settings, undisturbed, tmp_path):
    """Also right after a signal that asks for a requeue; submitted again, it goes on."""
    sent = Sent(desk, settings(tmp_path / "grpo"), tmp_path / "grpo")
    sent.await_step()
    subprocess.run(["scancel", "--signal=USR2", sent.job_id], check=True)
    assert sent.job_id in desk.submit("cancel", sent.folder)
    desk.finish()
    assert sent.status["state"] == "CANCELLED"
    assert "PENDING" not in str(desk.queue())
    Sent(desk, settings(tmp_path / "grpo"), tmp_path / "grpo").ends_like(undisturbed())


def test_a_job_that_never_gets_further_is_not_started_for_ever(desk, settings, tmp_path):
    """Killed with its node at the same place again and again, it says so and ends."""
    sent = Sent(desk, settings(tmp_path / "grpo"), tmp_path / "grpo", "--begin", "now+5")
    for restarts in range(MAX_STARTS_WITHOUT_PROGRESS):
        sent.record.note("start", job_id=sent.job_id, restarts=restarts, done=0, nodes=["n1"])
    desk.finish()
    assert sent.status["state"] == "FAILED"
    said = logs_of(sent.record.folder)
    assert "without getting beyond 0 steps" in said
    assert "Traceback" not in said
