"""DeepSpeed's settings: what they leave ``auto`` is filled with the kit's own values, and what
contradicts these is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kit.command import source_of
from kit.errors import ConfigError
from kit.run.config import RunConfig

# schedules of DeepSpeed by the names of transformers, which maps them in the same way
SCHEDULES = {"WarmupLR": "constant_with_warmup", "WarmupDecayLR": "linear",
             "WarmupCosineLR": "cosine"}  # fmt: skip


def fill_auto(
    settings: dict, config: RunConfig, *, processes: int, bf16: bool, file: str | Path
) -> None:
    """Fill what DeepSpeed's ``settings`` leave ``auto``, but for its buffers.

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
    for key in ("fp16", "amp"):
        if settings.get(key, {}).get("enabled", False) not in ("auto", False):
            raise ConfigError(
                "float16 is not supported: it needs its loss scaled",
                where=f"{key}.enabled of {file}",
                fix=f"remove {key}; bf16 is used wherever the GPU has it",
            )
    settings.pop("amp", None)
    _leave_to_the_kit(settings, config, file)


def fill_buffers(settings: dict, hidden_size: Callable[[], int], file: str | Path) -> None:
    """Fill the sizes of ZeRO's buffers that are ``auto`` as transformers does, by the model's
    width; what it fills in no other way is left to DeepSpeed's own default.

    Raises:
        ConfigError: another value is ``auto``.
    """
    spread = settings["zero_optimization"]
    for key, size_of in (
        ("reduce_bucket_size", lambda width: width * width),
        ("stage3_prefetch_bucket_size", lambda width: int(0.9 * width * width)),
        ("stage3_param_persistence_threshold", lambda width: 10 * width),
    ):
        if spread.get(key) == "auto":
            spread[key] = size_of(hidden_size())
    for key in [key for key, value in spread.items() if value == "auto"]:
        del spread[key]
    for key, value in settings.items():
        inner = value.items() if isinstance(value, dict) else [("enabled", None)]
        left = [key] * (value == "auto") + [
            f"{key}.{name}" for name, each in inner if each == "auto" and name != "enabled"
        ]
        if left:
            what = f"{left[0]} is auto, and nothing says what that would be"
            raise ConfigError(what, where=f"{left[0]} of {file}", fix="remove it")


def _leave_to_the_kit(settings: dict, config: RunConfig, file: str | Path) -> None:
    """Take out an optimizer and a schedule that are the kit's own, with every number ``auto``."""
    for key, ours in (
        ("optimizer", {"AdamW": "adamw"}),
        ("scheduler", SCHEDULES),
    ):
        if key not in settings:
            continue
        kind, numbers = settings[key].get("type"), settings[key].get("params", {})
        mine = "adamw" if key == "optimizer" else config.lr_scheduler_type
        if kind in ours and numbers and all(each == "auto" for each in numbers.values()):
            if ours[kind] == mine:
                del settings[key]
                continue
            raise ConfigError(
                f"DeepSpeed's {kind} is {ours[kind]}, the kit has {mine}",
                where=f"{key} of {file} and lr_scheduler_type of {source_of(config)}",
                fix=f"remove it from the DeepSpeed file, or set lr_scheduler_type: {ours[kind]}",
            )
        raise ConfigError(
            f"the kit makes its own {key}",
            where=f"{key} of {file}",
            fix="remove it; set learning_rate, adam_beta1, lr_scheduler_type ... instead",
        )
