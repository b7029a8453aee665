"""From rewarded groups to what the loss of a micro-batch takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from kit.grpo.config import GrpoConfig
from kit.grpo.losses import token_weights
from kit.grpo.rollout import Group
from kit.model.adapters import as_reference
from kit.model.logprobs import token_logprobs
from kit.model.processor import Processor
from kit.model.sampler import evaluating
from kit.model.sharing import PackedBatch, pack
from kit.run import process


@dataclass(frozen=True)
class MicroBatch:
    """Groups as the loss takes them. Per target token (K,): ``sampled``, the sampler's
    log-probability; ``advantages``; ``weights`` (``kit.grpo.losses.token_weights``); ``old`` and
    ``reference`` log-probabilities, None where the loss needs none."""

    batch: PackedBatch
    sampled: Tensor
    advantages: Tensor
    weights: Tensor
    old: Tensor | None = None
    reference: Tensor | None = None


def micro_batches(
    groups: Sequence[Group],
    advantages_PG: Tensor,
    processor: Processor,
    config: GrpoConfig,
    accelerator: Accelerator,
) -> list[MicroBatch]:
    """This process's groups of a step, ``per_device_train_batch_size`` of them at a time.
    What the loss is normalised by is counted over all
    ranks and micro-batches, so that its gradient does not depend on how the step is split."""
    counted_PG = torch.tensor(
        [
            [is_counted(c.truncated, bool(row.any()), config) for c in group.completions]
            for group, row in zip(groups, advantages_PG, strict=True)
        ]
    )
    lengths_PG = torch.tensor([[len(c.token_ids) for c in group.completions] for group in groups])
    n_completions, n_tokens = process.total(
        accelerator, counted_PG.numel(), int((lengths_PG * counted_PG).sum())
    )
    result = []
    for start in range(0, len(groups), config.per_device_train_batch_size):
        part = slice(start, start + config.per_device_train_batch_size)
        batch = pack(
            [group.tree() for group in groups[part]],
            merge_size=processor.image_processor.merge_size,
        ).to(accelerator.device)
        owner_K = batch.branch_index
        weights = token_weights(
            owner_K,
            counted_PG[part].flatten().to(owner_K.device),
            loss_type=config.loss_type,
            n_completions=n_completions,
            n_tokens=n_tokens,
            max_completion_length=config.max_completion_length,
        )
        sampled = [p for group in groups[part] for c in group.completions for p in c.logprobs]
        result.append(
            MicroBatch(
                batch=batch,
                sampled=torch.tensor(sampled, device=owner_K.device),
                advantages=advantages_PG[part].flatten().float().to(owner_K.device)[owner_K],
                weights=weights,
            )
        )
    return result


def is_counted(truncated: bool, has_advantage: bool, config: GrpoConfig) -> bool:
    """Whether the loss is of a completion."""
    if truncated and config.mask_truncated_completions:
        return False
    return has_advantage or not config.mask_zero_advantage_groups


@torch.no_grad()
def with_fixed_logprobs(
    model: nn.Module,
    reference: nn.Module | None,
    batches: Sequence[MicroBatch],
    config: GrpoConfig,
) -> list[MicroBatch]:
    """Add what stays the same over the updates of a step: the reference's log-probabilities where
    there is a KL penalty (``reference``: see ``as_reference``), and the policy's own where there
    is more than one update."""

    def logprobs(by: nn.Module, part: MicroBatch) -> Tensor:
        with evaluating(by):
            return token_logprobs(by, part.batch, temperature=config.temperature).logprobs

    if config.num_iterations > 1:
        batches = [replace(part, old=logprobs(model, part)) for part in batches]
    if config.beta:
        with as_reference(model, reference) as start:
            batches = [replace(part, reference=logprobs(start, part)) for part in batches]
    return list(batches)
