"""What a step of GRPO tells of itself, under TRL's names where it has one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kit.model.logprobs import TokenLogprobs
from kit.scoring.faithfulness import Reward
from kit.train.advantages import group_std, has_no_spread
from kit.train.losses import GrpoLoss
from kit.train.meters import Meters
from kit.train.microbatches import MicroBatch
from kit.train.rollouts import Group


def totals(rewards: Sequence[Sequence[Reward]]) -> Tensor:
    """(groups, completions) float64."""
    return torch.tensor([[reward.total for reward in group] for group in rewards]).double()


def note_rewards(meters: Meters, rewards: Sequence[Sequence[Reward]]) -> None:
    """Totals, raw parts and, of parts, how many were absent."""
    values = totals(rewards)
    meters.add("reward", values.flatten().tolist())
    if values.shape[1] > 1:
        meters.add("reward_std", group_std(values).tolist())
        meters.add("frac_reward_zero_std", has_no_spread(values).double().tolist())
    for reward in (reward for group in rewards for reward in group):
        for name, value in reward.parts.items():
            meters.add(f"rewards/{name}/absent", [float(value is None)])
            if value is not None:
                meters.add(f"rewards/{name}/mean", [value])


def note_lengths(meters: Meters, groups: Sequence[Group]) -> None:
    """Lengths of completions in tokens, and how many were cut off."""
    completions = [c for group in groups for c in group.completions]
    meters.add("completions/mean_length", [float(len(c.token_ids)) for c in completions])
    meters.add("completions/clipped_ratio", [float(c.truncated) for c in completions])


def note_tokens(meters: Meters, part: MicroBatch, scored: TokenLogprobs, loss: GrpoLoss) -> None:
    """What the tokens of a micro-batch that count in the loss tell of the update."""
    counted = part.weights > 0
    n = int(counted.sum())
    drift = (scored.logprobs.detach() - part.sampled).abs()
    values = {
        "kl": loss.kl,
        "entropy": scored.entropy,
        "clip_ratio/low_mean": loss.clipped_low.float(),
        "clip_ratio/high_mean": loss.clipped_high.float(),
        "clip_ratio/region_mean": (loss.clipped_low | loss.clipped_high).float(),
        "logprob_drift": drift if part.old is None else None,
    }
    for name, value in values.items():
        if value is not None:
            meters.add_sum(name, value[counted].double().sum().item(), n)
