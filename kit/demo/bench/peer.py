"""What the measurements beside TRL's trainers share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable

import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers import ProcessorMixin, Trainer, TrainerCallback

from kit.demo.bench.cases import ALPHA, LEARNING_RATE, Case, R
from kit.demo.bench.machine import now
from kit.model.adapters import lora_targets

Turn = Callable[[dict[str, float]], None]

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # TRL asks the hub for tags
TARGETS = lora_targets()


def lora() -> LoraConfig:
    """The adapter of both sides."""
    return LoraConfig(
        r=R, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM"
    )


def arguments(case: Case) -> dict:
    """Of every trainer: no files, no logs, and what this kit does by default."""
    return {
        "output_dir": tempfile.mkdtemp(), "use_cpu": case.device == "cpu", "bf16": case.half,
        "report_to": "none", "save_strategy": "no", "logging_steps": 1000, "disable_tqdm": True,
        "learning_rate": LEARNING_RATE, "gradient_checkpointing": case.shape.checkpointing,
        "max_steps": 100,
    }  # fmt: skip


class Turns(TrainerCallback):
    """Times each step of a trainer from the end of ``turn`` after the last one, so that reading
    its batch counts; ``turn`` gets the seconds, and those of the parts that were :meth:`timed`."""

    def __init__(self, device: str, turn: Turn):
        self.device, self.turn = device, turn
        self.parts: dict[str, float] = {}
        self.started = 0.0

    def timed(self, owner: object, name: str, part: str) -> None:
        """Have the calls of a method counted as ``part``."""
        real = getattr(owner, name)

        def call(*args, **kwargs):
            started = now(self.device)
            result = real(*args, **kwargs)
            self.parts[part] = self.parts.get(part, 0.0) + now(self.device) - started
            return result

        setattr(owner, name, call)

    def on_train_begin(self, *_: object, **__: object) -> None:
        self.started = now(self.device)

    def on_step_end(self, *_: object, **__: object) -> None:
        step = now(self.device) - self.started
        self.turn(self.parts | {"step": step})
        self.parts, self.started = {}, now(self.device)


def run(trainer: Trainer, steps: int, turns: Turns) -> None:
    """So many steps of a trainer."""
    trainer.args.max_steps = steps
    trainer.add_callback(turns)
    trainer.train()
    trainer.remove_callback(turns)


def same_adapters(ours: nn.Module, theirs: nn.Module) -> None:
    """Give both the same weights, with adapters that change something."""
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.02)
    ours.load_state_dict(theirs.state_dict(), strict=False)


def gradient_error(ours: tuple[nn.Module, Tensor], theirs: tuple[nn.Module, Tensor]) -> float:
    """How far the gradients of two values in the adapters' weights are apart, over the length of
    the second."""
    found = []
    for model, value in (ours, theirs):
        trained = sorted((name, p) for name, p in model.named_parameters() if p.requires_grad)
        found.append(torch.autograd.grad(value, [parameter for _, parameter in trained]))
    apart = sum((a - b).square().sum() for a, b in zip(*found, strict=True)).sqrt()
    return float(apart / sum(gradient.square().sum() for gradient in found[1]).sqrt())


def plain_processor(base: str) -> ProcessorMixin:
    """Transformers' processor without the part for videos, which needs torchvision."""
    from transformers import AutoImageProcessor, AutoTokenizer, Qwen2VLProcessor

    class PlainProcessor(Qwen2VLProcessor):
        attributes = ("image_processor", "tokenizer")

        def __init__(self, image_processor=None, tokenizer=None, **kwargs):
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
            ProcessorMixin.__init__(self, image_processor, tokenizer, **kwargs)

    tokenizer = AutoTokenizer.from_pretrained(base)
    return PlainProcessor(
        AutoImageProcessor.from_pretrained(base), tokenizer, chat_template=tokenizer.chat_template
    )
