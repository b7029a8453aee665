"""The SFT loop on the embedded model: artefacts, splits of the batch, resume."""

import json
import shutil

import pytest
import torch
import yaml
from helpers import adapter_of, distance, most_apart, rows
from safetensors.torch import load_file

from kit.errors import ConfigError, UserError
from kit.model.adapters import load_adapter
from kit.model.folders import base_folder
from kit.model.load import load_base
from kit.train.config import SftConfig
from kit.train.sft import train

PLAIN = {
    "base_model": "tiny",
    "max_steps": 3,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-3,
    "warmup_ratio": 0.0,
    "freeze_vision_tower": False,
    "logging_steps": 1,
    "save_steps": 0,
    "report_to": ["none"],
}


def settings(prepared, **changes) -> dict[str, object]:
    return PLAIN | {"data": str(prepared["train"])} | changes


def config(prepared, folder, **changes) -> SftConfig:
    return SftConfig(output_dir=str(folder), **settings(prepared, **changes))


def test_a_run_leaves_what_was_promised(prepared, tmp_path):
    changes = {"max_steps": 6, "report_to": ["tensorboard"], "save_steps": 2, "eval_steps": 3}
    assert train(config(prepared, tmp_path, eval_data=str(prepared["train"]), **changes)) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {
        "config.yaml", "environment.json", "metrics.jsonl", "summary.json", "README.md", "logs",
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.json",
        "preprocessor_config.json", "checkpoint-4", "checkpoint-6", "best",
    }  # fmt: skip
    assert list(tmp_path.glob("logs/**/events.*"))
    made_with = json.loads((tmp_path / "environment.json").read_text())
    assert made_with["device"] == "cpu"
    assert made_with["attention"] == "tree_sdpa"
    assert made_with["trained_dtypes"] == made_with["frozen_dtypes"] == ["float32"]
    assert made_with["packages"].keys() >= {"torchvision", "opencv", "pillow", "deepspeed"}
    losses = [row["loss"] for row in rows(tmp_path) if "loss" in row]
    assert len(losses) == 6
    evaluated = {row["step"]: row["eval_loss"] for row in rows(tmp_path) if "eval_loss" in row}
    assert list(evaluated) == [3, 6]
    assert evaluated[6] < evaluated[3] < losses[0] + 0.1
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["max_steps"] == 6
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["step"] == 6
    assert summary["samples"] == 48
    assert summary["finished"] is True
    assert "base_model: tiny" in (tmp_path / "README.md").read_text()
    weights = adapter_of(tmp_path)
    assert all(w.dtype == torch.float32 for w in weights.values())
    assert all(w.abs().max() > 0 for name, w in weights.items() if "lora_B" in name)
    adapted = load_adapter(load_base("tiny"), tmp_path)
    frozen = load_file(base_folder() / "model.safetensors")
    for name, weight in adapted.get_base_model().state_dict().items():
        plain = name.replace(".base_layer", "")
        if plain in frozen:
            assert torch.equal(weight, frozen[plain].float()), name


@pytest.mark.slow
@pytest.mark.parametrize("split", [(1, 8), (4, 2)])
def test_gradient_does_not_depend_on_the_split(undisturbed, prepared, tmp_path, split):
    """Answers differ in length, so means of means would show."""
    whole = undisturbed("sft", settings(prepared, questions_per_image=1))
    size, accumulation = split
    train(
        config(
            prepared,
            tmp_path / "split",
            questions_per_image=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
        )
    )
    assert distance(adapter_of(whole), adapter_of(tmp_path / "split")) < 5e-5
    for one, other in zip(rows(whole), rows(tmp_path / "split"), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


@pytest.mark.slow
def test_gradient_checkpointing_changes_nothing(prepared, tmp_path):
    for name, checkpointing in (("plain", False), ("saving", True)):
        train(config(prepared, tmp_path / name, gradient_checkpointing=checkpointing))
    assert most_apart(adapter_of(tmp_path / "plain"), adapter_of(tmp_path / "saving")) < 1e-5


@pytest.mark.slow
def test_resume_is_the_same_run(prepared, tmp_path):
    """Also the logged means of a window of steps that the checkpoint stands in."""
    changes = {"max_steps": 6, "logging_steps": 3}
    train(config(prepared, tmp_path / "whole", **changes))
    changes["save_steps"] = 4
    train(config(prepared, tmp_path / "parts", **changes))
    (tmp_path / "parts" / "adapter_model.safetensors").unlink()
    shutil.rmtree(tmp_path / "parts" / "checkpoint-6")  # from which there is nothing left to do
    train(config(prepared, tmp_path / "parts", **changes, resume_from_checkpoint="latest"))
    assert most_apart(adapter_of(tmp_path / "whole"), adapter_of(tmp_path / "parts")) == 0
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")


def test_resume_refuses_another_configuration(prepared, tmp_path):
    train(config(prepared, tmp_path, save_steps=2))
    with pytest.raises(UserError, match=r"learning_rate: 0\.001 -> 0\.02"):
        train(
            config(
                prepared,
                tmp_path,
                save_steps=2,
                learning_rate=0.02,
                resume_from_checkpoint="latest",
            )
        )
    with pytest.raises(ConfigError, match="checkpoints of an earlier run"):
        train(config(prepared, tmp_path))


@pytest.mark.slow
def test_full_fine_tuning_moves_everything_but_a_frozen_tower(prepared, tmp_path):
    train(config(prepared, tmp_path, finetuning="full", freeze_vision_tower=True))
    before = load_file(base_folder() / "model.safetensors")
    after = load_file(tmp_path / "model.safetensors")
    for name, weight in before.items():
        moved = not torch.equal(weight.float(), after[name].float())
        assert moved == ("visual" not in name), name
    assert load_base(str(tmp_path)).config.answer_boxes == "grid_1000"


@pytest.mark.slow
def test_qlora_trains(prepared, tmp_path):
    changes = {"quantization": "nf4", "max_steps": 6, "eval_steps": 3}
    train(config(prepared, tmp_path, eval_data=str(prepared["train"]), **changes))
    losses = [row["eval_loss"] for row in rows(tmp_path) if "eval_loss" in row]
    assert losses[1] < losses[0]


@pytest.mark.slow
def test_best_weights_are_kept_and_used(prepared, tmp_path):
    """The learning rate is far too high on purpose, so that the first evaluation is the best."""
    changes = {"learning_rate": 0.5, "max_grad_norm": 0.0, "eval_steps": 1, "max_steps": 4}
    train(
        config(
            prepared, tmp_path, eval_data=str(prepared["test"]), load_best_model_at_end=True,
            **changes,
        )
    )  # fmt: skip
    evaluations = {r["step"]: r["eval_loss"] for r in rows(tmp_path) if "eval_loss" in r}
    best = min(evaluations, key=evaluations.get)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["best_step"] == best
    kept = load_file(tmp_path / "best" / "trained.safetensors")
    final = adapter_of(tmp_path)
    for name, weight in kept.items():
        assert torch.equal(weight, final[name.replace(".default", "")])
