"""Advantages: how much better a completion is than the others of its group."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

ScaleRewards = Literal["group", "batch", "none"]

EPSILON = 1e-4  # TRL's, so that a tiny spread is not blown up


def group_advantages(
    rewards_PG: Tensor,
    *,
    scale: ScaleRewards = "group",
    batch_std: float | None = None,
    min_std: float = 0.0,
) -> Tensor:
    """Rewards less their group's mean, over a standard deviation.

    Args:
        rewards_PG: (groups, completions) float.
        scale: ``group`` divides by the group's own (unbiased) standard deviation (arXiv
            2402.03300), ``batch`` by ``batch_std``, that of all rewards of the step, ``none`` not
            at all (arXiv 2503.20783).
        min_std: as :func:`has_no_spread` takes it.

    Returns:
        The same shape. 0 for every completion of a group without spread.

    >>> import torch
    >>> group_advantages(torch.tensor([[1.0, 3.0]]), scale="none")
    tensor([[-1.,  1.]])
    """
    centred_PG = rewards_PG - rewards_PG.mean(dim=1, keepdim=True)
    centred_PG = centred_PG.masked_fill(has_no_spread(rewards_PG, min_std)[:, None], 0.0)
    if scale == "none":
        return centred_PG
    if scale == "batch":
        return centred_PG / (batch_std + EPSILON)
    return centred_PG / (group_std(rewards_PG)[:, None] + EPSILON)


def normalised_parts(parts_PGR: Tensor, weights_R: Tensor, *, min_std: float = 0.0) -> Tensor:
    """The weighted sum of reward parts of which each is first normalised within its group, (P, G):
    so that a part that spreads little is not drowned by one that spreads much (GDPO, arXiv
    2601.05242; TRL's ``multi_objective_aggregation`` ``normalize_then_sum``). What a completion
    lacks (NaN) counts as its group's mean; NaN for one that lacks all parts.

    Args:
        parts_PGR: (groups, completions, parts) float, NaN where absent.
        weights_R: what each part counts.
        min_std: a part that spreads less within its group counts 0 there.

    >>> import torch
    >>> parts = torch.tensor([[[1.0, 0.0], [0.0, 0.1]]])
    >>> normalised_parts(parts, torch.tensor([1.0, 1.0])).abs().max() < 0.01
    tensor(True)
    """
    there_PGR = ~parts_PGR.isnan()
    count_PR = there_PGR.sum(dim=1, keepdim=True)
    centred_PGR = (parts_PGR - parts_PGR.nanmean(dim=1, keepdim=True)).nan_to_num(0.0)
    variance_PR = (centred_PGR**2).sum(dim=1, keepdim=True) / (count_PR - 1).clamp(min=1)
    std_PR = variance_PR.sqrt()
    scaled_PGR = (centred_PGR / (std_PR + EPSILON)).masked_fill(std_PR < min_std, 0.0)
    total_PG = (scaled_PGR * weights_R).sum(dim=2)
    return total_PG.masked_fill(~there_PGR.any(dim=2), float("nan"))


def batch_advantages(scores_PG: Tensor, *, batch_mean: float, batch_std: float) -> Tensor:
    """Scores less their mean over the step, over their standard deviation; 0 for what has none
    (NaN).

    >>> import torch
    >>> batch_advantages(torch.tensor([[3.0, float("nan")]]), batch_mean=1.0, batch_std=2 - EPSILON)
    tensor([[1., 0.]])
    """
    return ((scores_PG - batch_mean) / (batch_std + EPSILON)).nan_to_num(0.0)


def group_std(rewards_PG: Tensor) -> Tensor:
    """The unbiased standard deviation of each group, (groups,); 0 for groups of one.

    >>> import torch
    >>> group_std(torch.tensor([[1.0, 1.0], [0.0, 2.0]])).tolist()
    [0.0, 1.4142135381698608]
    """
    if rewards_PG.shape[1] < 2:
        return rewards_PG.new_zeros(len(rewards_PG))
    return rewards_PG.std(dim=1)


def has_no_spread(rewards_PG: Tensor, min_std: float = 0.0) -> Tensor:
    """Which groups hold equal rewards only, but for rounding, or rewards whose standard deviation
    is below ``min_std``, (groups,) bool.

    Scaled by its own group, a difference that means nothing, as of two captions that are as good
    as each other, would push as hard as that of right from wrong.

    >>> import torch
    >>> rewards_PG = torch.tensor([[0.5, 0.5], [0.1245, 0.1353], [0.2, 0.6]])
    >>> has_no_spread(rewards_PG).tolist(), has_no_spread(rewards_PG, min_std=0.02).tolist()
    ([True, False, False], [True, True, False])
    """
    equal_P = rewards_PG.amax(dim=1) - rewards_PG.amin(dim=1) < 1e-6
    return equal_P | (group_std(rewards_PG) < min_std)
