"""From a model and packed trees to token log-probabilities: the only function that does this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kit.model.attention import mask_for
from kit.model.head import ScoringHead
from kit.model.sharing import PackedBatch
from kit.model.vision import embed, encode_images


@dataclass(frozen=True)
class TokenLogprobs:
    """``logprobs`` (K,) float32 of the targets of a batch in order (float64 where the model is);
    on request ``is_argmax`` (K,) bool, whether greedy decoding would have chosen the target, and
    ``entropy`` (K,) (nats) of the distribution that it was chosen from, both without gradient."""

    logprobs: Tensor
    is_argmax: Tensor | None = None
    entropy: Tensor | None = None

    def first(self, count: int) -> TokenLogprobs:
        """Of the first so many targets."""
        fields = (self.logprobs, self.is_argmax, self.entropy)
        return TokenLogprobs(*(None if field is None else field[:count] for field in fields))


def base_of(model: nn.Module) -> nn.Module:
    """The model of transformers inside a PEFT or plain one (``kit.model.families``).

    LoRA layers are injected in place, so calling its parts runs them with the adapter.
    """
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def token_logprobs(
    model: nn.Module,
    batch: PackedBatch,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    argmax: bool = False,
) -> TokenLogprobs:
    """Log-probabilities of the targets of packed trees.

    Logits are computed only where a target is predicted, for so many targets at a time
    (:mod:`kit.model.head`), and reduced in float32 (in float64 where the model is).
    """
    causal_lm = base_of(model)
    images = encode_images(causal_lm, *batch.images())
    hidden_BSH = causal_lm.model.language_model(
        **embed(causal_lm, batch.input_ids, images),
        **mask_for(causal_lm, batch.tree_mask, batch.group),
        position_ids=batch.position_ids,
        use_cache=False,
    ).last_hidden_state
    hidden_KH = hidden_BSH.flatten(0, 1)[batch.predictor_index]
    head = ScoringHead.of(causal_lm.lm_head)
    return TokenLogprobs(*head(hidden_KH, batch.target_ids, temperature, entropy, argmax))


class LogprobModel(nn.Module):
    """``token_logprobs`` as a module, so that DDP and DeepSpeed wrap what the loss really calls."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, batch: PackedBatch, **options: Any) -> TokenLogprobs:
        return token_logprobs(self.model, batch, **options)
