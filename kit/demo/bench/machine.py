"""The machine under the benchmark: its clock, its memory, what it can reach, what it runs."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate")


def now(device: str) -> float:
    """Seconds, when everything that was asked of the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Peak:
    """The most memory that is taken from here on: of the GPU as torch counts it, or of the process
    as Linux does."""

    def __init__(self, device: str):
        self.device = device
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak so far
            self.before = _memory("VmRSS")

    def gigabytes(self) -> dict[str, float]:
        """Of the peak beyond what was there before, and of that."""
        on_gpu = self.device == "cuda"
        peak = torch.cuda.max_memory_allocated() if on_gpu else _memory("VmHWM")
        return {"beyond": (peak - self.before) / 1e9, "before": self.before / 1e9}


def _memory(field: str) -> int:
    """Bytes, as Linux counts them."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """FLOP/s that the product of two large square matrices reaches, the best of five."""
    side = 8192 if device == "cuda" else 2048
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        started = now(device)
        a @ b
        best = min(best, now(device) - started)
    return 2 * side**3 / best


def facts(device: str) -> dict:
    """Versions, device, threads, and how busy the machine was when this was asked."""
    return {
        "versions": {name: version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
    }


def _processor() -> str:
    names = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("model name")[2]
    return names.partition(":")[2].partition("\n")[0].strip() or platform.machine()
