"""A configuration of accelerate means the same to a process, whoever started it."""

import json
import os
import subprocess
from dataclasses import replace

import pytest
import torch.distributed.run
from accelerate.commands.launch import launch_command, launch_command_parser
from helpers import ROOT, launcher, run

from kit.errors import ConfigError
from kit.plan.accelerate_internals import environment_of
from kit.plan.launches import Plan, read_launch

FILES = sorted((ROOT / "accelerate_configs").glob("*.yaml"))
SHOW = """
import json, os, sys
told = {k: v for k, v in os.environ.items() if k.startswith("ACCELERATE_")}
if os.environ.get("RANK", "0") == "0":
    open(sys.argv[1], "w").write(json.dumps(told))
"""


ALONE = ("--num_machines", "1", "--main_process_port", "0")
KINDS = [path for path in FILES if path.stem in ("single_gpu", "cpu", "cpu_zero2", "zero3_offload")]


def processes_of(path) -> int:
    return 1 if path.stem == "single_gpu" else 2


@pytest.mark.slow
@pytest.mark.parametrize("path", KINDS, ids=lambda p: p.stem)
def test_the_environment_is_the_one_of_accelerate_launch(path, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    script, seen = tmp_path / "show.py", tmp_path / "seen.json"
    script.write_text(SHOW)
    processes = processes_of(path)
    own = ["--num_processes", str(processes), *ALONE]
    done = run([*launcher(path), *own, str(script), str(seen)])
    assert done.returncode == 0, done.stderr
    told = json.loads(seen.read_text())
    assert told
    assert environment_of(str(path), processes=processes) == told


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_environment_is_the_one_of_accelerate_in_this_process(path, monkeypatch):
    """Its command, up to where it would start the ranks."""
    monkeypatch.chdir(ROOT)
    told = []

    def ranks(arguments) -> None:
        told.append(dict(os.environ))

    class Process(subprocess.Popen):
        def __init__(self, command, env):
            told.append(env)
            super().__init__("true")

    monkeypatch.setattr(torch.distributed.run, "run", ranks)
    monkeypatch.setattr(subprocess, "Popen", Process)
    processes = processes_of(path)
    command = ["--config_file", str(path), "--num_processes", str(processes), *ALONE, "script.py"]
    launch_command(launch_command_parser().parse_args(command))
    (environment,) = told
    found = {k: v for k, v in environment.items() if k.startswith("ACCELERATE_")}
    assert found
    assert environment_of(str(path), processes=processes) == found


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


@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("single_gpu", Plan(0, 1)),
        ("zero1", Plan(1, 4)),
        ("zero2", Plan(2, 4)),
        ("zero2_offload", Plan(2, 4, offload_optimizer=True)),
        ("zero3", Plan(3, 4)),
        ("zero3_offload", Plan(3, 4, offload_optimizer=True, offload_weights=True)),
    ],
)
def test_plans_are_those_that_the_files_are_named_after(name, plan, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = f"accelerate_configs/{name}.yaml"
    assert read_launch(path, None).plan == plan
    assert read_launch(path, 6).plan == replace(plan, processes=6), "what is asked for wins"


def test_a_deepspeed_file_that_is_silent_has_deepspeed_s_own_buffers(tmp_path):
    settings, path = tmp_path / "ds.json", tmp_path / "launch.yaml"
    settings.write_text('{"zero_optimization": {"stage": 2}}')
    path.write_text(f"deepspeed_config: {{deepspeed_config_file: {settings}}}\nnum_processes: 2\n")
    assert read_launch(str(path), None).plan == Plan(2, 2, bucket=500_000_000)
