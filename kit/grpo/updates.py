"""The updates of a step: from micro-batches to a changed policy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import nn

from kit.data.grpo_records import GrpoRecord
from kit.grpo.config import GrpoConfig
from kit.grpo.losses import grpo_loss, importance_weights
from kit.grpo.microbatches import MicroBatch
from kit.grpo.objectives import objective_of
from kit.grpo.report import record_tokens
from kit.grpo.rollout import Group
from kit.run.metrics import Meters
from kit.train.optim import take_step


def updates_of(
    batches: Sequence[MicroBatch], groups: Sequence[Group], config: GrpoConfig
) -> list[tuple[list[MicroBatch], list[Group]]]:
    """What each update of a step is made of, with the groups that are in it: all micro-batches
    in turn, ``gradient_accumulation_steps`` at a time, and that ``num_iterations`` times."""
    size, each = config.gradient_accumulation_steps, len(groups) // len(batches)
    once = [
        (list(batches[start : start + size]), list(groups[start * each : (start + size) * each]))
        for start in range(0, len(batches), size)
    ]
    return once * config.num_iterations


def suspects(groups: list[Group], finite: list[bool]) -> list[tuple[GrpoRecord, bool]]:
    """The records of an update, each with whether the loss of its micro-batch was finite."""
    size = len(groups) // len(finite)
    return [(group.task.record, finite[number // size]) for number, group in enumerate(groups)]


def update(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: list[MicroBatch],
    config: GrpoConfig,
    meters: Meters,
) -> tuple[bool, list[bool]]:
    """One optimizer step over its micro-batches. Whether it was made, and of which
    micro-batches of this rank the loss was finite."""
    # accelerate divides by the accumulation steps, and DDP and DeepSpeed by the ranks
    undo_means = config.gradient_accumulation_steps * accelerator.num_processes
    high = config.epsilon if config.epsilon_high is None else config.epsilon_high
    sequences = config.importance_sampling_level == "sequence"
    losses, step_meters = [], Meters()
    for part in batches:
        with accelerator.accumulate(model):
            scored = model(part.scored, temperature=config.temperature, entropy=True)
            extra = objective_of(scored.logprobs, part, config, step_meters)
            scored = scored.first(len(part.weights))
            old = scored.logprobs.detach() if part.old is None else part.old
            owner_K = part.batch.branch_index
            loss = grpo_loss(
                scored.logprobs,
                old,
                part.reference,
                part.advantages,
                part.weights,
                correction_K=importance_weights(
                    old,
                    part.sampled,
                    config.importance_sampling_cap,
                    least=config.importance_sampling_min,
                    mode=config.importance_sampling_mode,
                    owner_K=owner_K,
                ),
                owner_K=owner_K if sequences else None,
                kept_K=part.kept,
                delta=config.delta,
                cispo=config.loss_type == "cispo",
                epsilon=config.epsilon,
                epsilon_high=high,
                beta=config.beta,
                bias_correction=config.use_bias_correction_kl,
            )
            total = loss.loss - extra
            accelerator.backward(total * undo_means)
        losses.append(total.item())
        record_tokens(step_meters, part, scored, loss)
    norm, applied = take_step(accelerator, model, optimizer, config.max_grad_norm)
    if applied:
        # the sum over ranks and micro-batches, not their mean
        step_meters.add_sum("loss", sum(losses), 1 / accelerator.num_processes)
        step_meters.add("grad_norm", [norm])
        meters.merge(step_meters)
    return applied, [math.isfinite(loss) for loss in losses]
