"""Losses: pure functions of log-probabilities, in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LossType = Literal["grpo", "dr_grpo", "bnpo", "dapo"]


def token_weights(
    owner: Tensor,
    counted: Tensor,
    *,
    loss_type: LossType,
    n_completions: float,
    n_tokens: float,
    max_completion_length: int,
) -> Tensor:
    """What each token counts in the loss, (K,) float32: the only thing in which loss types differ.

    - ``grpo``: every completion the same, its tokens share it (DeepSeekMath, arXiv 2402.03300).
    - ``dr_grpo``: every token the same, over the completions and the length that they might have
      had (arXiv 2503.20783).
    - ``dapo`` (arXiv 2503.14476) and ``bnpo``: every token the same, over their number. bnpo
      takes the number in the batch and dapo that in all batches of a step; here both take the
      latter, since a gradient should not depend on how a batch is split.

    Args:
        owner: (K,) int64, the completion of each token, counted from 0 in this batch.
        counted: (completions,) bool, which completions of this batch the loss is of (a truncated
            one may not be).
        n_completions, n_tokens: numbers in the whole step, over all ranks and micro-batches;
            completions all of them, tokens those of counted completions.

    >>> owner = torch.tensor([0, 0, 1])
    >>> both = torch.tensor([True, True])
    >>> def weights(loss_type):
    ...     return token_weights(owner, both, loss_type=loss_type, n_completions=2, n_tokens=3,
    ...                          max_completion_length=5).tolist()
    >>> weights("grpo"), [round(weight, 3) for weight in weights("dr_grpo")]
    ([0.25, 0.25, 0.5], [0.1, 0.1, 0.1])
    """
    lengths = torch.bincount(owner, minlength=len(counted)).clamp(min=1)
    if loss_type == "grpo":
        each = 1 / (lengths * n_completions)
    elif loss_type == "dr_grpo":
        each = torch.full_like(lengths, 1 / (n_completions * max_completion_length), dtype=float)
    else:
        each = torch.full_like(lengths, 1 / max(1, n_tokens), dtype=float)
    return (each * counted)[owner].float()


@dataclass(frozen=True)
class GrpoLoss:
    """``loss`` is a scalar with its gradient. The others are (K,) without: ``kl`` the k3 estimate
    (None without a reference), ``clipped_low`` and ``clipped_high`` bool, where the clip took the
    gradient away."""

    loss: Tensor
    kl: Tensor | None
    clipped_low: Tensor
    clipped_high: Tensor


def grpo_loss(
    logprobs: Tensor,
    old: Tensor,
    reference: Tensor | None,
    advantages: Tensor,
    weights: Tensor,
    *,
    epsilon: float,
    epsilon_high: float,
    beta: float,
) -> GrpoLoss:
    """The clipped policy objective with a KL penalty (arXiv 2402.03300, equations 3 and 4).

    All of shape (K,), a value a token; ``old`` are the log-probabilities of the policy that
    sampled, ``reference`` those of the one not to stray from (None leaves the penalty out),
    ``weights`` as :func:`token_weights` gives them. The ratio is clipped to ``1 - epsilon`` and
    ``1 + epsilon_high``; the KL estimate is k3, ``exp(r) - r - 1`` with ``r`` the reference's
    log-probability less the policy's (Schulman 2020).

    >>> one = torch.zeros(1)
    >>> float(grpo_loss(one, one, None, one + 2, one + 1,
    ...                 epsilon=0.2, epsilon_high=0.2, beta=0.0).loss)
    -2.0
    """
    logprobs = logprobs.float()
    ratio = torch.exp(logprobs - old)
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon_high)
    losses = -torch.min(ratio * advantages, clipped * advantages)
    kl = None
    if reference is not None:
        log_ratio = reference - logprobs
        kl = torch.exp(log_ratio) - log_ratio - 1
        losses = losses + beta * kl
    return GrpoLoss(
        loss=(losses * weights).sum(),
        kl=None if kl is None else kl.detach(),
        clipped_low=(ratio < 1 - epsilon) & (advantages < 0),
        clipped_high=(ratio > 1 + epsilon_high) & (advantages > 0),
    )
