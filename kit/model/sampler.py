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
    """One row a continuation: the cache, which of its places are real (rows, seen) bool, the
    next position (rows,), and the logits (rows, vocabulary) of the next token."""

    cache: DynamicCache
    seen: Tensor
    position: Tensor
    logits: Tensor

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.seen, self.position = self.seen[rows], self.position[rows]


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

    def __call__(self, logits: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Next tokens (rows,) and their log-probabilities (rows,); ``noise`` (rows,)."""
        scores = logits.float()
        if self.scale is not None:
            scores = self.scale(None, scores)
        logprobs = scores.log_softmax(dim=-1)
        if self.suppress is not None:
            scores = self.suppress(None, scores)
        if self.greedy:
            tokens = scores.argmax(dim=-1)
        else:
            cumulative = self.cut(None, scores).softmax(dim=-1).double().cumsum(dim=-1)
            # below the total, so that rounding never leads past the last token with a chance
            wanted = noise[:, None] * cumulative[:, -1:] * (1 - 1e-12)
            tokens = torch.searchsorted(cumulative, wanted, right=True)[:, 0]
        return tokens, logprobs.gather(1, tokens[:, None])[:, 0]


def _prefill(model: nn.Module, prompts: Sequence[Prompt]) -> _State:
    """Trunks once, then their continuations. Each trunk's last token is held back and starts its
    continuations, so that an empty continuation is no special case."""
    causal_lm = qwen2vl_of(model)
    device = causal_lm.lm_head.weight.device
    merge_size = causal_lm.config.vision_config.spatial_merge_size
    trunks = [prompt.trunk for prompt in prompts]
    positions = [trunk_positions(trunk, merge_size)[0] for trunk in trunks]
    seeing = [trunk for trunk in trunks if trunk.pixel_values is not None]
    shown = None
    if seeing:
        pixel_values, grids, image_index = distinct_images(seeing)
        images = causal_lm.model.get_image_features(
            pixel_values.to(device), grids.to(device), return_dict=True
        )
        images.pooler_output = tuple(images.pooler_output[i] for i in image_index.tolist())
        shown = {"image": images}

    ids, seen = _left_pad([trunk.input_ids[:-1] for trunk in trunks])
    places, _ = _left_pad([p[:, :-1] for p in positions])
    cache = DynamicCache(config=causal_lm.config.get_text_config())
    causal_lm.model(
        input_ids=ids.to(device),
        attention_mask=seen.to(device),
        position_ids=places.transpose(0, 1).contiguous().to(device),
        mm_encoder_outputs=shown,
        past_key_values=cache,
        use_cache=True,
    )
    owner = torch.tensor([i for i, p in enumerate(prompts) for _ in p.continuations])
    heads = [
        torch.tensor([int(p.trunk.input_ids[-1]), *continuation])
        for p in prompts
        for continuation in p.continuations
    ]
    steps = [
        torch.arange(len(head)) + int(positions[i][0, -1])
        for i, head in zip(owner, heads, strict=True)
    ]
    head_ids, head_seen = _left_pad(heads)
    head_steps, _ = _left_pad(steps)
    cache.batch_select_indices(owner.to(device))
    seen = torch.cat([seen[owner], head_seen], dim=1).to(device)
    hidden = causal_lm.model(
        input_ids=head_ids.to(device),
        attention_mask=seen,
        position_ids=head_steps.expand(3, -1, -1).to(device),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state[:, -1]
    return _State(cache, seen, head_steps[:, -1].to(device) + 1, causal_lm.lm_head(hidden))


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
    n_rows, device = len(state.position), state.position.device
    tokens: list[list[int]] = [[] for _ in range(n_rows)]
    logprobs: list[list[float]] = [[] for _ in range(n_rows)]
    row_of = torch.arange(n_rows)
    ended = torch.zeros(n_rows, dtype=torch.bool)
    for step in range(max_new_tokens):
        uniform = None if noise is None else noise[row_of, step].to(device)
        chosen, chosen_logprobs = choose(state.logits, uniform)
        for place, (token, logprob) in enumerate(
            zip(chosen.tolist(), chosen_logprobs.tolist(), strict=True)
        ):
            if not ended[place]:
                tokens[row_of[place]].append(token)
                logprobs[row_of[place]].append(logprob)
                ended[place] = token == end_id
        if ended.all() or step == max_new_tokens - 1:
            break
        if ended.float().mean() >= 0.25:
            alive = (~ended).nonzero().flatten()
            state.keep(alive.to(device))
            row_of, ended, chosen = row_of[alive], ended[alive], chosen[alive.to(device)]
        state.seen = torch.cat([state.seen, state.seen.new_ones(len(chosen), 1)], dim=1)
        hidden = causal_lm.model(
            input_ids=chosen[:, None],
            attention_mask=state.seen,
            position_ids=state.position.expand(3, 1, -1).transpose(1, 2),
            past_key_values=state.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        state.logits = causal_lm.lm_head(hidden)
        state.position = state.position + 1
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
