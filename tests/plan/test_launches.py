"""A configuration of accelerate means the same to a process, whoever started it."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch.distributed.run
from accelerate.commands.launch import launch_command, launch_command_parser
from helpers import ROOT, launcher, run
from launch_files import BUCKETS, ZERO, write, zero

from kit.errors import ConfigError
from kit.model.load import hidden_size
from kit.plan.accelerate_internals import environment_of
from kit.plan.launches import plan_name, plans_beside
from kit.plan.preflight import read_launch
from kit.run import process
from kit.run.launch_files import read_launch_file
from kit.run.launches import Plan, launched_environment, plan_launch
from kit.train.config import SftConfig

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
    path, stage = f"accelerate_configs/{name}.yaml", SftConfig(base_model="tiny", data="-")
    assert read_launch(stage, path, None).plan == plan
    if name != "single_gpu":
        wider = read_launch(stage, path, 6).plan
        assert wider == replace(plan, processes=6), "what is asked for wins"
    assert plan_name(plan) == ("none or DDP" if name == "single_gpu" else name)


def test_a_deepspeed_file_that_is_silent_has_deepspeed_s_own_buffers(tmp_path):
    path = write(tmp_path, ZERO, {"zero_optimization": {"stage": 2}})
    stage = SftConfig(base_model="tiny", data="-")
    assert read_launch(stage, str(path), None).plan == Plan(2, 2, bucket=500_000_000)


def test_auto_buffers_are_as_wide_as_transformers_makes_them(tmp_path):
    path = write(tmp_path, ZERO, zero(3, **BUCKETS))
    plan = read_launch(SftConfig(base_model="tiny", data="-"), str(path), None).plan
    width = hidden_size("tiny")
    assert plan == Plan(3, 2, bucket=width * width, persistence=10 * width)


def test_the_optimizer_may_lie_in_main_memory_without_the_weights(tmp_path):
    path = write(tmp_path, ZERO, zero(3, offload_optimizer={"device": "cpu"}))
    plan = read_launch(SftConfig(base_model="tiny", data="-"), str(path), None).plan
    assert (plan.offload_optimizer, plan.offload_weights) == (True, False)


def test_a_plan_without_a_file_of_its_own_is_compared_as_it_is():
    """It was taken for one without ZeRO."""
    chosen = Plan(3, 4, offload_optimizer=True, bucket=7)
    assert plans_beside(chosen)[plan_name(chosen)] == chosen
    assert plans_beside(Plan(2, 4, bucket=7))["zero3"] == Plan(3, 4, bucket=7)


@pytest.mark.parametrize("named", ["ds_configs/zero3.json", "mine.json"])
def test_a_deepspeed_file_is_found_from_any_folder(named, tmp_path, monkeypatch):
    """As it is named from where one is, as accelerate has it, or else from the kit's folder."""
    (tmp_path / "mine.json").write_text(json.dumps(zero(3)))
    path = write(tmp_path, ZERO | {"deepspeed_config": {"deepspeed_config_file": named}}, None)
    monkeypatch.chdir(tmp_path)
    told = environment_of(str(path), processes=2) | {"WORLD_SIZE": "2"}
    assert read_launch(SftConfig(base_model="tiny", data="-"), str(path), None).plan.stage == 3
    found = launched_environment(told)["ACCELERATE_DEEPSPEED_CONFIG_FILE"]
    assert found == str((ROOT if named.startswith("ds") else tmp_path) / named)
    assert read_launch_file(path).deepspeed_file == Path(found)


@pytest.mark.parametrize(
    ("variable", "kind"),
    [
        ("ACCELERATE_USE_FSDP", "FSDP"),
        ("ACCELERATE_USE_MEGATRON_LM", "MEGATRON_LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "parallelism_config"),
    ],
)
def test_a_run_that_was_launched_otherwise_is_refused_by_name(variable, kind, monkeypatch):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ConfigError, match=f"does not run under {kind}"):
        process.join()


@pytest.mark.parametrize(
    ("stage", "told", "device", "half", "reason"),
    [
        (None, {}, "native", True, "the GPU has it"),
        (None, {}, "emulated", False, "only emulates"),
        (None, {}, "none", False, "no GPU"),
        (None, {"MIXED_PRECISION": "bf16"}, "native", True, "files of the launch"),
        (None, {"MIXED_PRECISION": "bf16"}, "emulated", False, "only emulates"),
        (None, {"MIXED_PRECISION": "bf16"}, "none", True, "files of the launch"),
        (None, {"MIXED_PRECISION": "no"}, "native", True, "the GPU has it"),
        (None, {"USE_CPU": "true"}, "native", False, "no GPU"),
        (True, {"USE_CPU": "true"}, "none", True, "says so"),
        (True, {}, "emulated", True, "though this GPU only emulates it"),
        (False, {}, "native", False, "says so"),
        (False, {"MIXED_PRECISION": "bf16"}, "native", None, "asks for mixed precision 'bf16'"),
        (None, {"MIXED_PRECISION": "fp8"}, "native", None, "'fp8' is not supported"),
    ],
)
def test_the_precision_of_a_run_and_its_reason(stage, told, device, half, reason):
    config = SftConfig(base_model="tiny", data="-", bf16=stage)
    told = {f"ACCELERATE_{name}": value for name, value in told.items()}
    if half is None:
        with pytest.raises(ConfigError, match=reason):
            plan_launch(told, config, bf16=device, hidden_size=lambda: 8)
        return
    launch = plan_launch(told, config, bf16=device, hidden_size=lambda: 8)
    assert launch.bf16 == half
    assert reason in launch.precision


@pytest.mark.parametrize(
    ("cuda", "real", "emulated", "support"),
    [
        (True, True, True, "native"),  # A100
        (True, False, True, "emulated"),  # V100, T4
        (True, False, False, "none"),  # P100
        (False, False, False, "none"),
    ],
)
def test_emulated_bfloat16_is_not_taken_for_the_gpu_s_own(
    cuda, real, emulated, support, monkeypatch
):
    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return emulated if including_emulation else real

    monkeypatch.setattr(process.torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(process.torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert process.bf16_support() == support
