"""What the preflight plans is what a run does, for launch files as people have them."""

import json

import pytest
from launch_files import FILES, REFUSED, SFT, write
from ranks import run

from kit.command import parse
from kit.errors import ConfigError
from kit.plan.preflight import read_launch
from kit.train.config import SftConfig

NAMES = list(FILES)


def planned(path, stage: dict) -> list | str:
    """The preflight's plan, in the order of ``FILES``, then processes and the sizes of ZeRO's
    buffers; or the refusal."""
    config = parse(SftConfig, [f"--{k}={v}" for k, v in (SFT | stage).items()])
    try:
        launch = read_launch(config, str(path), None)
    except ConfigError as error:
        return str(error)
    plan = launch.plan
    spread = [plan.stage, plan.offload_optimizer, plan.offload_weights]
    buckets = [plan.bucket, plan.persistence] if plan.with_deepspeed else []
    return [*spread, launch.batch, launch.bf16, plan.processes, *buckets]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """What two ranks made of each file, by name."""
    folder = tmp_path_factory.mktemp("launches")
    for number, (accelerate, deepspeed, _, _) in enumerate(FILES.values()):
        write(folder / str(number), accelerate, deepspeed)
    command = ["accelerate_configs/cpu.yaml", "tests/launch_files.py", str(folder)]
    ended = run([*command, str(folder / "done.json")])
    assert ended.returncode == 0, ended.stderr
    return folder, json.loads((folder / "done.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_plan_of_the_preflight_is_that_of_the_run(name, done):
    """Both from the files alone: the run's is what accelerate and DeepSpeed's engine then say."""
    folder, found = done
    _, _, stage, expected = FILES[name]
    mine = planned(folder / str(NAMES.index(name)) / "launch.yaml", stage)
    if isinstance(expected, str):
        assert expected in mine
        assert found[name] == f"ConfigError: {mine}"
    else:
        assert mine == found[name]
        assert mine[:6] == [*expected, 2]


@pytest.mark.parametrize(("name", "accelerate", "said"), REFUSED, ids=[n for n, _, _ in REFUSED])
def test_what_the_kit_does_not_run_under_is_refused_by_name(name, accelerate, said, tmp_path):
    path = write(tmp_path, accelerate, None)
    refused = planned(path, {})
    assert said in refused
    assert "fix:" in refused
    assert str(path) in refused or "x.json" in refused
