"""The real ``accelerate launch``: the ranks that all other tests fork are its twins, to the bit."""

import hashlib
import os
import signal
import subprocess

import helpers
import pytest
import ranks
from helpers import ROOT, flags_of, lasting, on_cpu, settings_of, wait_for_rows

pytestmark = pytest.mark.slow


def what_it_left(folder) -> tuple[str, list[dict]]:
    weights = (folder / "adapter_model.safetensors").read_bytes()
    return hashlib.sha256(weights).hexdigest(), lasting(folder)


@pytest.mark.parametrize("launch", ["cpu", "zero2_offload"])
def test_forked_ranks_are_launched_ones(launch, prepared, trained, tmp_path):
    """ZeRO-3 is below; for every file tests/plan/test_launches.py compares what ranks are told."""
    launched, forked = tmp_path / "launched", tmp_path / "forked"
    settings = settings_of("sft", prepared, trained, launched, save_steps=0)
    config = on_cpu(tmp_path, launch) if "offload" in launch else launch
    command = ["launch/train_sft.py", *flags_of(settings)]
    done = helpers.run([*helpers.launcher(config), *command])
    assert done.returncode == 0, done.stderr
    done = ranks.run([*ranks.launcher(config), *command, f"--output_dir={forked}"])
    assert done.returncode == 0, done.stderr
    assert what_it_left(launched) == what_it_left(forked)


def test_a_launcher_hands_on_what_it_is_asked(undisturbed, prepared, trained, tmp_path):
    """GRPO under ZeRO-3 gets SIGTERM by way of the launcher, leaves, and goes on as forked ranks:
    to the last bit as if it had been those all along."""
    changes = {"max_steps": 8, "save_steps": 0, "report_to": "none"}
    settings = settings_of("grpo", prepared, trained, tmp_path / "parts", **changes)
    command = ["launch/train_grpo.py", *flags_of(settings)]
    process = subprocess.Popen(
        [*helpers.launcher("cpu_zero3"), *command],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": helpers.python_path()},
    )  # fmt: skip
    wait_for_rows(2, tmp_path / "parts", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) != 0
    assert len(helpers.rows(tmp_path / "parts")) < 8
    resumed = ranks.run([*ranks.launcher("cpu_zero3"), *command, "--resume_from_checkpoint=latest"])
    assert resumed.returncode == 0, resumed.stderr
    whole = undisturbed("grpo", settings, "cpu_zero3")
    assert what_it_left(tmp_path / "parts") == what_it_left(whole)
