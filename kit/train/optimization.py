"""Optimizer steps: parameter groups, clipping, and what is told of them."""

from __future__ import annotations

import math

from accelerate import Accelerator
from torch import nn

from kit.errors import UserError


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Trained parameters, decayed if they are matrices. Empty groups are left out: DeepSpeed
    drops them, and the scheduler then no longer matches."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def clip_gradients(accelerator: Accelerator, model: nn.Module, max_norm: float) -> float:
    """Clip the gradient to ``max_norm`` (0: leave it) and return its norm before that."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    norm = accelerator.clip_grad_norm_(parameters, max_norm or float("inf"))
    if norm is None:  # DeepSpeed clips by its own configuration
        norm = model.get_global_grad_norm() or 0.0
    return float(norm)


def window_means(steps: list[dict[str, float]]) -> dict[str, float]:
    """Metrics over several steps; the loss is weighted by tokens.

    Raises:
        UserError: the loss is not finite.
    """
    tokens = sum(m["tokens"] for m in steps)
    means = {
        name: sum(m[name] * m["tokens"] for m in steps) / tokens
        for name in ("loss", "token_accuracy")
    }
    means["grad_norm"] = sum(m["grad_norm"] for m in steps) / len(steps)
    if not math.isfinite(means["loss"]):
        raise UserError("the loss is not finite", where="learning_rate", fix="lower it")
    return means


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
