"""What ZeRO changes (DeepSpeed, arXiv 1910.02054): how weights and optimizer states that are spread
over ranks become whole.

The functions that gather are collective: every rank calls them. Without DeepSpeed they do the
plain thing, so that callers need not ask.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from kit.run.deepspeed_internals import (
    MOMENTS,
    gathered_parameter,
    init_adam_state,
    innermost,
    is_sharded,
    link_states,
    set_whole_tensor,
    shape_of,
    whole_model,
    whole_tensor,
)


def is_used(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type == DistributedType.DEEPSPEED


def stage(accelerator: Accelerator) -> int:
    """The ZeRO stage; 0 without DeepSpeed."""
    return accelerator.deepspeed_plugin.zero_stage if is_used(accelerator) else 0


# ---------------------------------------------------------------------- whole weights


@contextlib.contextmanager
def gathered(accelerator: Accelerator, wrapped: nn.Module) -> Iterator[None]:
    """For a while every rank holds the whole model, so that it can sample and score without
    waiting for the others, however different the lengths. Weights are gathered once, at the
    start, and not token by token. No gradient may be computed in here.
    """
    with whole_model(wrapped) if stage(accelerator) == 3 else contextlib.nullcontext():
        yield


def trained_weights(model: nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
    """Whole copies of the trained parameters by name, on the CPU, in the precision that the
    optimizer holds them in. Ranks that do not ``keep`` them take part and get none."""
    weights = {}
    for name, parameter in _trained(model):
        value = whole_tensor(parameter) if is_sharded(parameter) else parameter
        if keep:
            weights[name] = _copy(value)
    return weights


def trained_shapes(model: nn.Module) -> dict[str, torch.Size]:
    """The shapes that ``trained_weights`` would have, without gathering anything."""
    return {name: shape_of(p) for name, p in _trained(model)}


def all_weights(model: nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
    """The same of every parameter, trained or not."""
    weights = trained_weights(model, keep=keep)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            with gathered_parameter(parameter):
                if keep:
                    weights[name] = _copy(parameter)
    return weights


def optimizer_states(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, keep: bool = True
) -> dict[str, Tensor]:
    """AdamW's state in the same way: ``<parameter>:exp_avg``, ``:exp_avg_sq`` and ``:step``.
    Before the first update they are zeros, as AdamW begins."""
    inner = innermost(optimizer)
    if inner.state:
        link_states(optimizer.optimizer)
    states: dict[str, Tensor] = {}
    for name, parameter in _trained(model):
        spread = is_sharded(parameter)
        # the flat tensors of DeepSpeed have all made as many steps
        state = next(iter(inner.state.values()), {}) if spread else inner.state.get(parameter, {})
        found = {"step": torch.as_tensor(state.get("step", 0), dtype=torch.float32)}
        for key in MOMENTS:
            if not state:
                found[key] = torch.zeros(shape_of(parameter))
            else:
                found[key] = whole_tensor(parameter, key) if spread else state[key]
        if keep:
            states |= {f"{name}:{key}": _copy(value) for key, value in found.items()}
    return states


@torch.no_grad()
def load_whole(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    weights: dict[str, Tensor],
    states: dict[str, Tensor],
) -> None:
    """Put back what ``trained_weights`` and ``optimizer_states`` gave, under whatever stage and
    on whatever number of ranks."""
    inner = innermost(optimizer)
    steps = {float(value) for name, value in states.items() if name.endswith(":step")}
    parameters = _trained(model)
    if any(is_sharded(p) for _, p in parameters) and steps != {0.0}:
        init_adam_state(optimizer.optimizer, inner, torch.tensor(max(steps)))
    for name, parameter in parameters:
        moments = {key: states[f"{name}:{key}"] for key in MOMENTS}
        if is_sharded(parameter):
            set_whole_tensor(parameter, weights[name])
            if steps != {0.0}:
                for key, value in moments.items():
                    set_whole_tensor(parameter, value, key)
            continue
        parameter.copy_(weights[name])
        if float(states[f"{name}:step"]):
            inner.state[parameter] = {"step": states[f"{name}:step"].clone()} | {
                key: value.to(parameter.device).clone() for key, value in moments.items()
            }


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def _copy(value: Tensor) -> Tensor:
    return value.detach().cpu().clone().contiguous()
