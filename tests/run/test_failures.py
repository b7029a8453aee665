"""Updates without a finite loss and gradient are left out, told, and end the run if they go on."""

import sys
from functools import partial

import pytest
import torch
from helpers import adapter_of, most_apart, rows
from hooks import poison
from ranks import launcher, run
from safetensors.torch import load_file

from kit.errors import UserError
from kit.grpo import grpo, updates
from kit.grpo.config import GrpoConfig
from kit.run import failures
from kit.train import sft
from kit.train.config import SftConfig

PLAIN = {
    "max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "warmup_ratio": 0.0,
    "logging_steps": 1, "save_steps": 0, "report_to": ["none"],
}  # fmt: skip


def sft_config(prepared, folder, **changes) -> SftConfig:
    own = {"base_model": "tiny", "data": str(prepared["train"]), "questions_per_image": 1}
    return SftConfig(output_dir=str(folder), **PLAIN | own | changes)


def grpo_config(trained, folder, **changes) -> GrpoConfig:
    own = {
        "sft_ckpt": str(trained["sft"]), "data": str(trained["data"]), "num_generations": 4,
        "max_completion_length": 16, "counterfactual": "off", "log_completions": False,
    }  # fmt: skip
    return GrpoConfig(output_dir=str(folder), **PLAIN | own | changes)


class Poison:
    """Makes a function's result not finite at its calls of these numbers."""

    def __init__(self, real, calls, gradient_only=False):
        self.real, self.calls, self.gradient_only, self.number = real, calls, gradient_only, 0

    def __call__(self, *args, **kwargs):
        self.number += 1
        result = self.real(*args, **kwargs)
        if self.number not in self.calls:
            return result
        if self.gradient_only:
            result.register_hook(lambda gradient: gradient * float("inf"))
            return result
        return result * float("nan")


@pytest.mark.parametrize("gradient_only", [False, True])
@pytest.mark.slow
def test_a_bad_update_is_left_out_and_told(prepared, tmp_path, monkeypatch, gradient_only):
    monkeypatch.setattr(sft, "sft_loss", Poison(sft.sft_loss, {3}, gradient_only))
    assert sft.train(sft_config(prepared, tmp_path, gradient_accumulation_steps=2)) == 0
    (told,) = rows(tmp_path, "skipped_steps.jsonl")
    assert told["step"] == 2
    assert len(told["records"]) == (4 if gradient_only else 2), "of the bad micro-batch alone"
    assert set(told["records"][0]) == {"dataset", "qid", "image", "question"}
    logged = rows(tmp_path)
    assert [row["skipped_steps"] for row in logged] == [0, 1, 1, 1]
    assert ["loss" in row for row in logged] == [True, False, True, True]
    assert all(torch.isfinite(w).all() for w in adapter_of(tmp_path).values())


@pytest.mark.slow
def test_it_changes_nothing_but_the_schedule(prepared, tmp_path, monkeypatch):
    """The same weights as a run in which that step has a learning rate of 0."""
    changes = {"lr_scheduler_type": "constant_with_warmup", "max_steps": 1}
    sft.train(sft_config(prepared, tmp_path / "one", **changes))
    monkeypatch.setattr(sft, "sft_loss", Poison(sft.sft_loss, {2}))
    sft.train(sft_config(prepared, tmp_path / "two", **changes | {"max_steps": 2}))
    assert most_apart(adapter_of(tmp_path / "one"), adapter_of(tmp_path / "two")) == 0


def test_several_in_a_row_end_the_run(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(sft, "sft_loss", Poison(sft.sft_loss, {1, 3, 4}))
    with pytest.raises(UserError, match="2 updates in a row") as caught:
        sft.train(sft_config(prepared, tmp_path, max_skipped_steps=2))
    assert "skipped_steps.jsonl" in str(caught.value)
    assert "source.jpg (qid " in str(caught.value)
    assert [row["step"] for row in rows(tmp_path, "skipped_steps.jsonl")] == [1, 3, 4]


@pytest.mark.slow
def test_grpo_too(trained, tmp_path, monkeypatch):
    real = updates.grpo_loss

    def poisoned(*args, **kwargs):
        poisoned.calls += 1
        loss = real(*args, **kwargs)
        if poisoned.calls == 2:
            object.__setattr__(loss, "loss", loss.loss * float("nan"))
        return loss

    poisoned.calls = 0
    monkeypatch.setattr(updates, "grpo_loss", poisoned)
    assert grpo.train(grpo_config(trained, tmp_path)) == 0
    (told,) = rows(tmp_path, "skipped_steps.jsonl")
    assert told["step"] == 2
    assert [row["skipped_steps"] for row in rows(tmp_path)] == [0, 1, 1, 1]
    assert "kl" not in rows(tmp_path)[1]
    assert all(torch.isfinite(w).all() for w in adapter_of(tmp_path).values())


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["cpu", "cpu_zero2", "cpu_zero3"])
def test_all_ranks_leave_it_out_together(launch, prepared, tmp_path):
    """One rank's loss is not finite; the parameters stay those of the step before. And no gradient
    passes the frozen tower, whose outputs checkpointing would have it computed for."""
    flags = [
        "--base_model=tiny", f"--data={prepared['train']}", "--report_to=none", "--lr=1e-3",
        "--batch_size=2", "--logging_steps=1", "--save_steps=1", "--warmup_ratio=0",
        "--lr_scheduler_type=constant_with_warmup", "--questions_per_image=1",
        "--gradient_checkpointing=true",
    ]  # fmt: skip
    command = [*launcher(launch), "launch/train_sft.py", *flags, f"--output_dir={tmp_path}"]
    done = run([*command, "--steps=2"], hook=partial(poison, rank=1))
    assert done.returncode == 0, done.stderr
    (told,) = rows(tmp_path, "skipped_steps.jsonl")
    assert len(told["records"]) == 2, "of rank 1"
    after_one = load_file(tmp_path / "checkpoint-1" / "trained.safetensors")
    after_one = {name.replace(".default", ""): weight for name, weight in after_one.items()}
    assert any(w.abs().max() > 0 for name, w in after_one.items() if "lora_B" in name)
    assert most_apart(after_one, adapter_of(tmp_path)) == 0


def test_out_of_memory_says_what_to_change(prepared, tmp_path):
    config = sft_config(prepared, tmp_path)
    with (
        pytest.raises(UserError, match="out of memory") as caught,
        failures.explained_memory(config),
    ):
        torch.empty(10**17)
    for way in ("per_device_train_batch_size", "gradient_checkpointing: true", "nf4", "max_pixels"):
        assert way in caught.value.fix
    with pytest.raises(UserError), failures.explained_memory(config):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    with pytest.raises(RuntimeError, match="shapes"), failures.explained_memory(config):
        raise RuntimeError("shapes do not fit")


def test_a_reward_function_that_raises_names_the_record(trained, tmp_path, monkeypatch):
    module = tmp_path / "my_rewards.py"
    module.write_text(
        "def touchy(question, **_):\n"
        "    if any('lung' in q.lower() or 'image' in q.lower() for q in question):\n"
        "        raise ValueError('no lungs, please')\n"
        "    return [0.0] * len(question)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="raised ValueError: no lungs, please") as caught:
        grpo.train(
            grpo_config(trained, tmp_path / "run", reward_funcs=["my_rewards:touchy"], max_steps=9)
        )
    assert "my_rewards:touchy, record " in str(caught.value)
    assert "(qid " in str(caught.value)
    sys.modules.pop("my_rewards", None)
