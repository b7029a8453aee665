"""Every config that is shipped is read by what it is for."""

import dataclasses
from argparse import Namespace
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from kit.command import parse
from kit.data.prepare import PrepareConfig
from kit.errors import ConfigError
from kit.evaluate.config import EvaluateConfig
from kit.grpo.config import GrpoConfig
from kit.plan.accelerate_internals import environment_of
from kit.plan.preflight import read_launch
from kit.run.launch_files import read_launch_file
from kit.run.process import start
from kit.train.config import SftConfig

ROOT = Path(__file__).resolve().parents[1]
# By the first word of the file's name: the config class, and the flags without which it is none.
STAGES = {
    "prepare": (PrepareConfig, ["--output", "out.json"]),
    "sft": (SftConfig, ["--data", "train.json"]),
    "grpo": (GrpoConfig, ["--data_jsonl", "grpo.jsonl", "--sft_ckpt", "checkpoints/sft"]),
    "evaluate": (
        EvaluateConfig,
        ["--data", "test.json", "--output", "out", "--base_model", "tiny"],
    ),
}
STAGE_FILES = sorted((ROOT / "launch" / "configs").glob("*.yaml"))
ACCELERATE_FILES = sorted((ROOT / "accelerate_configs").glob("*.yaml"))


def read(path: Path):
    config_class, flags = STAGES[path.stem.split("_")[0]]
    return parse(config_class, ["--cfg", str(path), *flags])


@pytest.mark.parametrize("path", STAGE_FILES, ids=lambda path: path.stem)
def test_stage_configs_arrive_as_written(path):
    """Each key, in the type of its field: 1e-4 is text to YAML 1.1, and a number to us."""
    config = read(path)
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert written
    for key, value in written.items():
        found = getattr(config, key)
        expected = type(found)(value) if isinstance(found, (int, float, str)) else value
        assert found == expected, key
    numbers = [f.name for f in dataclasses.fields(config) if f.type in ("float", "int")]
    for name in numbers:
        assert (
            type(getattr(config, name))
            is {"float": float, "int": int}[config.__dataclass_fields__[name].type]
        ), name


@pytest.mark.parametrize("path", STAGE_FILES, ids=lambda path: path.stem)
def test_stage_configs_with_a_typing_error_are_refused(path, tmp_path):
    """Any of its keys, misspelt, and one that is none."""
    text = path.read_text(encoding="utf-8")
    for key in yaml.safe_load(text):
        wrong = tmp_path / path.name
        wrong.write_text(text.replace(f"{key}:", f"{key}x:", 1), encoding="utf-8")
        with pytest.raises(ConfigError, match=f"unknown key '{key}x'") as caught:
            read(wrong)
        assert f"did you mean '{key}'?" in str(caught.value)
        assert str(wrong) in str(caught.value)
    (tmp_path / path.name).write_text(f"{text}\nmax_new_tokenz: 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="unknown key 'max_new_tokenz'"):
        read(tmp_path / path.name)


def test_documented_figures_of_the_configs():
    """What the comments and the README promise of them."""
    configs = {path.stem: read(path) for path in STAGE_FILES}
    assert configs["sft_qlora"].quantization == "nf4"
    assert configs["sft_full"].finetuning == "full"
    assert configs["sft_tiny"].base_model == "tiny"
    assert configs["sft"].learning_rate == 1e-4
    for name, config in configs.items():
        if config.max_pixels:  # 28 by 28 pixels are one token
            tokens = config.max_pixels / 28**2
            comment = f"# {tokens:.0f} image tokens"
            assert comment in (ROOT / "launch/configs" / f"{name}.yaml").read_text(), name


@pytest.mark.parametrize("path", ACCELERATE_FILES, ids=lambda path: path.stem)
def test_accelerate_reads_its_configs(path):
    """With its own loader, which refuses keys that it does not know, and as the launcher does."""
    config = load_config_from_file(str(path))
    arguments, _, _ = _validate_launch_command(launcher_arguments(path))
    assert arguments.num_processes == config.num_processes
    assert arguments.mixed_precision == (config.mixed_precision or "no")
    assert bool(arguments.use_cpu) == bool(config.use_cpu)
    for key in ("deepspeed_config_file", "fsdp_config_file"):
        named = (yaml.safe_load(path.read_text()).get("deepspeed_config") or {}).get(key)
        assert named is None or (ROOT / named).is_file()


def launcher_arguments(path: Path) -> Namespace:
    return launch_command_parser().parse_args(["--config_file", str(path), "script.py"])


@pytest.mark.parametrize("path", ACCELERATE_FILES, ids=lambda path: path.stem)
def test_accelerate_configs_contradict_no_stage_config(path, monkeypatch):
    """What the launcher would put into the environment suits each config that is shipped."""
    environment = environment_of(str(path), processes=4)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("kit.run.process.join", join)
    for stage_file in STAGE_FILES:
        config = read(stage_file)
        if hasattr(config, "gradient_accumulation_steps"):
            with pytest.raises(Joined) as joined:
                start(config)
            (options,) = joined.value.args
            assert options["mixed_precision"] == environment["ACCELERATE_MIXED_PRECISION"]
            assert options["gradient_accumulation_steps"] == config.gradient_accumulation_steps
            if "zero" in path.stem:
                settings = options["deepspeed_plugin"].deepspeed_config
                assert settings["gradient_clipping"] == config.max_grad_norm
                assert "auto" not in [v for v in settings.values() if isinstance(v, str)]


@pytest.mark.parametrize("path", ACCELERATE_FILES, ids=lambda path: path.stem)
def test_names_tell_the_stage(path):
    launch = read_launch(SftConfig(base_model="tiny", data="-"), str(path), None)
    stage = int(path.stem.split("zero")[1][0]) if "zero" in path.stem else 0
    assert launch.plan.stage == stage
    assert launch.plan.offload_optimizer == ("offload" in path.stem)
    assert launch.plan.offload_weights == (path.stem == "zero3_offload")
    assert launch.bf16 != path.stem.startswith("cpu")


class Joined(Exception):
    """The options of an Accelerator that was about to be made."""


def join(**options):
    raise Joined(options)


@pytest.mark.parametrize("key", ["num_processses", "mixed_precison"])
def test_accelerate_refuses_unknown_keys(key, tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text((ROOT / "accelerate_configs/cpu.yaml").read_text() + f"{key}: 1\n")
    with pytest.raises(ValueError, match=key):
        load_config_from_file(str(path))


@pytest.mark.parametrize("path", STAGE_FILES, ids=lambda path: path.stem)
def test_stage_configs_mean_the_same_in_any_folder(path, tmp_path, monkeypatch):
    here = read(path)
    monkeypatch.chdir(tmp_path)
    assert read(path) == here
    assert read(path.relative_to(ROOT)) == read(Path(path.stem)) == here, "and by name"
    with pytest.raises(ConfigError, match="no such config file") as caught:
        read(Path(f"{path.stem}_other"))
    assert path.stem in caught.value.fix, "what there is"


@pytest.mark.parametrize("path", ACCELERATE_FILES, ids=lambda path: path.stem)
def test_accelerate_configs_mean_the_same_in_any_folder(path, tmp_path, monkeypatch):
    here = read_launch_file(path)
    monkeypatch.chdir(tmp_path)
    assert read_launch_file(path) == read_launch_file(path.stem) == here
