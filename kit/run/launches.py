"""How a run is spread over processes and memory, in what batches and in what precision.

``plan_launch`` is the one place that knows: training obeys what it gives, the preflight reports
it, and SLURM asks it before anything is queued. What was launched, it reads as processes are
told by accelerate: from environment variables, which ``kit.plan.accelerate_internals`` makes of a
file where nothing is started.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kit.command import source_of
from kit.errors import ConfigError
from kit.run.config import RunConfig
from kit.run.deepspeed_settings import fill_auto, fill_buffers
from kit.run.launch_files import INSTEAD, PLAIN, find_deepspeed_file, read_deepspeed_file

DEEPSPEED_BUCKET = 500_000_000  # where its file names none
Support = Literal["native", "emulated", "none"]
REFUSED = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_MEGATRON_LM": "MEGATRON_LM",
           "ACCELERATE_USE_PARALLELISM_CONFIG": "parallelism_config"}  # fmt: skip
ACCUMULATION = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"
FILE = "ACCELERATE_DEEPSPEED_CONFIG_FILE"


@dataclass(frozen=True)
class Plan:
    """How a run is spread: ZeRO ``stage`` (0: none), processes, what is kept in main memory, the
    elements of DeepSpeed's buffer for gradients on their way, and those of the largest weights
    that ZeRO-3 keeps whole."""

    stage: int = 0
    processes: int = 1
    offload_optimizer: bool = False
    offload_weights: bool = False
    bucket: int = 50_000_000  # as in ds_configs/
    persistence: int = 100_000

    @property
    def with_deepspeed(self) -> bool:
        return self.stage > 0


@dataclass(frozen=True)
class Launch:
    """What a run will do: how it is spread, records of a micro-batch and how many of these make a
    step on each process, whether it computes in bfloat16 and why, and accelerate's plugin with
    DeepSpeed's settings, if it has any."""

    plan: Plan
    micro_batch: int
    accumulation: int
    bf16: bool
    reason: str
    plugin: object | None = None

    @property
    def batch(self) -> int:
        """Records of a step."""
        return self.micro_batch * self.accumulation * self.plan.processes

    @property
    def precision(self) -> str:
        """In words, with the reason."""
        return f"{'bfloat16' if self.bf16 else 'float32'}: {self.reason}"


def launched_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What accelerate has told a process, with the DeepSpeed file where it stands and without
    what says nothing.

    Raises:
        ConfigError: it was launched in a way that the kit does not run under.
    """
    told = dict(environment)
    for name, kind in REFUSED.items():
        if told.get(name, "false").lower() == "true":
            what, fix = f"the kit does not run under {kind}", INSTEAD.get(kind, PLAIN)
            raise ConfigError(what, where="the accelerate config", fix=fix)
    if told.get(ACCUMULATION) == "auto":
        del told[ACCUMULATION]
    if FILE in told:
        told[FILE] = str(find_deepspeed_file(told[FILE]))
    return told


def plan_launch(
    environment: Mapping[str, str],
    config: RunConfig,
    *,
    bf16: Support,
    hidden_size: Callable[[], int],
) -> Launch:
    """What a run of ``config`` that was launched so will do.

    Args:
        environment: the variables by which accelerate tells processes how they were launched.
        bf16: whether the device has bfloat16.
        hidden_size: of the language model; asked where DeepSpeed's buffers are ``auto``.

    Raises:
        ConfigError: accelerate, DeepSpeed and the kit were told different things.
    """
    told = launched_environment(environment)
    processes = int(told.get("WORLD_SIZE", 1))
    spread = Launch(
        plan=Plan(processes=processes),
        micro_batch=config.per_device_train_batch_size,
        accumulation=config.gradient_accumulation_steps,
        bf16=False,
        reason="",
    )
    if told.get("ACCELERATE_USE_DEEPSPEED", "false").lower() != "true":
        require_accumulation(told.get(ACCUMULATION, "auto"), config)
        half, reason = _precision(config, told, "auto", bf16)
        return replace(spread, bf16=half, reason=reason)
    plugin = _plugin(told)
    settings = plugin.deepspeed_config
    where = told.get(FILE, "deepspeed_config of the accelerate config")
    half, reason = _precision(config, told, settings.get("bf16", {}).get("enabled", "auto"), bf16)
    fill_auto(settings, config, processes=processes, bf16=half, file=where)
    fill_buffers(settings, hidden_size, where)
    # the kit's AdamW in main memory too; DeepSpeed's own is compiled for minutes, and another
    settings.setdefault("zero_force_ds_cpu_optimizer", False)
    return replace(
        spread, bf16=half, reason=reason, plugin=plugin, plan=_plan_of(settings, processes, where)
    )


def require_accumulation(asked: str, config: RunConfig) -> None:
    """
    Raises:
        ConfigError: accelerate was told another number, which it would take.
    """
    ours = config.gradient_accumulation_steps
    if asked not in ("auto", str(ours)):
        raise ConfigError(
            f"accelerate accumulates {asked} micro-batches, the kit {ours}",
            where=f"gradient_accumulation_steps of the accelerate config and of "
            f"{source_of(config)}",
            fix="leave it out of the accelerate config",
        )


def _plugin(told: Mapping[str, str]):
    """accelerate's reading of a DeepSpeed file, or of what its own file says in place of one."""
    from accelerate.utils import (  # loads torch
        DeepSpeedPlugin,
        clear_environment,
        patch_environment,
    )

    settings = None
    if FILE in told:
        # left out, accelerate takes 1 and not what the kit has
        settings = {"gradient_accumulation_steps": "auto"} | read_deepspeed_file(told[FILE])
    with clear_environment(), patch_environment(**told):
        try:
            return DeepSpeedPlugin(hf_ds_config=settings)
        except (ValueError, TypeError) as error:
            where = told.get(FILE, "the accelerate config")
            raise ConfigError(str(error), where=where, fix="make the files agree") from error


def _precision(
    config: RunConfig, told: Mapping[str, str], in_deepspeed: bool | str, bf16: Support
) -> tuple[bool, str]:
    """Whether to compute in bfloat16, and why: as the kit's configuration says, or else the files
    of the launch, or else as the device can. Where it is emulated, that takes longer than float32,
    and only the kit's own configuration can ask for it."""
    asked = told.get("ACCELERATE_MIXED_PRECISION", "no")
    if told.get("ACCELERATE_USE_CPU", "false").lower() == "true":
        bf16 = "none"
    if asked not in ("no", "bf16"):
        raise ConfigError(
            f"mixed precision {asked!r} is not supported",
            where="mixed_precision of the accelerate config",
            fix="use bf16 or no",
        )
    if config.bf16 is not None:
        wanted = "bf16" if config.bf16 else "no"
        if asked not in ("no", wanted):
            raise ConfigError(
                f"accelerate asks for mixed precision {asked!r}, the kit for {wanted!r}",
                where=f"mixed_precision of the accelerate config and bf16 of {source_of(config)}",
                fix="make them agree, or leave bf16 out of the kit's config",
            )
        slow = ", though this GPU only emulates it" if config.bf16 and bf16 == "emulated" else ""
        return config.bf16, f"bf16 of {source_of(config)} says so{slow}"
    if in_deepspeed is False:
        return False, "the DeepSpeed file says so"
    if bf16 == "emulated":
        return False, "this GPU only emulates bfloat16"
    if asked == "bf16" or in_deepspeed is True:
        return True, "the files of the launch say so"
    return (True, "the GPU has it") if bf16 == "native" else (False, "no GPU with bfloat16")


def _plan_of(settings: dict, processes: int, file: str | Path) -> Plan:
    """
    Raises:
        ConfigError: there is no such ZeRO stage or place.
    """
    spread = settings["zero_optimization"]
    stage = int(spread.get("stage", 0))
    if not 1 <= stage <= 3:
        fix = "set it to 1, 2 or 3; without ZeRO use multi_gpu.yaml of accelerate_configs/"
        raise ConfigError(f"no ZeRO stage {stage}", where=f"stage of {file}", fix=fix)
    spread["stage"] = stage
    places = {}
    for key in ("offload_optimizer", "offload_param"):
        place = (spread.get(key) or {}).get("device") or "none"
        if place not in ("none", "cpu", "nvme"):
            what = f"{key} to {place!r}"
            raise ConfigError(what, where=f"{key} of {file}", fix="set it to none, cpu or nvme")
        if key in spread and place == "none":
            del spread[key]
        places[key] = place != "none"
    return Plan(
        stage=stage,
        processes=processes,
        offload_optimizer=places["offload_optimizer"],
        offload_weights=places["offload_param"] and stage == 3,  # DeepSpeed passes it over below
        bucket=int(spread.get("reduce_bucket_size", DEEPSPEED_BUCKET)),
        persistence=int(spread.get("stage3_param_persistence_threshold", Plan.persistence)),
    )
