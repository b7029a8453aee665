"""Typed configuration of the preflight."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from kit.command import option, require
from kit.data.columns import TableOptions
from kit.errors import ConfigError
from kit.shipped import CONFIGS, find, names


@dataclass
class PreflightConfig(TableOptions):
    """Prints what a stage's configuration takes on a GPU, under each ZeRO stage and precision."""

    stage: Literal["sft", "grpo"] = option("sft", help="whose configuration it is")
    config: str = option("", help="a file of launch/configs/")
    accelerate_config: str | None = option(None, help="a file of accelerate_configs/")
    data: str | None = option(None, help="its longest records are measured; left out: an example")
    base_model: str | None = option(None, help="instead of the configuration's")
    sft_ckpt: str | None = option(None, help="of grpo: its base, and its image size")
    num_processes: int | None = option(None, help="instead of the accelerate configuration's")
    gpu_memory_gb: float | None = option(None, help="of one GPU, in GiB; left out: this one's")

    def __post_init__(self):
        if not self.config:
            fix = "set --config launch/configs/sft.yaml"
            raise ConfigError("no configuration given", where="config", fix=fix)
        if not find(self.config, CONFIGS).is_file():
            fix = f"a path, or one of {', '.join(names(CONFIGS))}"
            raise ConfigError("no such config file", where=self.config, fix=fix)
        count, memory = self.num_processes, self.gpu_memory_gb
        require(count is None or count >= 1, "num_processes", "must be at least 1", count)
        fine = memory is None or 0 < memory < math.inf
        require(fine, "gpu_memory_gb", "must be above 0", memory)
