"""From a model and packed trees to token log-probabilities: the only function that does this."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kit.model.sharing import PackedBatch


@dataclass(frozen=True)
class TokenLogprobs:
    """``logprobs`` (K,) float32 of the targets of a batch in order, ``is_argmax`` (K,) bool,
    whether greedy decoding would have chosen the target, and on request ``entropy`` (K,) float32
    (nats, no gradient) of the distribution that it was chosen from."""

    logprobs: Tensor
    is_argmax: Tensor
    entropy: Tensor | None = None


def qwen2vl_of(model: nn.Module) -> nn.Module:
    """The ``Qwen2VLForConditionalGeneration`` inside a PEFT or plain model.

    LoRA layers are injected in place, so calling its parts runs them with the adapter.
    """
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def encode_images(
    model: nn.Module, pixel_values: Tensor, grids_I3: Tensor, image_index: Tensor
) -> dict:
    """Run the vision tower once a distinct image (``kit.model.sharing.distinct_images``); returns
    what ``mm_encoder_outputs`` takes, an image a row of ``image_index``."""
    inner = qwen2vl_of(model).model
    output = inner.get_image_features(pixel_values, grids_I3, return_dict=True)
    output.pooler_output = tuple(output.pooler_output[i] for i in image_index.tolist())
    return {"image": output}


def token_logprobs(
    model: nn.Module, batch: PackedBatch, *, temperature: float = 1.0, entropy: bool = False
) -> TokenLogprobs:
    """Log-probabilities of the targets of packed trees.

    Logits are computed only where a target is predicted, and reduced in float32 (in float64 where
    the model is).
    """
    causal_lm = qwen2vl_of(model)
    hidden_BSH = causal_lm.model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        attention_mask=batch.attention_mask,
        mm_encoder_outputs=encode_images(
            model, batch.pixel_values, batch.image_grid_thw, batch.image_index
        ),
        use_cache=False,
    ).last_hidden_state
    logits_KV = causal_lm.lm_head(hidden_BSH.flatten(0, 1)[batch.predictor_index])
    logits_KV = logits_KV.to(torch.promote_types(logits_KV.dtype, torch.float32)) / temperature
    chosen_K = logits_KV.gather(1, batch.target_ids[:, None])[:, 0]
    total_K = logits_KV.logsumexp(dim=1)
    entropy_K = None
    with torch.no_grad():
        is_argmax_K = logits_KV.argmax(dim=1) == batch.target_ids
        if entropy:
            entropy_K = total_K - (logits_KV.softmax(dim=1) * logits_KV).sum(dim=1)
    return TokenLogprobs(chosen_K - total_K, is_argmax_K, entropy_K)


class LogprobModel(nn.Module):
    """``token_logprobs`` as a module, so that DDP and DeepSpeed wrap what the loss really calls."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(
        self, batch: PackedBatch, temperature: float = 1.0, entropy: bool = False
    ) -> TokenLogprobs:
        return token_logprobs(self.model, batch, temperature=temperature, entropy=entropy)
