"""The language model's head, scoring targets in chunks, so that logits of the whole vocabulary
stand for a few targets at a time: at 151,936 entries those of 4,096 targets take 9 GiB with what
is computed from them, twelve times the rest of an update."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

CHUNK = 2**25  # logits that stand at once (128 MiB in float32)


# log-probabilities (K,) in float32 at least, and on request whether each target has the largest and
# the entropy of its distribution
Scores = tuple[Tensor, Tensor | None, Tensor | None]


class ScoringHead(nn.Linear):
    """A head that scores targets where it is given some, and is a plain one otherwise.

    All chunks are one call of the module, so under ZeRO-3 its weight is gathered once for them.

    Attributes:
        in_float32: logits are computed in float32 at least, whatever the type of the weight, and
            are not rounded to that (at 16 to 32, bfloat16 knows eighths); under autocast too.
    """

    in_float32 = False

    @staticmethod
    def of(head: nn.Linear) -> ScoringHead:
        """The same head, with weights and hooks, made one of these."""
        if type(head) is nn.Linear:
            head.__class__ = ScoringHead
        return head

    def forward(
        self,
        hidden_KH: Tensor,
        target_ids_K: Tensor | None = None,
        temperature: float = 1.0,
        entropy: bool = False,
        argmax: bool = False,
    ) -> Tensor | Scores:
        if not self.in_float32:
            return self._of(hidden_KH, self.weight, target_ids_K, temperature, entropy, argmax)
        with _without_autocast(hidden_KH.device.type):
            wide = (_at_least_float32(tensor) for tensor in (hidden_KH, self.weight))
            return self._of(*wide, target_ids_K, temperature, entropy, argmax)

    def _of(
        self, hidden_KH, weight_VH, target_ids_K, temperature, entropy, argmax
    ) -> Tensor | Scores:
        if target_ids_K is None:
            return linear(hidden_KH, weight_VH, self.bias)
        if not torch.is_grad_enabled():
            score = _scores
        elif weight_VH.requires_grad:
            score = _recomputed_scores
        else:
            score = _FrozenScores.apply
        rows = max(1, CHUNK // self.out_features)
        parts = [
            score(hidden_CH, weight_VH, ids_C, temperature, entropy, argmax)
            for hidden_CH, ids_C in zip(
                hidden_KH.split(rows), target_ids_K.split(rows), strict=True
            )
        ]
        columns = zip(*parts, strict=True)
        return tuple(None if column[0] is None else torch.cat(column) for column in columns)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _without_autocast(device: str):
    known = torch.amp.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if known else contextlib.nullcontext()


def _scores(hidden_CH, weight_VH, ids_C, temperature, entropy, argmax) -> Scores:
    return _scores_of(_logits(hidden_CH, weight_VH, temperature), ids_C, entropy, argmax)


def _scores_of(logits_CV: Tensor, ids_C: Tensor, entropy: bool, argmax: bool) -> Scores:
    total_C = logits_CV.logsumexp(dim=1)
    logprobs_C = logits_CV.gather(1, ids_C[:, None])[:, 0] - total_C
    is_argmax_C = entropy_C = None
    with torch.no_grad():
        if argmax:
            is_argmax_C = logits_CV.argmax(dim=1) == ids_C
        if entropy:
            entropy_C = total_C - (logits_CV.softmax(dim=1).mul_(logits_CV)).sum(dim=1)
    return logprobs_C, is_argmax_C, entropy_C


def _recomputed_scores(*args) -> Scores:
    return checkpoint(_scores, *args, use_reentrant=False, preserve_rng_state=False)


def _logits(hidden_CH: Tensor, weight_VH: Tensor, temperature: float) -> Tensor:
    """In float32 at least."""
    logits_CV = _at_least_float32(linear(hidden_CH, weight_VH))
    return logits_CV if temperature == 1 else logits_CV / temperature


class _FrozenScores(torch.autograd.Function):
    """``_scores`` of a head that is not trained: what a target's log-probability changes by with
    its hidden state, ``weight[target] - sum_v p_v weight[v]``, does not depend on what comes after
    and is computed with it, so that the backward computes no logits again."""

    @staticmethod
    def forward(ctx, hidden_CH, weight_VH, ids_C, temperature, entropy, argmax):
        logits_CV = _logits(hidden_CH, weight_VH, temperature)
        scores = _scores_of(logits_CV, ids_C, entropy, argmax)
        if ctx.needs_input_grad[0]:
            chances_CV = logits_CV.softmax(dim=1)
            del logits_CV
            mean_CH = chances_CV.to(hidden_CH.dtype) @ weight_VH
            slope_CH = weight_VH[ids_C].to(mean_CH.dtype) - mean_CH
            ctx.save_for_backward(slope_CH / temperature)
        ctx.mark_non_differentiable(*(each for each in scores[1:] if each is not None))
        ctx.dtype = hidden_CH.dtype
        return scores

    @staticmethod
    def backward(ctx, grad_C, *_):
        (slope_CH,) = ctx.saved_tensors
        return (grad_C[:, None] * slope_CH).to(ctx.dtype), *[None] * 5
