"""What ZeRO changes (DeepSpeed, arXiv 1910.02054): its configuration, and how weights and optimizer
states that are spread over ranks become whole.

The functions that gather are collective: every rank calls them. Without DeepSpeed they do the
plain thing, so that callers need not ask.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from kit.command import source_of
from kit.errors import ConfigError
from kit.train.config import TrainingConfig

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's, beside "step"


def is_used(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type == DistributedType.DEEPSPEED


def stage(accelerator: Accelerator) -> int:
    """The ZeRO stage; 0 without DeepSpeed."""
    return accelerator.deepspeed_plugin.zero_stage if is_used(accelerator) else 0


# ---------------------------------------------------------------------- configuration


def settle(accelerator: Accelerator, config: TrainingConfig) -> None:
    """Fill what the DeepSpeed configuration leaves ``auto`` with the kit's own values.

    Raises:
        ConfigError: see ``fill``.
    """
    if not is_used(accelerator):
        return
    # else ZeRO-3 would spread every model that transformers loads, the sentence encoder too
    unset_hf_deepspeed_config()
    settings = accelerator.deepspeed_plugin.deepspeed_config
    bf16 = accelerator.mixed_precision == "bf16"
    file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "the DeepSpeed config")
    fill(settings, config, processes=accelerator.num_processes, bf16=bf16, file=file)


def fill(
    settings: dict, config: TrainingConfig, *, processes: int, bf16: bool, file: str | Path
) -> None:
    """Fill what DeepSpeed's ``settings`` leave ``auto``.

    Raises:
        ConfigError: they say something else than the kit; names both keys, and the ``file``.
    """
    per_step = config.per_device_train_batch_size * config.gradient_accumulation_steps
    for key, ours, name in (
        ("train_micro_batch_size_per_gpu", config.per_device_train_batch_size,
         "per_device_train_batch_size"),
        ("gradient_accumulation_steps", config.gradient_accumulation_steps,
         "gradient_accumulation_steps"),
        ("train_batch_size", per_step * processes,
         "per_device_train_batch_size x gradient_accumulation_steps x processes"),
        ("gradient_clipping", config.max_grad_norm, "max_grad_norm"),
    ):  # fmt: skip
        theirs = settings.get(key, "auto")
        if theirs not in ("auto", ours):
            raise ConfigError(
                f"DeepSpeed has {key} {theirs}, the kit {name} {ours}",
                where=f"{key} of {file} and {name} of {source_of(config)}",
                fix=f'write "{key}": "auto" in the DeepSpeed file, or make them agree',
            )
        settings[key] = ours
    if settings.get("bf16", {}).get("enabled", "auto") not in ("auto", bf16):
        raise ConfigError(
            f"DeepSpeed has bf16.enabled {not bf16}, the kit trains in "
            f"{'bfloat16' if bf16 else 'float32'}",
            where=f"bf16.enabled of {file} and bf16 of {source_of(config)}",
            fix='write "enabled": "auto" in the DeepSpeed file, or set bf16',
        )
    if settings.get("fp16", {}).get("enabled", False) not in ("auto", False):
        raise ConfigError(
            "float16 is not supported: it needs its loss scaled",
            where=f"fp16.enabled of {file}",
            fix="remove fp16; bf16 is used wherever the GPU has it",
        )
    for key in ("optimizer", "scheduler"):
        if key in settings:
            raise ConfigError(
                f"the kit makes its own {key}",
                where=f"{key} of {file}",
                fix="remove it; set learning_rate, adam_beta1, lr_scheduler_type ... instead",
            )


# ---------------------------------------------------------------------- whole weights


@contextlib.contextmanager
def whole_weights(accelerator: Accelerator, wrapped: nn.Module) -> Iterator[None]:
    """For a while every rank holds the whole model, so that it can sample and score without
    waiting for the others, however different the lengths. Weights are gathered once, at the
    start, and not token by token. No gradient may be computed in here.
    """
    if stage(accelerator) < 3:
        yield
        return
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


def trained_weights(model: nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
    """Whole copies of the trained parameters by name, on the CPU, in the precision that the
    optimizer holds them in. Ranks that do not ``keep`` them take part and get none."""
    weights = {}
    for name, parameter in _trained(model):
        whole = _whole(parameter) if _is_spread(parameter) else parameter
        if keep:
            weights[name] = _copy(whole)
    return weights


def trained_shapes(model: nn.Module) -> dict[str, torch.Size]:
    """The shapes that ``trained_weights`` would have, without gathering anything."""
    return {name: _shape(p) for name, p in _trained(model)}


def all_weights(model: nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
    """The same of every parameter, trained or not."""
    weights = trained_weights(model, keep=keep)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            with _gathered(parameter):
                if keep:
                    weights[name] = _copy(parameter)
    return weights


def optimizer_states(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, keep: bool = True
) -> dict[str, Tensor]:
    """AdamW's state in the same way: ``<parameter>:exp_avg``, ``:exp_avg_sq`` and ``:step``.
    Before the first update they are zeros, as AdamW begins."""
    inner = _innermost(optimizer)
    if inner.state:
        _link_states(optimizer.optimizer)
    states: dict[str, Tensor] = {}
    for name, parameter in _trained(model):
        spread = _is_spread(parameter)
        # the flat tensors of DeepSpeed have all made as many steps
        state = next(iter(inner.state.values()), {}) if spread else inner.state.get(parameter, {})
        found = {"step": state.get("step", torch.zeros(()))}
        for key in MOMENTS:
            if not state:
                found[key] = torch.zeros(_shape(parameter))
            else:
                found[key] = _whole(parameter, key) if spread else state[key]
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
    inner = _innermost(optimizer)
    steps = {float(value) for name, value in states.items() if name.endswith(":step")}
    parameters = _trained(model)
    if any(_is_spread(p) for _, p in parameters) and steps != {0.0}:
        _make_room(optimizer.optimizer, inner, torch.tensor(max(steps)))
    for name, parameter in parameters:
        moments = {key: states[f"{name}:{key}"] for key in MOMENTS}
        if _is_spread(parameter):
            _set_whole(parameter, weights[name])
            if steps != {0.0}:
                for key, value in moments.items():
                    _set_whole(parameter, value, key)
            continue
        parameter.copy_(weights[name])
        if float(states[f"{name}:step"]):
            inner.state[parameter] = {"step": states[f"{name}:step"].clone()} | {
                key: value.to(parameter.device).clone() for key, value in moments.items()
            }


# ---------------------------------------------------------------------- DeepSpeed's inside


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def _innermost(optimizer) -> torch.optim.Optimizer:
    """The AdamW inside accelerate's and DeepSpeed's wrappers."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def _is_third(parameter: nn.Parameter) -> bool:
    """Whether ZeRO-3 spreads this parameter over the ranks."""
    return hasattr(parameter, "ds_id")


def _is_spread(parameter: nn.Parameter) -> bool:
    """Whether what the optimizer knows of a parameter is spread over the ranks, as under every
    stage."""
    return _is_third(parameter) or hasattr(parameter, "_hp_mapping")


def _shape(parameter: nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)


def _copy(value: Tensor) -> Tensor:
    return value.detach().cpu().clone().contiguous()


def _gathered(parameter: nn.Parameter):
    """The parameter whole on every rank for a while, where ZeRO-3 has spread it."""
    if not _is_third(parameter):
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter])


def _whole(parameter: nn.Parameter, key: str | None = None) -> Tensor:
    """A trained parameter, or a moment of it, whole and in float32."""
    if _is_third(parameter):
        return parameter._z3_optimizer.get_full_hp_param(parameter, key)
    return parameter.get_full_hp_param(key)


def _set_whole(parameter: nn.Parameter, value: Tensor, key: str | None = None) -> None:
    """Give each rank its part of a parameter, or of a moment of it."""
    value = value.to(parameter.device)
    if _is_third(parameter):
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


def _make_room(zero_optimizer, inner: torch.optim.Optimizer, step: Tensor) -> None:
    """Create AdamW's state for the flat tensors of this rank, as its first step would."""
    third = hasattr(zero_optimizer, "fp32_partitioned_groups_flat")
    for tensor in (
        zero_optimizer.fp32_partitioned_groups_flat
        if third
        else zero_optimizer.single_partition_of_fp32_groups
    ):
        moments = {key: torch.zeros_like(tensor) for key in MOMENTS}
        inner.state[tensor] = {"step": step.clone(), **moments}
    _link_states(zero_optimizer)


def _link_states(zero_optimizer) -> None:
    """Tell every parameter where AdamW's state of it lies. ZeRO-1 and 2 do so after the step of
    the first parameter group, when the others have none yet, and then never again."""
    if hasattr(zero_optimizer, "_lazy_init_hp_params_optimizer_state"):
        zero_optimizer._hp_optimizer_states_linked = False
        zero_optimizer._lazy_init_hp_params_optimizer_state()
