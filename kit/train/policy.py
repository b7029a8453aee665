"""The models that the loops train, with what is trained marked as such."""

from __future__ import annotations

from accelerate import Accelerator
from torch import nn

from kit.model.adapters import add_lora, disable_dropout, load_adapter, load_reference
from kit.model.load import load_base
from kit.run import process
from kit.train.config import GrpoConfig, SftConfig, TrainingConfig


def build_model(config: SftConfig, accelerator: Accelerator) -> nn.Module:
    """The base with a new adapter, or to be trained as a whole, on this process's device."""
    model = _load(config, accelerator, trained=config.finetuning == "full")
    return make_trainable(model, config, dropout=config.lora_dropout).train()


def build_policy(
    config: GrpoConfig, accelerator: Accelerator
) -> tuple[nn.Module, nn.Module | None]:
    """The policy, and what it started from where that is another model.

    An adapter is trained on one copy of the base, which also is the reference, with the SFT
    adapter a second time or with none. Full fine-tuning needs the model twice.
    """
    full = config.finetuning == "full"
    model, reference = _load(config, accelerator, trained=full), None
    if config.sft_ckpt:
        recompute_activations(model, config)
        model = load_adapter(model, config.sft_ckpt, trainable=True)
        if config.beta:
            load_reference(model, config.sft_ckpt)
    else:
        model = make_trainable(model, config)
    if full and config.beta:
        reference = _load(config, accelerator, trained=False).requires_grad_(False).eval()
    if disable_dropout(model):
        accelerator.print("the adapter's dropout is off: completions of a prompt share its pass")
    return model.train(), reference


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
        model.gradient_checkpointing_enable({"use_reentrant": False})


def _load(config: TrainingConfig, accelerator: Accelerator, *, trained: bool) -> nn.Module:
    return load_base(
        config.base_model,
        quantization=config.quantization,
        dtype=process.weights_dtype(accelerator, trained=trained),
        device=accelerator.device,
    )
