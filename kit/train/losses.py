"""Losses: pure functions of log-probabilities, in float32."""

from __future__ import annotations

from torch import Tensor


def sft_loss(logprobs: Tensor, normaliser: float) -> Tensor:
    """Negative log-likelihood of the supervised tokens over a global count of them.

    ``logprobs`` (K,) of one micro-batch; ``normaliser`` the number of supervised tokens of all
    micro-batches and ranks of the step, so that the sum of micro-batch losses is the mean over
    tokens and the gradient does not depend on how the batch is split.

    >>> import torch
    >>> whole = torch.tensor([-1.0, -3.0, -2.0])
    >>> float(sft_loss(whole, 3)), float(sft_loss(whole[:2], 3) + sft_loss(whole[2:], 3))
    (2.0, 2.0)
    """
    return -logprobs.float().sum() / normaliser
