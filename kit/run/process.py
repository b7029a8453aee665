"""The process's part in a run: Accelerator, seeds, sums over ranks, requests to stop."""

from __future__ import annotations

import gc
import math
import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

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
from torch import nn
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from kit.errors import ConfigError, need_extra
from kit.files import explained
from kit.model.folders import named_base
from kit.model.load import hidden_size
from kit.run import extensions, sources
from kit.run.config import RunConfig
from kit.run.launches import Support, launched_environment, plan_launch


def start(config: RunConfig) -> Accelerator:
    """Join the process group as planned (``kit.run.launches``), and fix the seeds.

    Raises:
        ConfigError: accelerate, DeepSpeed and the kit were told different things.
    """
    fix_algorithms(config.full_determinism)
    launch = plan_launch(
        os.environ, config, bf16=bf16_support(), hidden_size=lambda: width_of_base(config)
    )
    options = {"deepspeed_plugin": launch.plugin} if launch.plugin else {}
    accelerator = join(
        mixed_precision="bf16" if launch.bf16 else "no",
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=_trackers(config.report_to),
        project_config=ProjectConfiguration(
            project_dir=config.output_dir, logging_dir=str(Path(config.output_dir) / "logs")
        ),
        **options,
    )
    # else ZeRO-3 would spread every model that transformers loads, the sentence encoder too
    unset_hf_deepspeed_config()
    accelerator.print(f"computes on {device_name(accelerator)} in {launch.precision}")
    set_seed(config.seed)
    return accelerator


def fix_algorithms(wanted: bool) -> None:
    """With ``full_determinism``: the same device computes the same to the last bit, or raises. To
    be called before anything is computed on a GPU; processes that are forked inherit it.

    As ``transformers.enable_full_determinism``, less the seeds, which are fixed in any case, and
    ``CUDA_LAUNCH_BLOCKING``, which only CUDA 10.1 needed in place of the workspace's size.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        os.environ["FLASH_ATTENTION_DETERMINISTIC"] = "1"
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False


def join(**options: Any) -> Accelerator:
    """An ``Accelerator`` that has joined all the processes that were launched.

    Without a GPU accelerate must be told how: for plain processes ``cpu=True``, which would drop
    DeepSpeed; for DeepSpeed the backend, which alone would leave plain processes each training
    by itself while they count as several.
    """
    told = launched_environment(os.environ)
    for name in os.environ.keys() - told.keys():
        del os.environ[name]
    os.environ.update(told)
    launched = int(told.get("WORLD_SIZE", 1))
    with_deepspeed = told.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    if with_deepspeed:
        need_extra("deepspeed", "deepspeed")
        extensions.await_builds()
    if "LOCAL_RANK" in told and not torch.cuda.is_available():
        if with_deepspeed:
            options["kwargs_handlers"] = [InitProcessGroupKwargs(backend="gloo")]
        else:
            options["cpu"] = True
    try:
        accelerator = Accelerator(**options)
    except ValueError as error:  # as where the accelerate and the DeepSpeed file contradict
        where = told.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "the accelerate config")
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


def bf16_support() -> Support:
    """Whether this GPU computes in bfloat16 itself; V100 and T4 only emulate it, slowly."""
    if not torch.cuda.is_available():
        return "none"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "native"
    return "emulated" if torch.cuda.is_bf16_supported() else "none"


def device_name(accelerator: Accelerator) -> str:
    """The GPU by its name, or cpu."""
    if accelerator.device.type != "cuda":
        return accelerator.device.type
    return torch.cuda.get_device_name(accelerator.device)


def width_of_base(config: RunConfig) -> int:
    """The hidden size of the language model that is trained."""
    return hidden_size(config.base_model or named_base(config.sft_ckpt))


def end(accelerator: Accelerator) -> None:
    """Close the trackers and leave the process group; to be called when nothing else holds the
    wrapped model. If DDP's reducer outlives the group it takes the group down with it, and while
    it holds Python's lock waits for a thread of gloo's that waits for that lock."""
    accelerator.free_memory()
    gc.collect()  # the wrapper is part of a cycle
    with explained(accelerator.logging_dir or "the trackers"):
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


def weights_dtype(accelerator: Accelerator, *, trained: bool) -> torch.dtype:
    """Frozen weights are held in the compute type, trained ones in float32."""
    half = accelerator.mixed_precision == "bf16" and not trained
    return torch.bfloat16 if half else torch.float32


def total(accelerator: Accelerator, *values: float) -> list[float]:
    """Sums over all ranks, in float64."""
    tensor = torch.tensor(values, dtype=torch.float64, device=accelerator.device)
    return accelerator.reduce(tensor, reduction="sum").tolist()


def environment(accelerator: Accelerator, model: nn.Module | None = None) -> dict:
    """What a run was made with: versions, devices, command line; and what its ``model`` really
    computes with, asked of the model itself."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    facts = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": sources.versions(),
        "gpus": gpus,
        "device": device_name(accelerator),
        "num_processes": accelerator.num_processes,
        "distributed_type": accelerator.distributed_type.value,
        "mixed_precision": accelerator.mixed_precision,
        "command": sys.argv,
        "kit": str(Path(__file__).resolve().parents[1]),
    }
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        settings = accelerator.deepspeed_plugin.deepspeed_config
        facts["deepspeed"] = {k: v for k, v in settings.items() if v != math.inf}
    if model is not None:
        config = getattr(model, "config", None)
        facts["attention"] = config and config.get_text_config()._attn_implementation
        for name, trained in (("trained_dtypes", True), ("frozen_dtypes", False)):
            found = {p.dtype for p in model.parameters() if p.requires_grad == trained}
            facts[name] = sorted(str(dtype).removeprefix("torch.") for dtype in found)
    return facts


def peak_memory_bytes() -> int:
    """Most memory held so far: of the GPU if there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
