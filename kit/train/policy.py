"""The model that SFT trains, and what both loops make of a base."""

from __future__ import annotations

from accelerate import Accelerator
from torch import nn

from kit.model.adapters import add_lora
from kit.model.load import load_base
from kit.run import process
from kit.train.config import SftConfig, TrainingConfig


def build_model(config: SftConfig, accelerator: Accelerator) -> nn.Module:
    """The base with a new adapter, or to be trained as a whole, on this process's device."""
    model = load(config, accelerator, trained=config.finetuning == "full")
    return make_trainable(model, config, dropout=config.lora_dropout).train()


def make_trainable(model: nn.Module, config: TrainingConfig, dropout: float = 0.0) -> nn.Module:
    """A base with a new adapter; with full fine-tuning itself, its vision tower frozen if asked."""
    recompute_activations(model, config)
    if config.finetuning == "lora":
        return add_lora(
            model,
            r=config.lora_r,
            alpha=config.lora_alpha,
            dropout=dropout,
            freeze_vision_tower=config.freeze_vision_tower,
        )
    if config.freeze_vision_tower:
        model.model.visual.requires_grad_(False)
    return model


def recompute_activations(model: nn.Module, config: TrainingConfig) -> None:
    """Have activations computed again in the backward pass, where that is configured."""
    if config.gradient_checkpointing:
        # its name until transformers 5.23
        older = getattr(model, "gradient_checkpointing_enable", None)
        getattr(model, "activation_checkpointing_enable", older)({"use_reentrant": False})


def load(config: TrainingConfig, accelerator: Accelerator, *, trained: bool) -> nn.Module:
    """The base, on this process's device, in the type of what is trained or of what is frozen."""
    return load_base(
        config.base_model,
        quantization=config.quantization,
        dtype=process.weights_dtype(accelerator, trained=trained),
        device=accelerator.device,
    )
