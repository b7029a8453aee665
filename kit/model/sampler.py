"""Batched sampling from trees: one prefill a trunk, whose cache its branches share."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kit.model.cache import RowCache, Trunks
from kit.model.decoder import next_hidden
from kit.model.decoding import CHECK, Chooser, Rows, Sampling, forward
from kit.model.logprobs import base_of
from kit.model.processor import PreparedImage, Processor
from kit.model.sharing import Trunk, distinct_images, trunk_positions
from kit.model.vision import encode_images


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
    max_rows: int | None = None,
) -> list[list[Completion]]:
    """Complete every continuation of every prompt.

    Args:
        end_id: the token that ends a completion.
        unsampled_ids: tokens that are never chosen (image, video, padding).
        noise: (completions, max_new_tokens) in [0, 1), what ``temperature > 0`` samples with: token
            ``t`` of completion ``i`` is where the cumulative distribution passes ``noise[i, t]``.
            So a completion does not depend on what is sampled beside it.
        max_rows: completions that are decoded together, except that a prompt's are never parted;
            all by default. Where some have ended, others take their place.

    Returns:
        One list a prompt, one completion a continuation, in order.
    """
    causal_lm = base_of(model)
    device = causal_lm.lm_head.weight.device
    choose = Chooser(sampling, unsampled_ids, device)
    total = sum(len(prompt.continuations) for prompt in prompts)
    if noise is None:
        noise = torch.zeros(total, sampling.max_new_tokens, dtype=torch.float64)
    waiting = _Waiting(prompts, noise, max_rows or total)
    done: dict[int, Completion] = {}
    rows, since_check = None, 0
    with evaluating(model):
        while waiting or rows:
            if fresh := waiting.take(len(rows) if rows else 0):
                rows = _joined(rows, _prefill(causal_lm, *fresh))
            rows.take(choose, end_id)
            since_check += 1
            if since_check == CHECK or max(rows.remaining) == 0:
                since_check = 0
                rows = _let_go(rows, done, end_id, at_least=1 if waiting else len(rows) / 4)
            if rows:
                rows.advance(causal_lm)
    completions = iter(done[number] for number in range(total))
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


def seeded_noise(seeds: Sequence[Sequence[object]], length: int) -> Tensor:
    """Uniform noise for :func:`generate`, a row a seed, (seeds, length) float64; equal seeds give
    equal rows."""
    rows = []
    for seed in seeds:
        digest = hashlib.sha256(repr(tuple(seed)).encode()).digest()
        rng = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        rows.append(torch.rand(length, generator=rng, dtype=torch.float64))
    return torch.stack(rows)


class _Waiting:
    """Prompts that have not begun, in order, with the number of each one's first completion."""

    def __init__(self, prompts: Sequence[Prompt], noise: Tensor, max_rows: int):
        firsts = itertools.accumulate((len(p.continuations) for p in prompts), initial=0)
        pairs = zip(firsts, prompts, strict=False)
        self.queue = collections.deque(pair for pair in pairs if pair[1].continuations)
        self.noise, self.max_rows = noise, max_rows

    def __len__(self) -> int:
        return len(self.queue)

    def take(self, n_rows: int) -> tuple[list[Prompt], list[int], Tensor] | None:
        """The next prompts that find room beside so many rows, the numbers of their completions
        and their noise. Few at a time are not worth a pass of their own."""
        if self.queue and n_rows > self.max_rows * 3 / 4:
            return None
        prompts, numbers = [], []
        while self.queue:
            first, prompt = self.queue[0]
            size = len(prompt.continuations)
            if n_rows and n_rows + size > self.max_rows:
                break
            self.queue.popleft()
            prompts.append(prompt)
            numbers += range(first, first + size)
            n_rows += size
        return (prompts, numbers, self.noise[numbers]) if numbers else None


def _joined(rows: Rows | None, new: Rows) -> Rows:
    return rows.joined(new) if rows else new


def _let_go(
    rows: Rows, done: dict[int, Completion], end_id: int, *, at_least: float
) -> Rows | None:
    """Note the completions that have ended and go on with the others, once they are so many."""
    ended = rows.ended.tolist()
    if sum(ended) < at_least or not any(ended):
        return rows
    gone = [row for row, is_ended in enumerate(ended) if is_ended]
    index = torch.tensor(gone, device=rows.ended.device)
    parts = (rows.n_tokens[index], rows.tokens[index], rows.logprobs[index])
    for row, length, ids, values in zip(gone, *(part.tolist() for part in parts), strict=True):
        ids, values = tuple(ids[:length]), tuple(values[:length])
        done[rows.numbers[row]] = Completion(ids, values, ids[-1] != end_id)
    kept = [row for row, is_ended in enumerate(ended) if not is_ended]
    return rows.select(kept) if kept else None


def _prefill(
    causal_lm: nn.Module, prompts: Sequence[Prompt], numbers: Sequence[int], noise_RN: Tensor
) -> Rows:
    """Trunks once, then their continuations. Each trunk's last token is held back and starts its
    continuations, so that an empty continuation is no special case."""
    device = causal_lm.lm_head.weight.device
    merge_size = causal_lm.config.vision_config.spatial_merge_size
    trunks = [prompt.trunk for prompt in prompts]
    positions = [trunk_positions(trunk, merge_size)[0] for trunk in trunks]

    images = ()
    if seeing := [trunk for trunk in trunks if trunk.pixel_values is not None]:
        keys, pixel_values, grids_I3, image_index = distinct_images(seeing)
        pixel_values = pixel_values.to(device)
        images = encode_images(causal_lm, keys, pixel_values, grids_I3.to(device), image_index)
        del pixel_values
    ids_PT, real_PT = _left_pad([trunk.input_ids[:-1] for trunk in trunks])
    positions_P3T, _ = _left_pad([p[:, :-1] for p in positions])
    n_trunk = ids_PT.shape[1]
    real_PT = real_PT.to(device)
    of_trunks = RowCache(n_trunk)
    forward(
        causal_lm,
        ids_PT.to(device),
        positions_P3T.transpose(0, 1).contiguous().to(device),
        _causal(real_PT, n_trunk),
        of_trunks,
        images,
    )

    owners = [i for i, p in enumerate(prompts) for _ in p.continuations]
    heads = [
        torch.tensor([int(p.trunk.input_ids[-1]), *continuation])
        for p in prompts
        for continuation in p.continuations
    ]
    steps = [
        torch.arange(len(head)) + int(positions[i][0, -1])
        for i, head in zip(owners, heads, strict=True)
    ]
    ids_RL, real_RL = _left_pad(heads)
    steps_RL, _ = _left_pad(steps)
    n_rows, n_new = noise_RN.shape
    trunks = Trunks(of_trunks.layers, real_PT, owners)
    room = real_RL.shape[1] + n_new + CHECK
    cache, real_RL = RowCache(room, trunks), real_RL.to(device)
    if real_RL.shape[1] == 1:
        last_RH = next_hidden(
            causal_lm, ids_RL[:, 0].to(device), steps_RL[:, 0].to(device), real_RL, cache
        )
    else:
        real_RC = torch.cat([real_PT[trunks.owner_R], real_RL], dim=1)
        last_RH = forward(
            causal_lm,
            ids_RL.to(device),
            steps_RL.expand(3, -1, -1).to(device),
            _causal(real_RC, ids_RL.shape[1]),
            cache,
        )[:, -1]
    return Rows(
        numbers=list(numbers),
        remaining=[n_new] * n_rows,
        cache=cache,
        visible=nn.functional.pad(real_RL, (0, n_new + CHECK)),
        position=steps_RL[:, -1].to(device) + 1,
        logits=causal_lm.lm_head(last_RH),
        last=ids_RL[:, -1].to(device),
        tokens=torch.zeros(n_rows, n_new, dtype=torch.int64, device=device),
        logprobs=torch.zeros(n_rows, n_new, device=device),
        n_tokens=torch.zeros(n_rows, dtype=torch.int64, device=device),
        ended=torch.zeros(n_rows, dtype=torch.bool, device=device),
        noise=noise_RN.to(device),
    )


def _causal(real_RC: Tensor, n_last: int) -> Tensor:
    """What the last tokens of rows may see, (R, n_last, C) bool: what is real and not later than
    they; padding sees itself, so that no row of the softmax is empty."""
    n_columns = real_RC.shape[1]
    column_C = torch.arange(n_columns, device=real_RC.device)
    query_L1 = column_C[n_columns - n_last :, None]
    return (real_RC[:, None] & (column_C <= query_L1)) | (column_C == query_L1)


def _left_pad(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad (..., n) tensors on the left to one length; the batch comes first. Also which places
    are real, (rows, length) bool."""
    length = max(row.shape[-1] for row in rows)
    padded = [torch.nn.functional.pad(row, (length - row.shape[-1], 0)) for row in rows]
    real = torch.tensor([[i >= length - row.shape[-1] for i in range(length)] for row in rows])
    return torch.stack(padded), real
