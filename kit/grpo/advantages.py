"""Advantages: how much better a completion is than the others of its group."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

ScaleRewards = Literal["group", "batch", "none"]

EPSILON = 1e-4  # TRL's, so that a tiny spread is not blown up


def group_advantages(
    rewards_PG: Tensor, *, scale: ScaleRewards = "group", batch_std: float | None = None
) -> Tensor:
    """Rewards less their group's mean, over a standard deviation.

    Args:
        rewards_PG: (groups, completions) float.
        scale: ``group`` divides by the group's own (unbiased) standard deviation (arXiv
            2402.03300), ``batch`` by ``batch_std``, that of all rewards of the step, ``none`` not
            at all (arXiv 2503.20783).

    Returns:
        The same shape. 0 for every completion of a group whose rewards are all equal.

    >>> import torch
    >>> group_advantages(torch.tensor([[1.0, 3.0]]), scale="none")
    tensor([[-1.,  1.]])
    """
    centred_PG = rewards_PG - rewards_PG.mean(dim=1, keepdim=True)
    centred_PG = centred_PG.masked_fill(has_no_spread(rewards_PG)[:, None], 0.0)
    if scale == "none":
        return centred_PG
    if scale == "batch":
        return centred_PG / (batch_std + EPSILON)
    return centred_PG / (group_std(rewards_PG)[:, None] + EPSILON)


def group_std(rewards_PG: Tensor) -> Tensor:
    """The unbiased standard deviation of each group, (groups,); 0 for groups of one.

    >>> import torch
    >>> group_std(torch.tensor([[1.0, 1.0], [0.0, 2.0]])).tolist()
    [0.0, 1.4142135381698608]
    """
    if rewards_PG.shape[1] < 2:
        return rewards_PG.new_zeros(len(rewards_PG))
    return rewards_PG.std(dim=1)


def has_no_spread(rewards_PG: Tensor) -> Tensor:
    """Which groups hold equal rewards only, but for rounding, (groups,) bool."""
    return rewards_PG.amax(dim=1) - rewards_PG.amin(dim=1) < 1e-6
