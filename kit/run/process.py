"""The process's part in a run: Accelerator, seeds, sums over ranks, requests to stop."""

from __future__ import annotations

import gc
import os
import platform
import resource
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import (
    DistributedType,
    InitProcessGroupKwargs,
    LoggerType,
    ProjectConfiguration,
    set_seed,
)

from kit.command import source_of
from kit.errors import ConfigError
from kit.run import extensions, sources, zero
from kit.run.config import RunConfig


def start(config: RunConfig) -> Accelerator:
    """Join the process group and fix the seeds.

    Raises:
        ConfigError: accelerate and the kit were told different things.
    """
    accumulation = int(os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", 1))
    if accumulation not in (1, config.gradient_accumulation_steps):
        raise ConfigError(
            f"accelerate accumulates {accumulation} micro-batches, the kit "
            f"{config.gradient_accumulation_steps}",
            where="gradient_accumulation_steps of the accelerate config and of "
            f"{source_of(config)}",
            fix="leave it out of the accelerate config",
        )
    accelerator = join(
        mixed_precision=_precision(config),
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=_trackers(config.report_to),
        project_config=ProjectConfiguration(
            project_dir=config.output_dir, logging_dir=str(Path(config.output_dir) / "logs")
        ),
    )
    zero.configure(accelerator, config)
    set_seed(config.seed)
    return accelerator


def join(**options) -> Accelerator:
    """An ``Accelerator`` that has joined all the processes that were launched.

    Without a GPU accelerate must be told how: for plain processes ``cpu=True``, which would drop
    DeepSpeed; for DeepSpeed the backend, which alone would leave plain processes each training
    by itself while they count as several.
    """
    launched = int(os.environ.get("WORLD_SIZE", 1))
    with_deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    if with_deepspeed:
        extensions.await_builds()
    if "LOCAL_RANK" in os.environ and not torch.cuda.is_available():
        if with_deepspeed:
            options["kwargs_handlers"] = [InitProcessGroupKwargs(backend="gloo")]
        else:
            options["cpu"] = True
    try:
        accelerator = Accelerator(**options)
    except ValueError as error:  # as where the accelerate and the DeepSpeed file contradict
        where = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "the accelerate config")
        raise ConfigError(str(error), where=where, fix="make the two files agree") from error
    alone = launched > 1 and accelerator.distributed_type == DistributedType.NO
    if accelerator.num_processes != launched or alone:
        raise ConfigError(
            f"{launched} processes were launched, but accelerate sees {accelerator.num_processes} "
            f"({accelerator.distributed_type.value})",
            where="the accelerate config",
            fix="use one of accelerate_configs/",
        )
    return accelerator


def end(accelerator: Accelerator) -> None:
    """Close the trackers and leave the process group; to be called when nothing else holds the
    wrapped model. If DDP's reducer outlives the group it takes the group down with it, and while
    it holds Python's lock waits for a thread of gloo's that waits for that lock."""
    accelerator.free_memory()
    gc.collect()  # the wrapper is part of a cycle
    accelerator.end_training()


def _trackers(names: list[str]) -> list[str] | None:
    if names == ["none"]:
        return None
    known = [name for name in LoggerType.list() if name != "all"]
    for name in names:
        if name not in known:
            alone = " alone" if name == "none" else ""
            raise ConfigError(
                f"no tracker {name!r} beside others" if alone else f"unknown tracker {name!r}",
                where="report_to",
                fix=f"give none{alone}, or of {', '.join(known)}",
            )
        if LoggerType(name) not in get_available_trackers():
            raise ConfigError(
                f"tracker {name!r} is not installed", where="report_to", fix=f"pip install {name}"
            )
    return names


def _precision(config: RunConfig) -> str | None:
    bf16 = config.bf16
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", "bf16"):
        raise ConfigError(
            f"mixed precision {launched!r} is not supported",
            where="mixed_precision of the accelerate config",
            fix="use bf16 or no",
        )
    if bf16 is None:
        on_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        return launched if launched != "no" else ("bf16" if on_gpu else "no")
    wanted = "bf16" if bf16 else "no"
    if launched not in ("no", wanted):
        raise ConfigError(
            f"accelerate asks for mixed precision {launched!r}, the kit for {wanted!r}",
            where=f"mixed_precision of the accelerate config and bf16 of {source_of(config)}",
            fix="make them agree, or leave bf16 out of the kit's config",
        )
    return wanted


def weights_dtype(accelerator: Accelerator, *, trained: bool) -> torch.dtype:
    """Frozen weights are held in the compute type, trained ones in float32."""
    half = accelerator.mixed_precision == "bf16" and not trained
    return torch.bfloat16 if half else torch.float32


def total(accelerator: Accelerator, *values: float) -> list[float]:
    """Sums over all ranks, in float64."""
    tensor = torch.tensor(values, dtype=torch.float64, device=accelerator.device)
    return accelerator.reduce(tensor, reduction="sum").tolist()


def environment(accelerator: Accelerator) -> dict:
    """What a run was made with: versions, devices, command line."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": sources.versions(),
        "gpus": gpus,
        "num_processes": accelerator.num_processes,
        "distributed_type": accelerator.distributed_type.value,
        "mixed_precision": accelerator.mixed_precision,
        "command": sys.argv,
        "kit": str(Path(__file__).resolve().parents[1]),
    }


def peak_memory_bytes() -> int:
    """Most memory held so far: of the GPU if there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
