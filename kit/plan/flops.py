"""What an update computes, counted on torch's meta device."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kit.model.logprobs import LogprobModel, base_of
from kit.model.sharing import PackedBatch
from kit.plan.torch_internals import LiveBytes, attention_by


def update_flops(model: nn.Module, batch: PackedBatch) -> int:
    """Of a forward with entropy and a backward of a model on the meta device, in matrix products;
    those of attention among them, which no kernel may hide. A frozen tower that has seen the
    images does not run again, so a second call may count less."""
    batch = dataclasses.replace(batch, pixel_values=batch.pixel_values.to("meta"))
    n_image = int((batch.input_ids == base_of(model).config.image_token_id).sum())
    counter = FlopCounterMode(display=False)
    one_thread = torch.autograd.set_multithreading_enabled(False)
    with one_thread, attention_by(_products), counter, LiveBytes(0, n_image):
        LogprobModel(model)(batch, entropy=True).logprobs.sum().backward()
    return counter.get_total_flops()


def _products(query: Tensor, key: Tensor, value: Tensor, attn_mask=None, **_) -> Tensor:
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    return (query @ key.transpose(-1, -2)) @ value
