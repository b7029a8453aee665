"""Requests to stop, at any moment and to anyone: all leave together, and the run goes on."""

import os
import signal
from functools import partial

import pytest
from helpers import adapter_of, flags_of, lasting, most_apart, settings_of, wait_for_rows
from hooks import ask_to_stop
from ranks import Ranks, launcher, run

from kit.grpo import grpo
from kit.run import checkpoint, state
from kit.run.stop import EXIT_STOPPED
from kit.train import sft

MOMENTS = {
    ("sft", "update"): (sft, "update"),
    ("sft", "evaluation"): (sft, "evaluate_loss"),
    ("sft", "saving"): (state, "save"),
    ("grpo", "rollout"): (grpo, "collect"),
    ("grpo", "update"): (grpo, "update"),
    ("grpo", "evaluation"): (grpo, "evaluate"),
    ("grpo", "saving"): (state, "save"),
}


ONE_IS_ENOUGH = {("sft", "update"), ("grpo", "saving")}  # of each pair that is much the same
HOWS = [("SIGTERM", moment) for moment in MOMENTS] + [("stop file", ("grpo", "rollout"))]


def with_evaluation(stage, prepared) -> dict[str, object]:
    """After each step, on few questions."""
    more = {"max_eval_records": 2} if stage == "grpo" else {}
    return {"eval_data": str(prepared["few"]), "eval_steps": 1} | more


def last_step(folder) -> int:
    newest = checkpoint.checkpoints(folder)[0]
    assert checkpoint.problem_with(newest) is None
    return checkpoint.step_of(newest)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "moment"), HOWS, ids=str)
def test_stopping_at_any_moment_and_going_on(
    how, moment, start, undisturbed, prepared, trained, tmp_path, monkeypatch
):
    """In the second call of what is going on; the run leaves at the end of that step."""
    stage = moment[0]
    module, name = MOMENTS[moment]
    changes = with_evaluation(stage, prepared)
    folder, real, calls = tmp_path / "parts", getattr(module, name), [0]
    whole = undisturbed(stage, settings_of(stage, prepared, trained, folder, **changes))

    def asked(*args, **kwargs):
        calls[0] += 1
        if calls[0] == 2:
            if how == "SIGTERM":
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                (folder / "stop").touch()
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, asked)
    assert start(stage, folder, **changes) == EXIT_STOPPED
    monkeypatch.setattr(module, name, real)
    assert last_step(folder) == (3 if moment[1] == "saving" else 2), "within one step"
    assert start(stage, folder, resume_from_checkpoint="latest", **changes) == 0
    assert most_apart(adapter_of(whole), adapter_of(folder)) == 0
    assert lasting(whole) == lasting(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launch", "whom"), [("cpu", "one rank"), ("cpu", "all"), ("cpu_zero3", "stop file")]
)
def test_all_ranks_leave_together(launch, whom, undisturbed, prepared, trained, tmp_path):
    """Of ZeRO-2 one rank is asked below, of ZeRO-3 all in tests/run/test_launchers.py."""
    changes = {"max_steps": 8, "save_steps": 0, "report_to": "none"}
    settings = settings_of("grpo", prepared, trained, tmp_path / "parts", **changes)
    whole = undisturbed("grpo", settings, launch)
    command = [*launcher(launch), "launch/train_grpo.py", *flags_of(settings)]
    ranks = Ranks(command)
    assert len(ranks.pids) == 2
    wait_for_rows(2, tmp_path / "parts", ranks)
    if whom == "one rank":
        os.kill(ranks.pids[1], signal.SIGTERM)
    elif whom == "all":
        ranks.send_signal(signal.SIGTERM)
    else:
        (tmp_path / "parts" / "stop").touch()
    seen = wait_for_rows(2, tmp_path / "parts", ranks)
    assert ranks.wait(120) == EXIT_STOPPED
    assert seen <= last_step(tmp_path / "parts") <= seen + 2, "within a step or the next"
    assert len(checkpoint.checkpoints(tmp_path / "parts")) == 1
    assert run([*command, "--resume_from_checkpoint=latest"]).returncode == 0
    assert most_apart(adapter_of(whole), adapter_of(tmp_path / "parts")) == 0
    assert lasting(whole) == lasting(tmp_path / "parts")


@pytest.mark.slow
@pytest.mark.parametrize("moment", [m for m in MOMENTS if m not in ONE_IS_ENOUGH], ids="-".join)
def test_one_rank_is_asked_at_any_moment(moment, undisturbed, prepared, trained, tmp_path):
    """SIGTERM to rank 1 of 2 under ZeRO-2, in the second call of what is going on."""
    stage = moment[0]
    module, name = MOMENTS[moment]
    changes = with_evaluation(stage, prepared)
    settings = settings_of(stage, prepared, trained, tmp_path / "parts", **changes)
    whole = undisturbed(stage, settings, "cpu_zero2")
    command = [*launcher("cpu_zero2"), f"launch/train_{stage}.py", *flags_of(settings)]
    asked = run(command, hook=partial(ask_to_stop, module.__name__, name, rank=1))
    assert asked.returncode == EXIT_STOPPED, asked.stderr
    assert last_step(tmp_path / "parts") == (3 if moment[1] == "saving" else 2), "within one step"
    assert run([*command, "--resume_from_checkpoint=latest"]).returncode == 0
    assert most_apart(adapter_of(whole), adapter_of(tmp_path / "parts")) == 0
    assert lasting(whole) == lasting(tmp_path / "parts")
