"""Optimizer steps: parameter groups, clipping, and whether they were made."""

from __future__ import annotations

import math

import torch
from accelerate import Accelerator
from torch import nn

from kit.run import zero
from kit.run.deepspeed_internals import last_update
from kit.train.config import TrainingConfig


def adamw(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101) over the trained parameters."""
    return torch.optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
    )


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
        optimizer.step()  # does nothing here, but the schedule of the learning rate waits for it
        applied, norm = last_update(accelerator)
        return norm, applied
    parameters = [p for p in model.parameters() if p.requires_grad]
    norm = float(accelerator.clip_grad_norm_(parameters, max_norm or float("inf")))
    finite = math.isfinite(norm)
    if finite:
        optimizer.step()
    optimizer.zero_grad()
    return norm, finite
