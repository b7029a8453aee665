"""The report before a run: what it says, refuses and recommends."""

import json
import sys
from pathlib import Path

import pytest
import what_fits
import yaml
from accelerate.commands.config import config_args
from hub_folder import write_hub_folder

from kit.data.grpo_records import read_grpo_records
from kit.errors import ConfigError
from kit.grpo.config import GrpoConfig
from kit.model.vision import CACHE_BYTES
from kit.plan.preflight import (
    PreflightConfig,
    count_images,
    example_trees,
    preflight,
    table_of_estimates,
)
from kit.run.launches import Plan

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


@pytest.mark.parametrize(
    ("model", "n_tokens"), [("Qwen2-VL-7B", 484), ("Qwen2.5-VL-7B", 484), ("Qwen3-VL-8B", 361)]
)
@pytest.mark.slow
def test_a_folder_of_each_family_is_planned(model, n_tokens, tmp_path, capsys):
    """Patches of 16 pixels make fewer tokens of an image than those of 14."""
    folder = write_hub_folder(tmp_path / "base", model, small=True, weights=False)
    code = check(config="launch/configs/sft.yaml", base_model=str(folder))
    assert code == 0
    assert f"{n_tokens} of them of an image" in capsys.readouterr().out


@pytest.mark.slow
def test_a_table_of_what_fits(monkeypatch, capsys):
    """QLoRA saves three quarters of what the language model's layers take in bfloat16."""
    monkeypatch.setattr(sys, "argv", ["what_fits", "--models", "Qwen3-VL-2B", "--stages", "sft"])
    what_fits.main()
    *_, row = capsys.readouterr().out.splitlines()
    model, lora, qlora = row.strip("| ").split(" | ")
    assert (model, lora[-4:], qlora[-4:]) == ("Qwen3-VL-2B", ": 16", ": 16")
    saved = float(lora[:-4]) - float(qlora[:-4])
    layers = 28 * (2048 * 128 * (16 + 8 + 8 + 16) + 3 * 2048 * 6144)
    assert saved == pytest.approx(layers * (2 - 0.516) / 2**30, abs=0.1)


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


def test_a_rollout_is_of_all_prompts_of_a_step(prepared, processor):
    """The features of their images stay, as far as there is room."""
    found = []
    for steps, counterfactual in ((1, "off"), (4, "online")):
        config = GrpoConfig(
            base_model="tiny", data="-", output_dir="-", gradient_accumulation_steps=steps,
            counterfactual=counterfactual, merge_adapter=False,
        )  # fmt: skip
        images = count_images(config, prepared["train"])
        trees = example_trees(config, processor, prepared["train"])
        table = table_of_estimates(config, processor, trees, Plan(), False, n_images=images)
        found.append(table["none or DDP", "none"])
    assert found[1].sampling == 4 * found[0].sampling
    assert found[1].features == CACHE_BYTES, "each step makes new images"
    n_images = len({record.image for record in read_grpo_records(prepared["train"])[0]})
    n_tokens = max(int((t.trunk.input_ids == t.trunk.image_token_id).sum()) for t in trees)
    assert found[0].features == n_images * n_tokens * 128 * 4


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
