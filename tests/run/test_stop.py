"""Requests to stop, at any moment and to anyone: all leave together, and the run goes on."""

import os
import signal
import subprocess
import time

import pytest
from faults import kill
from helpers import (
    ROOT,
    adapter_of,
    flags_of,
    lasting,
    launcher,
    most_apart,
    run,
    settings_of,
)

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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a run that nobody stops, made once for all the tests that compare with it:
    ``make`` makes it in the folder that it is given, ``key`` says which it is."""
    made = {}

    def folder_of(key, make):
        if key not in made:
            folder = tmp_path_factory.mktemp("undisturbed") / "run"
            assert make(folder) == 0
            made[key] = folder
        return made[key]

    return folder_of


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGTERM", "stop file"])
@pytest.mark.parametrize("moment", MOMENTS, ids="-".join)
def test_stopping_at_any_moment_and_going_on(
    moment, how, start, undisturbed, prepared, tmp_path, monkeypatch
):
    """In the second call of what is going on; the run leaves at the end of that step."""
    stage = moment[0]
    module, name = MOMENTS[moment]
    changes = {"eval_data": str(prepared["test"]), "eval_steps": 1}
    if stage == "grpo":
        changes["max_eval_records"] = 2
    whole = undisturbed(stage, lambda folder: start(stage, folder, **changes))
    folder, real, calls = tmp_path / "parts", getattr(module, name), [0]

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
    last = int(checkpoint.checkpoints(folder)[0].name.split("-")[1])
    assert last == (3 if moment[1] == "saving" else 2), "within one step"
    assert start(stage, folder, resume_from_checkpoint="latest", **changes) == 0
    assert most_apart(adapter_of(whole), adapter_of(folder)) == 0
    assert lasting(whole) == lasting(folder)


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["cpu", "cpu_zero3"])
@pytest.mark.parametrize("whom", ["one rank", "launcher", "stop file"])
def test_all_ranks_leave_together(launch, whom, undisturbed, prepared, trained, tmp_path):
    changes = {"max_steps": 12, "save_steps": 0, "report_to": "none"}
    settings = settings_of("grpo", prepared, trained, tmp_path / "parts", **changes)
    command = [*launcher(launch), "launch/train_grpo.py", *flags_of(settings)]
    whole = undisturbed(launch, lambda folder: run([*command, f"--output_dir={folder}"]).returncode)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    metrics = tmp_path / "parts" / "metrics.jsonl"
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 2):
        assert process.poll() is None
        time.sleep(0.02)
    ranks = [p for p in kill.family(process.pid) if "RANK" in kill.environment_of(p)]
    assert len(ranks) == 2
    if whom == "one rank":
        ranks[1].send_signal(signal.SIGTERM)
    elif whom == "launcher":
        process.send_signal(signal.SIGTERM)
    else:
        (tmp_path / "parts" / "stop").touch()
    seen = len(metrics.read_text().splitlines())
    assert process.wait(120) != 0
    (saved,) = checkpoint.checkpoints(tmp_path / "parts")
    assert seen <= checkpoint.step_of(saved) <= seen + 2, "within a step or the next"
    assert checkpoint.problem_with(saved) is None
    assert run([*command, "--resume_from_checkpoint=latest"]).returncode == 0
    assert most_apart(adapter_of(whole), adapter_of(tmp_path / "parts")) == 0
    assert lasting(whole) == lasting(tmp_path / "parts")


SCRIPT = """
import os, signal, sys
from kit.command import parse
from kit.train import {module}, {stage}
from kit.train.config import {config}
real, calls = {module}.{name}, [0]
def asked(*args, **kwargs):
    calls[0] += 1
    if calls[0] == 2 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
    return real(*args, **kwargs)
{module}.{name} = asked
sys.exit({stage}.train(parse({config})))
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS, ids="-".join)
def test_one_rank_is_asked_at_any_moment(moment, undisturbed, prepared, trained, tmp_path):
    """SIGTERM to rank 1 of 2 under ZeRO-2, in the second call of what is going on."""
    stage = moment[0]
    module, name = MOMENTS[moment]
    script = tmp_path / "asked.py"
    config = {"sft": "SftConfig", "grpo": "GrpoConfig"}[stage]
    words = {"module": module.__name__.rsplit(".", 1)[1], "name": name, "stage": stage}
    script.write_text(SCRIPT.format(config=config, **words))
    changes = {"eval_data": prepared["test"], "eval_steps": 1}
    if stage == "grpo":
        changes["max_eval_records"] = 2
    settings = settings_of(stage, prepared, trained, tmp_path / "parts", **changes)
    plain = [*launcher("cpu_zero2"), f"launch/train_{stage}.py", *flags_of(settings)]
    whole = undisturbed(
        ("zero2", stage), lambda folder: run([*plain, f"--output_dir={folder}"]).returncode
    )
    assert run([*launcher("cpu_zero2"), str(script), *flags_of(settings)]).returncode != 0
    newest = checkpoint.checkpoints(tmp_path / "parts")[0]
    assert checkpoint.step_of(newest) == (3 if moment[1] == "saving" else 2), "within one step"
    assert checkpoint.problem_with(newest) is None
    assert run([*plain, "--resume_from_checkpoint=latest"]).returncode == 0
    assert most_apart(adapter_of(whole), adapter_of(tmp_path / "parts")) == 0
    assert lasting(whole) == lasting(tmp_path / "parts")
