"""Optimizer steps: parameter groups, clipping, and what is told of them."""

from __future__ import annotations

import math

import torch
from accelerate import Accelerator
from torch import nn

from kit.train import zero


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Trained parameters, decayed if they are matrices. Empty groups are left out: DeepSpeed
    drops them, and the scheduler then no longer matches."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def take_step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    max_norm: float,
) -> tuple[float, bool]:
    """Clip the gradient to ``max_norm`` (0: leave it) and update.

    Returns its norm before that, and whether the update was made: not where the gradient is not
    finite, which all ranks see alike; then it is dropped.
    """
    if zero.is_used(accelerator):  # its last backward clipped and updated, or did not
        engine = accelerator.deepspeed_engine_wrapped.engine
        optimizer.step()  # does nothing here, but the schedule of the learning rate waits for it
        if not engine.was_step_applied():
            return math.nan, False
        return float(engine.get_global_grad_norm()), True
    parameters = [p for p in model.parameters() if p.requires_grad]
    norm = float(accelerator.clip_grad_norm_(parameters, max_norm or float("inf")))
    finite = math.isfinite(norm)
    if finite:
        optimizer.step()
    optimizer.zero_grad()
    return norm, finite


def window_means(steps: list[dict[str, float]]) -> dict[str, float]:
    """Metrics over several steps; loss and accuracy are weighted by tokens."""
    tokens = sum(m["tokens"] for m in steps)
    means = {
        name: sum(m[name] * m["tokens"] for m in steps) / tokens
        for name in ("loss", "token_accuracy")
        if steps
    }
    return means | ({"grad_norm": mean_metrics(steps)["grad_norm"]} if steps else {})


def mean_metrics(steps: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over the steps that have it.

    >>> mean_metrics([{"kl": 1.0, "reward": 2.0}, {"reward": 4.0}])
    {'kl': 1.0, 'reward': 3.0}
    """
    values: dict[str, list[float]] = {}
    for step in steps:
        for name, value in step.items():
            values.setdefault(name, []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}


def due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
