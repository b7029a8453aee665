"""Losses: pure functions of log-probabilities, in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LossType = Literal["grpo", "dr_grpo", "bnpo", "dapo", "cispo"]
CorrectionMode = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


def token_weights(
    owner_K: Tensor,
    counted_N: Tensor,
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
      latter, since a gradient should not depend on how a batch is split. ``cispo`` too.

    Args:
        owner_K: (K,) int64, the completion of each token, counted from 0 in this batch.
        counted_N: (completions,) bool, which completions of this batch the loss is of (a truncated
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
    lengths_N = torch.bincount(owner_K, minlength=len(counted_N)).clamp(min=1)
    if loss_type == "grpo":
        each_N = 1 / (lengths_N * n_completions)
    elif loss_type == "dr_grpo":
        each_N = torch.full_like(
            lengths_N, 1 / (n_completions * max_completion_length), dtype=float
        )
    else:
        each_N = torch.full_like(lengths_N, 1 / max(1, n_tokens), dtype=float)
    return (each_N * counted_N)[owner_K].float()


def importance_weights(
    old_K: Tensor,
    sampled_K: Tensor,
    cap: float,
    *,
    least: float = 0.0,
    mode: CorrectionMode = "token_truncate",
    owner_K: Tensor | None = None,
) -> Tensor | None:
    """How many times as likely each token (``sequence_``: its whole completion, by ``owner_K``)
    was under the policy as under the sampler, (K,) without gradient; None where ``cap`` is 0.

    What lies outside of ``least`` to ``cap`` is cut to it (``_truncate``, truncated importance
    sampling, Yao et al. 2025) or counts 0 (``_mask``, masked importance sampling): TRL's
    ``vllm_importance_sampling_mode``, ``_clip_min`` and ``_clip_max``.

    >>> log_ratio, owner = torch.tensor([0.5, 2.0, 3.0]).log(), torch.tensor([0, 0, 1])
    >>> for mode in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"):
    ...     weights = importance_weights(log_ratio, 0 * log_ratio, 2.5, mode=mode, owner_K=owner)
    ...     print([round(weight, 3) for weight in weights.tolist()])
    [0.5, 2.0, 2.5]
    [0.5, 2.0, 0.0]
    [1.0, 1.0, 2.5]
    [1.0, 1.0, 0.0]
    """
    if not cap:
        return None
    log_ratio_K = old_K.detach() - sampled_K
    if mode.startswith("sequence"):
        sums_N = torch.zeros_like(log_ratio_K).index_add(0, owner_K, log_ratio_K)
        log_ratio_K = sums_N[owner_K]
    ratio_K = torch.exp(log_ratio_K)
    if mode.endswith("truncate"):
        return ratio_K.clamp(least, cap)
    return ratio_K.masked_fill((ratio_K < least) | (ratio_K > cap), 0.0)


def ratios(log_ratio_K: Tensor, owner_K: Tensor | None = None) -> Tensor:
    """How many times as likely each token became, (K,), by log-ratios (K,); with ``owner_K``, the
    completion of each, that of its whole completion: the geometric mean over its tokens (GSPO,
    arXiv 2507.18071), with its gradient.

    >>> log_ratio = torch.tensor([0.0, 2.0, 1.0]).log1p()
    >>> [round(ratio, 3) for ratio in ratios(log_ratio, torch.tensor([0, 0, 1])).tolist()]
    [1.732, 1.732, 2.0]
    """
    if owner_K is not None and len(owner_K):
        counts_N = torch.bincount(owner_K)
        sums_N = log_ratio_K.new_zeros(len(counts_N)).index_add(0, owner_K, log_ratio_K)
        log_ratio_K = (sums_N / counts_N.clamp(min=1))[owner_K]
    return torch.exp(log_ratio_K)


@dataclass(frozen=True)
class GrpoLoss:
    """``loss`` is a scalar with its gradient. The others are (K,) without: ``kl`` the KL term
    (None without a reference), ``clipped_low`` and ``clipped_high`` bool, where the clip took the
    gradient away (of cispo: where the weight was cut)."""

    loss: Tensor
    kl: Tensor | None
    clipped_low: Tensor
    clipped_high: Tensor


def grpo_loss(
    logprobs_K: Tensor,
    old_K: Tensor,
    reference_K: Tensor | None,
    advantages_K: Tensor,
    weights_K: Tensor,
    *,
    epsilon: float,
    epsilon_high: float,
    beta: float,
    bias_correction: bool = True,
    correction_K: Tensor | None = None,
    owner_K: Tensor | None = None,
    kept_K: Tensor | None = None,
    delta: float | None = None,
    cispo: bool = False,
) -> GrpoLoss:
    """The clipped policy objective with a KL penalty (arXiv 2402.03300, equations 3 and 4).

    All of shape (K,), a value a token; ``old_K`` are the log-probabilities of the policy that
    sampled, ``reference_K`` those of the one not to stray from (None leaves the penalty out),
    ``weights_K`` as :func:`token_weights` gives them, ``correction_K`` as
    :func:`importance_weights` does, where another model sampled than the policy. The ratio is
    clipped to ``1 - epsilon`` and ``1 + epsilon_high``; the KL estimate is k3,
    ``exp(r) - r - 1`` with ``r`` the reference's log-probability less the policy's (Schulman 2020).

    The gradient of k3 alone is, where the policy itself sampled, that of KL(reference||policy).
    With ``bias_correction`` k3 is multiplied by the ratio, unclipped and with its gradient: then
    it is that of KL(policy||reference) (DeepSeek-V3.2, arXiv 2512.02556, as TRL's
    ``use_bias_correction_kl``).

    ``owner_K``, as :func:`ratios` takes it, makes the ratio that of the whole completion.
    ``kept_K`` (bool) says which tokens the policy term counts; the KL penalty is of all. ``delta``
    bounds the unclipped ratio too, which the clip leaves free where the advantage is negative
    (two-sided clipping, INTELLECT-2, arXiv 2505.07291). ``cispo`` cuts the ratio at
    ``epsilon_high`` (not 1 more) and takes it as a weight without gradient, so that no token's
    gradient is lost (MiniMax-M1, arXiv 2506.13585).

    >>> one = torch.zeros(1)
    >>> float(grpo_loss(one, one, None, one + 2, one + 1,
    ...                 epsilon=0.2, epsilon_high=0.2, beta=0.0).loss)
    -2.0
    """
    logprobs_K = logprobs_K.float()
    ratio_K = ratios(logprobs_K - old_K, owner_K)
    lowest, highest = (0.0, epsilon_high) if cispo else (1 - epsilon, 1 + epsilon_high)
    if cispo:
        losses_K = -ratio_K.detach().clamp(max=highest) * advantages_K * logprobs_K
    else:
        clipped_K = ratio_K.clamp(lowest, highest)
        bounded_K = ratio_K if delta is None else ratio_K.clamp(max=delta)
        losses_K = -torch.min(bounded_K * advantages_K, clipped_K * advantages_K)
    if kept_K is not None:
        losses_K = losses_K * kept_K
    if correction_K is not None:
        losses_K = losses_K * correction_K
    kl_K = None
    if reference_K is not None:
        log_ratio_K = reference_K - logprobs_K
        kl_K = torch.exp(log_ratio_K) - log_ratio_K - 1
        if bias_correction:
            kl_K = kl_K * ratio_K
        losses_K = losses_K + beta * kl_K
    return GrpoLoss(
        loss=(losses_K * weights_K).sum(),
        kl=None if kl_K is None else kl_K.detach(),
        clipped_low=(ratio_K < lowest) & (advantages_K < 0),
        clipped_high=(ratio_K > highest) & (advantages_K > 0),
    )
