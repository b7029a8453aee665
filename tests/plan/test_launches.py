"""A configuration of accelerate means the same to a process, whoever started it."""

import json
import os

import pytest
from helpers import ROOT, launcher, run

from kit.errors import ConfigError
from kit.plan.accelerate_internals import environment_of

FILES = sorted((ROOT / "accelerate_configs").glob("*.yaml"))
SHOW = """
import json, os, sys
told = {k: v for k, v in os.environ.items() if k.startswith("ACCELERATE_")}
if os.environ.get("RANK", "0") == "0":
    open(sys.argv[1], "w").write(json.dumps(told))
"""


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_environment_is_the_one_of_accelerate_launch(path, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    script, seen = tmp_path / "show.py", tmp_path / "seen.json"
    script.write_text(SHOW)
    processes = 1 if path.stem == "single_gpu" else 2
    done = run(
        [
            *launcher(path), "--num_processes", str(processes), "--num_machines", "1",
            "--main_process_port", "0", str(script), str(seen),
        ]
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(seen.read_text())
    assert told
    assert environment_of(str(path), processes=processes) == told


def test_this_process_is_left_as_it_is(monkeypatch):
    monkeypatch.chdir(ROOT)
    before = dict(os.environ)
    environment_of("accelerate_configs/cpu_zero2.yaml", processes=2)
    assert dict(os.environ) == before
    assert environment_of(None, processes=2) == {}


def test_what_accelerate_refuses_is_a_clear_error(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("distributed_type: DEEPSPEED\nmixed_precision: half\n")
    with pytest.raises(ConfigError):
        environment_of(str(path), processes=2)
