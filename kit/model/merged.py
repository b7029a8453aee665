"""An adapter's layers as one product each, for the time of a rollout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn


@contextlib.contextmanager
def merged_adapter(model: nn.Module, *, wanted: bool = True) -> Iterator[None]:
    """For a while, where that is ``wanted``, each LoRA layer computes ``x @ (W + s B A)`` with a
    copy of its weight, and not a product with ``W`` and two more: less than half of the operations.

    In float32 that is the same up to rounding. In bfloat16 the sum is rounded once more, so what
    is sampled is not quite the policy's (``logprob_drift``; ``grpo_loss`` corrects for it). From
    4-bit weights the copy is dense, in the type that they are computed in. The layers themselves
    are not touched. No gradient may be computed in here.

    Under ZeRO-3 the weights must be whole (``kit.run.zero.gathered``).
    """
    layers = [m for m in model.modules() if wanted and isinstance(m, LoraLayer) and _is_plain(m)]
    try:
        with torch.no_grad():
            for layer in layers:
                bias = layer.get_base_layer().bias
                layer.forward = partial(_linear, merged_weight(layer), bias)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def is_float32(model: nn.Module) -> bool:
    """Whether merging changes nothing but the last digits."""
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    return all(layer.get_base_layer().weight.dtype == torch.float32 for layer in layers)


def merged_weight(layer: LoraLayer) -> Tensor:
    """``W + s B A`` of a layer's active adapters, in the type that ``W`` is computed in; ``W``
    itself where adapters are switched off."""
    weight = layer.get_base_layer().weight
    if hasattr(weight, "quant_state"):
        from bitsandbytes.functional import dequantize_4bit

        weight = dequantize_4bit(weight.data, weight.quant_state)
    if layer.disable_adapters:
        return weight
    delta = sum(layer.get_delta_weight(a) for a in layer.active_adapters if a in layer.lora_A)
    return (weight.to(torch.promote_types(weight.dtype, torch.float32)) + delta).to(weight.dtype)


def _is_plain(layer: LoraLayer) -> bool:
    """Whether a layer is linear and without the further steps of DoRA."""
    base = layer.get_base_layer()
    return isinstance(base, nn.Linear) and not layer.lora_variant


def _linear(weight: Tensor, bias: Tensor | None, x: Tensor, *_, **__) -> Tensor:
    return nn.functional.linear(x, weight, bias)
