"""Weights as sampling reads them: an adapter's layers as one product each, for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear

from kit.model.logprobs import base_of

# linear layers of one input, in the order in which transformers calls them
TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@contextlib.contextmanager
def sampling_weights(model: nn.Module, *, merge: bool = True) -> Iterator[None]:
    """For a while, where ``merge`` says so, each LoRA layer computes ``x @ (W + s B A)`` with a
    copy of its weight, and not a product with ``W`` and two more; those of one input together.
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
            for layers in _siblings(model) if merge else ():
                for layer, product in zip(layers, _products(layers), strict=False):
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


def _siblings(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Adapted linear layers wherever they are, and plain ones of the language model; together
    those that take the same input, in the order in which they are called."""
    causal_lm = base_of(model)
    yield [causal_lm.lm_head]
    for root in (causal_lm.model.visual, causal_lm.model.language_model):
        is_text = root is causal_lm.model.language_model
        for module in _outside_lora(root):
            layers = {n: m for n, m in module.named_children() if _is_linear(m, plain=is_text)}
            for names in TOGETHER:
                if all(name in layers for name in names):
                    yield [layers.pop(name) for name in names]
            yield from ([layer] for layer in layers.values())


def _outside_lora(module: nn.Module) -> Iterator[nn.Module]:
    yield module
    for child in module.children():
        if not isinstance(child, LoraLayer):
            yield from _outside_lora(child)


def _is_linear(layer: nn.Module, *, plain: bool) -> bool:
    if isinstance(layer, LoraLayer):  # not DoRA and the like, which compute more
        return isinstance(layer.get_base_layer(), nn.Linear) and not layer.lora_variant
    return plain and isinstance(layer, nn.Linear) and layer.weight.is_floating_point()


def _products(layers: list[nn.Module]) -> list[Callable[[Tensor], Tensor]]:
    """What siblings compute, as one product with a copy of their weights; nothing for those that
    do so already."""
    adapted = [isinstance(layer, LoraLayer) for layer in layers]
    inner = [m.get_base_layer() if a else m for m, a in zip(layers, adapted, strict=True)]
    weights = [merged_weight(m) if a else m.weight for m, a in zip(layers, adapted, strict=True)]
    if not (any(adapted) or _is_packable(weights[0])):
        return []
    weight = torch.cat(weights) if len(weights) > 1 else weights[0]
    bias = None
    if inner[0].bias is not None:
        bias = torch.cat([layer.bias for layer in inner]).to(weight.dtype)
    product = _product(weight, bias)
    if len(layers) == 1:
        return [product]
    sizes, parts = [len(w) for w in weights], []

    def first(x: Tensor) -> Tensor:
        parts[:] = product(x).split(sizes, dim=-1)
        return parts.pop(0)

    return [first, *[lambda _: parts.pop(0)] * (len(layers) - 1)]


def _product(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    if not _is_packable(weight):
        return lambda x: linear(x, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


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
