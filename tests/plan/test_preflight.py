"""The report before a run: what it says, refuses and recommends."""

import json
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config import config_args

from kit.errors import ConfigError
from kit.plan.preflight import PreflightConfig, preflight

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def check(**changes) -> int:
    plain = {"stage": "sft", "config": "launch/configs/sft_tiny.yaml"}
    return preflight(PreflightConfig(**plain | changes))


@pytest.mark.parametrize("stage", ["sft", "grpo"])
@pytest.mark.parametrize("launch", ["cpu", "multi_gpu", "zero2", "zero3_offload"])
def test_a_report(stage, launch, capsys):
    code = check(
        stage=stage,
        config=f"launch/configs/{stage}_tiny.yaml",
        base_model="tiny",
        accelerate_config=f"accelerate_configs/{launch}.yaml",
    )
    said = capsys.readouterr().out
    assert code == 0
    assert "recommended: none or DDP, quantization none" in said
    assert f"{launch} with quantization none fits" in said
    assert "64 of them of an image" in said, "224 by 224 pixels are 8 by 8 tokens"
    assert ("128 completions" in said) == (stage == "grpo" and launch == "cpu")


def test_grpo_is_planned_at_the_image_size_of_its_adapter(trained_small, capsys):
    code = check(stage="grpo", config="launch/configs/grpo_tiny.yaml", sft_ckpt=str(trained_small))
    said = capsys.readouterr().out.replace("\n", " ")  # lines part by the length of its path
    assert code == 0
    assert "16 of them of an image" in said
    assert "max_pixels 12544" in said


def test_the_file_that_accelerate_takes_by_itself_is_named(tmp_path, monkeypatch, capsys):
    own = tmp_path / "default_config.yaml"
    monkeypatch.setattr(config_args, "default_config_file", str(own))
    check()
    assert str(own) not in capsys.readouterr().out
    own.touch()
    check()
    assert str(own) in capsys.readouterr().out.replace("\n", "")


def test_the_data_is_measured(prepared, capsys):
    check(data=str(prepared["train"]))
    assert "a micro-batch: 32 rows" in capsys.readouterr().out


def test_what_does_not_fit_is_told(capsys):
    launch = "accelerate_configs/multi_gpu.yaml"
    assert check(accelerate_config=launch, gpu_memory_gb=0.01) == 1
    said = capsys.readouterr().out
    assert "nothing fits: lower per_device_train_batch_size" in said
    assert "multi_gpu with quantization none does NOT fit" in said


def test_contradictions_are_refused(tmp_path):
    settings = json.loads((ROOT / "ds_configs/zero2.json").read_text())
    deepspeed = tmp_path / "mine.json"
    deepspeed.write_text(json.dumps(settings | {"gradient_clipping": 7.0}))
    launch = yaml.safe_load((ROOT / "accelerate_configs/zero2.yaml").read_text())
    launch["deepspeed_config"]["deepspeed_config_file"] = str(deepspeed)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(launch))
    with pytest.raises(ConfigError, match=r"gradient_clipping 7.0, the kit max_grad_norm 1.0"):
        check(accelerate_config=str(tmp_path / "mine.yaml"))
    deepspeed.write_text("{")
    with pytest.raises(ConfigError, match="not a configuration"):
        check(accelerate_config=str(tmp_path / "mine.yaml"))
    with pytest.raises(ConfigError, match="no such config file"):
        check(accelerate_config=str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match="no configuration given"):
        PreflightConfig()
