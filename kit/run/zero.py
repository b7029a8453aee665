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
from kit.run.config import RunConfig
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


# ---------------------------------------------------------------------- configuration


def configure(accelerator: Accelerator, config: RunConfig) -> None:
    """Fill what the DeepSpeed configuration leaves ``auto`` with the kit's own values.

    Raises:
        ConfigError: see ``fill_auto``.
    """
    if not is_used(accelerator):
        return
    # else ZeRO-3 would spread every model that transformers loads, the sentence encoder too
    unset_hf_deepspeed_config()
    settings = accelerator.deepspeed_plugin.deepspeed_config
    bf16 = accelerator.mixed_precision == "bf16"
    file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "the DeepSpeed config")
    fill_auto(settings, config, processes=accelerator.num_processes, bf16=bf16, file=file)


def fill_auto(
    settings: dict, config: RunConfig, *, processes: int, bf16: bool, file: str | Path
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
        found = {"step": state.get("step", torch.zeros(()))}
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
