"""How a run is launched: what the files of accelerate_configs/ and ds_configs/ say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from kit.errors import ConfigError

DEEPSPEED_BUCKET = 500_000_000  # where its file names none


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


PLANS = {
    "none or DDP": Plan(0),
    "zero1": Plan(1),
    "zero2": Plan(2),
    "zero2_offload": Plan(2, offload_optimizer=True),
    "zero3": Plan(3),
    "zero3_offload": Plan(3, offload_optimizer=True, offload_weights=True),
}


@dataclass(frozen=True)
class Launch:
    """What an accelerate configuration says: the plan, and DeepSpeed's settings if it has them."""

    name: str
    plan: Plan
    settings: dict | None = None
    file: str = ""
    mixed_precision: str | None = None
    use_cpu: bool = False


def read_launch(path: str | None, num_processes: int | None) -> Launch:
    """Read an accelerate configuration and the DeepSpeed file that it points to.

    Raises:
        ConfigError: a file is missing or no configuration.
    """
    if path is None:
        return Launch("one process", Plan(processes=num_processes or 1))
    written = _read(Path(path), yaml.safe_load)
    processes = num_processes or int(written.get("num_processes", 1))
    common = {"name": Path(path).stem, "use_cpu": bool(written.get("use_cpu"))}
    named = (written.get("deepspeed_config") or {}).get("deepspeed_config_file")
    if named is None:
        precision = written.get("mixed_precision")
        return Launch(plan=Plan(processes=processes), mixed_precision=precision, **common)
    settings = _read(Path(named), json.loads)
    spread = settings.get("zero_optimization", {})
    plan = Plan(
        stage=int(spread.get("stage", 0)),
        processes=processes,
        offload_optimizer=spread.get("offload_optimizer", {}).get("device", "none") != "none",
        offload_weights=spread.get("offload_param", {}).get("device", "none") != "none",
        bucket=int(spread.get("reduce_bucket_size", DEEPSPEED_BUCKET)),
        persistence=int(spread.get("stage3_param_persistence_threshold", Plan.persistence)),
    )
    return Launch(plan=plan, settings=settings, file=named, **common)


def _read(path: Path, load) -> dict:
    try:
        return dict(load(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ConfigError("no such file", where=path, fix="give one of the repository") from error
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(f"not a configuration: {error}", where=path, fix="fix it") from error


def plan_name(plan: Plan) -> str:
    bare = Plan(plan.stage, 1, plan.offload_optimizer, plan.offload_weights)
    return next((name for name, known in PLANS.items() if known == bare), "none or DDP")
