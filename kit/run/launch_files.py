"""Files of ``accelerate launch``: which of them the kit can run under, and what they name.

Training is told by accelerate what they say, through the environment (``kit.run.launches``); this
is what the preflight and SLURM read before anything is started, without torch.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path

from kit.command import read_yaml
from kit.errors import ConfigError
from kit.shipped import LAUNCHES, ROOT, find

KINDS = ("NO", "MULTI_GPU", "DEEPSPEED")
PLAIN = "use multi_gpu.yaml or a zero*.yaml of accelerate_configs/"
INSTEAD = {
    "FSDP": "use zero2.yaml or zero3.yaml of accelerate_configs/, which spread the same",
    "MEGATRON_LM": PLAIN,
    "XLA": "a TPU is not supported; " + PLAIN,
    "TPU": "a TPU is not supported; " + PLAIN,
    "MULTI_CPU": "accelerate starts it by MPI; use cpu.yaml of accelerate_configs/",
}
DEEPSPEED_FILE = "deepspeed_config_file"
SECTIONS = ("zero_optimization", "bf16", "fp16", "amp", "optimizer", "scheduler")


@dataclass(frozen=True)
class LaunchFile:
    """A file of accelerate's: what it says, and the DeepSpeed file that it names."""

    path: Path
    content: dict
    deepspeed_file: Path | None = None

    @property
    def kind(self) -> str:
        return str(self.content["distributed_type"])

    @property
    def processes(self) -> int:
        """On all machines together."""
        return int(self.content.get("num_processes", 1))

    @property
    def machines(self) -> int:
        return int(self.content.get("num_machines", 1))

    def naming(self, deepspeed_file: Path | None) -> dict:
        """Its content, with another place of the DeepSpeed file."""
        content = copy.deepcopy(self.content)
        if deepspeed_file is not None:
            content["deepspeed_config"][DEEPSPEED_FILE] = str(deepspeed_file)
        return content


def read_launch_file(path: str | Path) -> LaunchFile:
    """Read a file of accelerate's, or the kit's own of that name (``zero2``).

    Raises:
        ConfigError: it is missing, no configuration, or of a kind that the kit does not run under;
            or the DeepSpeed file that it names is missing.
    """
    path = find(path, LAUNCHES)
    content = read_yaml(path, "accelerate_config")
    place = content.get("compute_environment", "LOCAL_MACHINE")
    kind = content.get("distributed_type")
    if place != "LOCAL_MACHINE":
        what, where = f"the kit does not run under {place}", "compute_environment"
        raise ConfigError(what, where=f"{where} of {path}", fix="set it to LOCAL_MACHINE")
    kind = "NO" if kind is False else kind  # what YAML makes of NO without quotes
    content["distributed_type"] = kind
    if kind not in KINDS:
        what = f"the kit does not run under {kind}" if kind else "it does not say how to spread"
        fix = INSTEAD.get(str(kind), PLAIN)
        raise ConfigError(what, where=f"distributed_type of {path}", fix=fix)
    if content.get("parallelism_config"):
        what = "the kit does not spread a layer over GPUs"
        raise ConfigError(what, where=f"parallelism_config of {path}", fix=f"remove it; {PLAIN}")
    for key in ("num_processes", "num_machines"):
        count = content.get(key, 1)
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ConfigError(
                f"{key} must be a whole number of at least 1, not {count!r}",
                where=f"{key} of {path}",
                fix="fix the value",
            )
    processes, machines = content.get("num_processes", 1), content.get("num_machines", 1)
    if processes % machines:
        what = f"num_processes {processes} cannot be spread evenly over {machines} machines"
        fix = "num_processes counts those of all machines together"
        raise ConfigError(what, where=f"num_processes of {path}", fix=fix)
    if kind == "NO" and processes > 1:
        raise ConfigError(
            f"accelerate starts one process, not {processes}, under a configuration for one",
            where=f"distributed_type and num_processes of {path}",
            fix=f"set num_processes: 1, or {PLAIN}",
        )
    if kind != "NO" and "num_processes" not in content:
        fix = "write the number of GPUs on all machines"
        raise ConfigError("no num_processes", where=path, fix=fix)
    named = (content.get("deepspeed_config") or {}).get(DEEPSPEED_FILE)
    return LaunchFile(path, content, find_deepspeed_file(named) if named else None)


def find_deepspeed_file(named: str | Path) -> Path:
    """Where a DeepSpeed file is: as it is named from the working folder, as accelerate has it, or
    else from the kit's own, which ``ds_configs/`` stands in.

    Raises:
        ConfigError: at neither.
    """
    places = (Path(named).expanduser(), ROOT / named)
    for place in places:
        if place.is_file():
            return place.absolute()
    raise ConfigError(
        f"no such DeepSpeed file, neither here nor in {ROOT}",
        where=named,
        fix=f"write its whole path as {DEEPSPEED_FILE}, or name a file of ds_configs/",
    )


def read_deepspeed_file(path: str | Path) -> dict:
    """What a DeepSpeed file says.

    Raises:
        ConfigError: it is no configuration.
    """
    try:
        settings = dict(json.loads(Path(path).read_text(encoding="utf-8-sig")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"not a configuration: {error}", where=path, fix="fix it") from error
    for key in SECTIONS:
        if not isinstance(settings.get(key, {}), dict):
            what, fix = f"not a configuration: {key} is no section", f'write "{key}": {{...}}'
            raise ConfigError(what, where=f"{key} of {path}", fix=fix)
    return settings
