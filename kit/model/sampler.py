"""Batched sampling from trees: one prefill a trunk, its cache repeated for the branches."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.generation.logits_process import (
    LogitsProcessorList,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from kit.model.logprobs import qwen2vl_of
from kit.model.processor import PreparedImage, Processor
from kit.model.sharing import Trunk, distinct_images, trunk_positions
from kit.model.vision import encode_images


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 are off."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True)
class Prompt:
    """A trunk and the prompts that continue it, one completion each (token ids; may be empty)."""

    trunk: Trunk
    continuations: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Completion:
    """``token_ids`` with the end of the turn if it was reached, ``logprobs`` (float32, under the
    sampling distribution before top-k and top-p) of the same length, and whether the token limit
    cut it off."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    truncated: bool


def question_prompt(
    processor: Processor, image: PreparedImage | None, questions: Sequence[str], mode: str
) -> Prompt:
    """The prompt that asks ``questions`` of one image (or of none), each to be answered once."""
    asked = tuple(tuple(processor.encode_question(question, mode)) for question in questions)
    return Prompt(processor.encode_trunk(image, mode), asked)


@torch.no_grad()
def generate(
    model: nn.Module,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    end_id: int,
    unsampled_ids: Sequence[int],
    noise: Tensor | None = None,
) -> list[list[Completion]]:
    """Complete every continuation of every prompt in one batch.

    Args:
        end_id: the token that ends a completion.
        unsampled_ids: tokens that are never chosen (image, video, padding).
        noise: (completions, max_new_tokens) in [0, 1), what ``temperature > 0`` samples with: token
            ``t`` of completion ``i`` is where the cumulative distribution passes ``noise[i, t]``.
            So a completion does not depend on what is sampled beside it.

    Returns:
        One list a prompt, one completion a continuation, in order.
    """
    with evaluating(model):
        state = _prefill(model, prompts)
        choose = _Chooser(sampling, unsampled_ids)
        rows = _decode(model, state, choose, noise, sampling.max_new_tokens, end_id)
    completions = iter(rows)
    return [[next(completions) for _ in prompt.continuations] for prompt in prompts]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while. In training mode, activation checkpointing silently drops the
    cache of a cached forward."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@dataclass
class _State:
    """One row a continuation: the cache, which of its places are real (R, C) bool, the next
    position (R,) int64, and the logits (R, V) of the next token."""

    cache: DynamicCache
    attention_mask_RC: Tensor
    position_R: Tensor
    logits_RV: Tensor

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.attention_mask_RC = self.attention_mask_RC[rows]
        self.position_R = self.position_R[rows]


def seeded_noise(seeds: Sequence[Sequence[object]], length: int) -> Tensor:
    """Uniform noise for :func:`generate`, a row a seed, (seeds, length) float64; equal seeds give
    equal rows."""
    rows = []
    for seed in seeds:
        digest = hashlib.sha256(repr(tuple(seed)).encode()).digest()
        rng = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        rows.append(torch.rand(length, generator=rng, dtype=torch.float64))
    return torch.stack(rows)


class _Chooser:
    def __init__(self, sampling: Sampling, unsampled_ids):
        self.greedy = sampling.temperature == 0
        self.suppress = (
            SuppressTokensLogitsProcessor(list(unsampled_ids)) if unsampled_ids else None
        )
        self.scale = None if self.greedy else TemperatureLogitsWarper(float(sampling.temperature))
        self.cut = LogitsProcessorList()
        if sampling.top_k:
            self.cut.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self.cut.append(TopPLogitsWarper(sampling.top_p))

    def __call__(self, logits_RV: Tensor, uniform_R: Tensor | None) -> tuple[Tensor, Tensor]:
        """Next tokens (R,) int64 and their log-probabilities (R,) float32."""
        scores_RV = logits_RV.float()
        if self.scale is not None:
            scores_RV = self.scale(None, scores_RV)
        logprobs_RV = scores_RV.log_softmax(dim=-1)
        if self.suppress is not None:
            scores_RV = self.suppress(None, scores_RV)
        if self.greedy:
            tokens_R = scores_RV.argmax(dim=-1)
        else:
            cumulative_RV = self.cut(None, scores_RV).softmax(dim=-1).double().cumsum(dim=-1)
            # below the total, so that rounding never leads past the last token with a chance
            wanted_R1 = uniform_R[:, None] * cumulative_RV[:, -1:] * (1 - 1e-12)
            tokens_R = torch.searchsorted(cumulative_RV, wanted_R1, right=True)[:, 0]
        return tokens_R, logprobs_RV.gather(1, tokens_R[:, None])[:, 0]


def _prefill(model: nn.Module, prompts: Sequence[Prompt]) -> _State:
    """Trunks once, then their continuations. Each trunk's last token is held back and starts its
    continuations, so that an empty continuation is no special case."""
    causal_lm = qwen2vl_of(model)
    device = causal_lm.lm_head.weight.device
    merge_size = causal_lm.config.vision_config.spatial_merge_size
    trunks = [prompt.trunk for prompt in prompts]
    positions = [trunk_positions(trunk, merge_size)[0] for trunk in trunks]

    images = None
    if seeing := [trunk for trunk in trunks if trunk.pixel_values is not None]:
        keys, pixel_values, grids_I3, image_index = distinct_images(seeing)
        patches, grids_I3 = pixel_values.to(device), grids_I3.to(device)
        images = encode_images(causal_lm, keys, patches, grids_I3, image_index)
    cache = DynamicCache(config=causal_lm.config.get_text_config())
    ids_PT, trunk_mask_PT = _left_pad([trunk.input_ids[:-1] for trunk in trunks])
    positions_P3T, _ = _left_pad([p[:, :-1] for p in positions])
    causal_lm.model(
        input_ids=ids_PT.to(device),
        attention_mask=trunk_mask_PT.to(device),
        position_ids=positions_P3T.transpose(0, 1).contiguous().to(device),
        mm_encoder_outputs=images,
        past_key_values=cache,
        use_cache=True,
    )

    owner_R = torch.tensor([i for i, p in enumerate(prompts) for _ in p.continuations])
    heads = [
        torch.tensor([int(p.trunk.input_ids[-1]), *continuation])
        for p in prompts
        for continuation in p.continuations
    ]
    steps = [
        torch.arange(len(head)) + int(positions[i][0, -1])
        for i, head in zip(owner_R, heads, strict=True)
    ]
    ids_RL, head_mask_RL = _left_pad(heads)
    steps_RL, _ = _left_pad(steps)
    cache.batch_select_indices(owner_R.to(device))
    attention_mask_RC = torch.cat([trunk_mask_PT[owner_R], head_mask_RL], dim=1).to(device)
    hidden_RH = causal_lm.model(
        input_ids=ids_RL.to(device),
        attention_mask=attention_mask_RC,
        position_ids=steps_RL.expand(3, -1, -1).to(device),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state[:, -1]
    next_R = steps_RL[:, -1].to(device) + 1
    return _State(cache, attention_mask_RC, next_R, causal_lm.lm_head(hidden_RH))


def _decode(
    model: nn.Module,
    state: _State,
    choose: _Chooser,
    noise: Tensor | None,
    max_new_tokens: int,
    end_id: int,
) -> list[Completion]:
    """Token by token; rows that have ended leave the batch once they are a quarter of it."""
    causal_lm = qwen2vl_of(model)
    n_rows, device = len(state.position_R), state.position_R.device
    tokens: list[list[int]] = [[] for _ in range(n_rows)]
    logprobs: list[list[float]] = [[] for _ in range(n_rows)]
    row_of_R = torch.arange(n_rows)
    ended_R = torch.zeros(n_rows, dtype=torch.bool)
    for step in range(max_new_tokens):
        uniform_R = None if noise is None else noise[row_of_R, step].to(device)
        chosen_R, chosen_logprobs_R = choose(state.logits_RV, uniform_R)
        for place, (token, logprob) in enumerate(
            zip(chosen_R.tolist(), chosen_logprobs_R.tolist(), strict=True)
        ):
            if not ended_R[place]:
                tokens[row_of_R[place]].append(token)
                logprobs[row_of_R[place]].append(logprob)
                ended_R[place] = token == end_id
        if ended_R.all() or step == max_new_tokens - 1:
            break
        if ended_R.float().mean() >= 0.25:
            alive = (~ended_R).nonzero().flatten()
            state.keep(alive.to(device))
            row_of_R, ended_R = row_of_R[alive], ended_R[alive]
            chosen_R = chosen_R[alive.to(device)]
        one_more = state.attention_mask_RC.new_ones(len(chosen_R), 1)
        state.attention_mask_RC = torch.cat([state.attention_mask_RC, one_more], dim=1)
        hidden_RH = causal_lm.model(
            input_ids=chosen_R[:, None],
            attention_mask=state.attention_mask_RC,
            position_ids=state.position_R.expand(3, 1, -1).transpose(1, 2),
            past_key_values=state.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        state.logits_RV = causal_lm.lm_head(hidden_RH)
        state.position_R = state.position_R + 1
    return [
        Completion(tuple(ids), tuple(values), ids[-1] != end_id)
        for ids, values in zip(tokens, logprobs, strict=True)
    ]


def _left_pad(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad (..., n) tensors on the left to one length; the batch comes first. Also which places
    are real, (rows, length) bool."""
    length = max(row.shape[-1] for row in rows)
    padded = [torch.nn.functional.pad(row, (length - row.shape[-1], 0)) for row in rows]
    real = torch.tensor([[i >= length - row.shape[-1] for i in range(length)] for row in rows])
    return torch.stack(padded), real
