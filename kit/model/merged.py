"""Weights as sampling reads them: an adapter's layers as one product each, for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear

from kit.model.logprobs import qwen2vl_of


@contextlib.contextmanager
def sampling_weights(model: nn.Module, *, merge: bool = True) -> Iterator[None]:
    """For a while, where ``merge`` says so, each LoRA layer computes ``x @ (W + s B A)`` with a
    copy of its weight, and not a product with ``W`` and two more: less than half of the operations.
    On a CPU in float32 the language model's other layers, and its head, take copies too, laid out
    as oneDNN reads them: a product of few rows takes half or a quarter of the time.

    In float32 that is the same up to rounding. In bfloat16 the sum is rounded once more, so what
    is sampled is not quite the policy's (``logprob_drift``; ``grpo_loss`` corrects for it). From
    4-bit weights the copy is dense, in the type that they are computed in. The layers themselves
    are not touched. No gradient may be computed in here.

    Under ZeRO-3 the weights must be whole (``kit.run.zero.gathered``).
    """
    changed = []
    try:
        with torch.no_grad():
            for layer in _linear_layers(model) if merge else ():
                if product := _product(layer):
                    layer.forward = _instead(layer, product)
                    changed.append(layer)
        yield
    finally:
        for layer in changed:
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


def _linear_layers(model: nn.Module) -> Iterator[nn.Module]:
    """Adapted ones wherever they are, and plain ones of the language model."""
    causal_lm = qwen2vl_of(model)
    yield causal_lm.lm_head
    inside = set()
    for layer in causal_lm.modules():
        if isinstance(layer, LoraLayer):
            inside.update(layer.modules())
            # not DoRA and the like, which compute more
            if isinstance(layer.get_base_layer(), nn.Linear) and not layer.lora_variant:
                yield layer
    for layer in causal_lm.model.language_model.modules():
        if isinstance(layer, nn.Linear) and layer not in inside:
            yield layer


def _product(layer: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """What a layer computes, as one product with a copy of its weight; None for one that is
    computed so already."""
    if isinstance(layer, LoraLayer):
        weight, bias = merged_weight(layer), layer.get_base_layer().bias
    else:
        weight, bias = layer.weight, layer.bias
    if _is_packable(weight):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return (lambda x: linear(x, weight, bias)) if isinstance(layer, LoraLayer) else None


def _is_packable(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
    )


def _instead(layer: nn.Module, product: Callable[[Tensor], Tensor]) -> Callable:
    """The product as the layer's ``forward``; with more than an input the layer does it itself,
    as a head that scores targets does."""

    def forward(x: Tensor, *args, **kwargs) -> Tensor:
        if args or kwargs:
            return type(layer).forward(layer, x, *args, **kwargs)
        return product(x)

    return forward
