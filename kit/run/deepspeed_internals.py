"""What the kit leans on inside of DeepSpeed, none of it promised by its documentation.

Read in DeepSpeed 0.18 to 0.19.8. ``LEANS_ON`` names all of it; a test looks for each name in the
installed version and says what it was for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's, beside "step"

# module, the names that its source must hold, what they are for
LEANS_ON = (
    (
        "deepspeed.runtime.zero.partition_parameters",
        ("ds_id", "ds_shape", "ds_tensor", "ds_active_sub_modules"),
        "telling a weight that ZeRO-3 has spread, and its whole shape",
    ),
    (
        "deepspeed.runtime.zero.parameter_offload",
        ("forward_hooks", "backward_hooks", "_register_deepspeed_module"),
        "holding whole weights while sampling under ZeRO-3",
    ),
    (
        "deepspeed.runtime.zero.stage3",
        (
            "parameter_offload", "_z3_optimizer", "get_full_hp_param", "set_local_hp_param",
            "fp32_partitioned_groups_flat",
        ),
        "checkpoints under ZeRO-3",
    ),
    (
        "deepspeed.runtime.zero.stage_1_and_2",
        (
            "single_partition_of_fp32_groups", "_hp_optimizer_states_linked",
            "_lazy_init_hp_params_optimizer_state",
        ),
        "checkpoints under ZeRO-1 and 2",
    ),
    (
        "deepspeed.utils.tensor_fragment",
        ("get_full_hp_param", "set_full_hp_param"),
        "checkpoints under ZeRO-1 and 2",
    ),
    (
        "deepspeed.utils.mixed_precision_linkage",
        ("_hp_mapping",),
        "telling a weight whose optimizer state ZeRO-1 or 2 has spread",
    ),
    (
        "deepspeed.runtime.engine",
        ("was_step_applied", "get_global_grad_norm"),
        "leaving out updates that are not finite",
    ),
    (
        "accelerate.accelerator",
        ("deepspeed_engine_wrapped",),
        "asking DeepSpeed's engine whether an update was made",
    ),
)  # fmt: skip


def last_update(accelerator: Accelerator) -> tuple[bool, float]:
    """Whether the engine made its last update, and the norm of the gradient before clipping."""
    engine = accelerator.deepspeed_engine_wrapped.engine
    if not engine.was_step_applied():
        return False, float("nan")
    return True, float(engine.get_global_grad_norm())


@contextlib.contextmanager
def whole_model(wrapped: nn.Module) -> Iterator[None]:
    """For a while every rank holds all weights that ZeRO-3 has spread, and calls of the model
    gather and release nothing."""
    import deepspeed

    hooks = wrapped.optimizer.parameter_offload
    with deepspeed.zero.GatheredParameters(list(wrapped.module.parameters())):
        for module in wrapped.module.modules():
            for parameter in module.parameters(recurse=False):
                parameter.ds_active_sub_modules.clear()
        for handle in (*hooks.forward_hooks, *hooks.backward_hooks):
            handle.remove()  # they would take the weights away again, module by module
        hooks.forward_hooks, hooks.backward_hooks = [], []
        try:
            yield
        finally:
            hooks._register_deepspeed_module(hooks.module)


def innermost(optimizer: Any) -> torch.optim.Optimizer:
    """The AdamW inside accelerate's and DeepSpeed's wrappers."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def is_zero3(parameter: nn.Parameter) -> bool:
    """Whether ZeRO-3 spreads this parameter over the ranks."""
    return hasattr(parameter, "ds_id")


def is_sharded(parameter: nn.Parameter) -> bool:
    """Whether what the optimizer knows of a parameter is spread over the ranks, as under every
    stage."""
    return is_zero3(parameter) or hasattr(parameter, "_hp_mapping")


def shape_of(parameter: nn.Parameter) -> torch.Size:
    """Its whole shape; ZeRO-3 leaves each rank a part of it, whose own size is 0."""
    return getattr(parameter, "ds_shape", parameter.shape)


def gathered_parameter(parameter: nn.Parameter) -> AbstractContextManager:
    """The parameter whole on every rank for a while, where ZeRO-3 has spread it."""
    if not is_zero3(parameter):
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter])


def whole_tensor(parameter: nn.Parameter, key: str | None = None) -> Tensor:
    """A trained parameter, or a moment of it, whole and in float32."""
    if is_zero3(parameter):
        return parameter._z3_optimizer.get_full_hp_param(parameter, key)
    return parameter.get_full_hp_param(key)


def set_whole_tensor(parameter: nn.Parameter, value: Tensor, key: str | None = None) -> None:
    """Give each rank its part of a parameter, or of a moment of it."""
    value = value.to(parameter.device)
    if is_zero3(parameter):
        size = parameter.ds_tensor.numel()  # of one rank's part; the last one is padded
        padded = torch.zeros(size * torch.distributed.get_world_size(), device=value.device)
        padded[: value.numel()] = value.flatten()
        rank = torch.distributed.get_rank()
        own = padded[rank * size : (rank + 1) * size]
        parameter._z3_optimizer.set_local_hp_param(own, parameter, key)
        if key is None:
            import deepspeed

            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                parameter.copy_(value)
        return
    parameter.set_full_hp_param(value, key)
    if key is None:
        parameter.copy_(value)


def init_adam_state(zero_optimizer: Any, inner: torch.optim.Optimizer, step: Tensor) -> None:
    """Create AdamW's state for the flat tensors of this rank, as its first step would."""
    third = hasattr(zero_optimizer, "fp32_partitioned_groups_flat")
    counts = hasattr(inner, "ds_opt_adam")  # in whole numbers
    for tensor in (
        zero_optimizer.fp32_partitioned_groups_flat
        if third
        else zero_optimizer.single_partition_of_fp32_groups
    ):
        moments = {key: torch.zeros_like(tensor) for key in MOMENTS}
        inner.state[tensor] = {"step": int(step) if counts else step.clone(), **moments}
    link_states(zero_optimizer)


def link_states(zero_optimizer: Any) -> None:
    """Tell every parameter where AdamW's state of it lies. ZeRO-1 and 2 do so after the step of
    the first parameter group, when the others have none yet, and then never again."""
    if hasattr(zero_optimizer, "_lazy_init_hp_params_optimizer_state"):
        zero_optimizer._hp_optimizer_states_linked = False
        zero_optimizer._lazy_init_hp_params_optimizer_state()
