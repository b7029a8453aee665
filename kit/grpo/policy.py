"""The policy that GRPO trains, and its reference."""

from __future__ import annotations

from accelerate import Accelerator
from torch import nn

from kit.grpo.config import GrpoConfig
from kit.model.adapters import disable_dropout, load_adapter, load_reference
from kit.model.head import ScoringHead
from kit.model.logprobs import base_of
from kit.train.policy import load, make_trainable, recompute_activations


def build_policy(
    config: GrpoConfig, accelerator: Accelerator
) -> tuple[nn.Module, nn.Module | None]:
    """The policy, and what it started from where that is another model.

    An adapter is trained on one copy of the base, which also is the reference, with the SFT
    adapter a second time or with none. Full fine-tuning needs the model twice.
    """
    full = config.finetuning == "full"
    model, reference = load(config, accelerator, trained=full), None
    if config.sft_ckpt:
        recompute_activations(model, config)
        model = load_adapter(model, config.sft_ckpt, trainable=True)
        if config.beta:
            load_reference(model, config.sft_ckpt)
    else:
        model = make_trainable(model, config)
    if full and config.beta:
        reference = load(config, accelerator, trained=False).requires_grad_(False).eval()
    for each in filter(None, (model, reference)):
        head = ScoringHead.of(base_of(each).lm_head)
        head.in_float32 = config.cast_lm_head_to_fp32
    if disable_dropout(model):
        accelerator.print("the adapter's dropout is off: completions of a prompt share its pass")
    return model.train(), reference
