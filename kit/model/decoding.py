"""Decoding rows together: what they have computed so far, the next token of each, and which of them
go on.

Everything that a token needs stays on the device: the host reads once in :data:`CHECK` tokens
which rows have ended, and then lets them go.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from kit.model.cache import RowCache, stacked
from kit.model.decoder import next_hidden
from kit.model.vision import embed

CHECK = 8  # tokens between two looks at which rows have ended


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 are off."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0


def bytes_a_row(config: PretrainedConfig, n_columns: int) -> int:
    """What a row of so many tokens, none of them shared, takes while it is decoded: keys and
    values, a second time while rows are chosen, and its logits and scores.

    Args:
        config: of the language model.
    """
    states = 2 * config.num_hidden_layers * config.num_key_value_heads * head_size(config)
    return 2 * states * n_columns * 4 + 2 * 4 * config.vocab_size


def head_size(config: PretrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


@dataclass
class Rows:
    """R rows that are decoded, up to N tokens each.

    numbers: which completion each is, and remaining: how many more tokens it may have, as the host
    knows them; cache; visible (R, C) bool, which of its columns a row may see; position (R,) int64
    of the next token; logits (R, V) of the next token; last (R,) int64, the token before it;
    tokens (R, N) int64 and logprobs (R, N) float32 so far, n_tokens (R,) int64 of them; ended (R,)
    bool; noise (R, N) float64 in [0, 1), what tokens are drawn with.
    """

    numbers: list[int]
    remaining: list[int]
    cache: RowCache
    visible: Tensor
    position: Tensor
    logits: Tensor
    last: Tensor
    tokens: Tensor
    logprobs: Tensor
    n_tokens: Tensor
    ended: Tensor
    noise: Tensor

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, choose: Chooser, end_id: int) -> None:
        """The next token of each row; those that have ended stay as they are."""
        place_R1 = self.n_tokens.clamp(max=self.tokens.shape[1] - 1)[:, None]
        token_R, logprob_R = choose(self.logits, self.noise.gather(1, place_R1)[:, 0])
        for kept_RN, new_R in ((self.tokens, token_R), (self.logprobs, logprob_R)):
            old_R1 = kept_RN.gather(1, place_R1)
            kept_RN.scatter_(1, place_R1, torch.where(self.ended[:, None], old_R1, new_R[:, None]))
        self.n_tokens = self.n_tokens + ~self.ended
        self.ended = self.ended | (token_R == end_id) | (self.n_tokens == self.tokens.shape[1])
        self.last = token_R
        self.remaining = [left - 1 for left in self.remaining]

    def advance(self, causal_lm: nn.Module) -> None:
        """The logits after the tokens that were taken."""
        used = self.cache.used
        self.visible[:, used] = True
        visible_RC = self.visible[:, : used + 1]
        hidden_RH = next_hidden(causal_lm, self.last, self.position, visible_RC, self.cache)
        self.logits = causal_lm.lm_head(hidden_RH)
        self.position = self.position + 1

    def select(self, rows: Sequence[int]) -> Rows:
        """Some rows, without the columns that none of them sees."""
        index = torch.tensor(rows, device=self.last.device)
        first = int(self.visible[index].any(dim=0).int().argmax())
        return Rows(
            numbers=[self.numbers[row] for row in rows],
            remaining=[self.remaining[row] for row in rows],
            cache=self.cache.taken(rows, first),
            visible=self.visible[index, first:],
            **{name: getattr(self, name)[index] for name in _PER_ROW},
        )

    def joined(self, others: Rows) -> Rows:
        """These and others, so that all end in the same column."""
        filled = [self.cache.used, others.cache.used]
        n_columns = max(filled) + self.tokens.shape[1] + CHECK
        return Rows(
            numbers=self.numbers + others.numbers,
            remaining=self.remaining + others.remaining,
            cache=self.cache.joined(others.cache, n_columns),
            visible=stacked([self.visible, others.visible], 1, filled, max(filled), n_columns),
            **{n: torch.cat([getattr(self, n), getattr(others, n)]) for n in _PER_ROW},
        )


_PER_ROW = ("position", "logits", "last", "tokens", "logprobs", "n_tokens", "ended", "noise")


def forward(
    causal_lm: nn.Module,
    ids_RL: Tensor,
    positions_3RL: Tensor,
    visible_RLC: Tensor,
    cache: RowCache,
    images: Sequence[Tensor] = (),
) -> Tensor:
    """Append tokens to a cache, each of which sees what ``visible_RLC`` (bool) says of its columns
    up to them; their hidden states (R, L, H). ``images``: of ``encode_images``, if they show any.
    """
    text = causal_lm.model.language_model
    hidden_RLH = text(
        **embed(causal_lm, ids_RL, images),
        attention_mask=visible_RLC[:, None],
        position_ids=positions_3RL,
        use_cache=True,
        **{_cache_argument(type(text)): cache},
    ).last_hidden_state
    cache.used += ids_RL.shape[1]
    return hidden_RLH


@functools.cache
def _cache_argument(kind: type[nn.Module]) -> str:
    """What transformers calls the cache: "past_key_values" until 5.24."""
    names = inspect.signature(kind.forward).parameters
    return "cache" if "cache" in names else "past_key_values"


class Chooser:
    """The next tokens of rows."""

    def __init__(self, sampling: Sampling, unsampled_ids: Sequence[int], device: torch.device):
        self.temperature = sampling.temperature
        self.never = torch.tensor(list(unsampled_ids), dtype=torch.int64, device=device)
        self.top_k, self.top_p = sampling.top_k, sampling.top_p

    def __call__(self, logits_RV: Tensor, uniform_R: Tensor) -> tuple[Tensor, Tensor]:
        """Next tokens (R,) int64 and their log-probabilities (R,) float32, of all words and before
        top-k and top-p. ``logits_RV`` is used up."""
        scores_RV = logits_RV.float()
        if self.temperature not in (0, 1):
            scores_RV = scores_RV / self.temperature
        never_R = scores_RV[:, self.never].logsumexp(dim=1)
        scores_RV.index_fill_(1, self.never, -torch.inf)
        if self.temperature:
            largest_R1 = scores_RV.amax(dim=1, keepdim=True)
        else:
            largest_R1, greedy_R1 = scores_RV.max(dim=1, keepdim=True)
        chances_RV = scores_RV.sub_(largest_R1).exp_()  # in place: it is many bytes
        sums_RK = block_sums(chances_RV)
        total_R = torch.logaddexp(sums_RK.sum(dim=1).log().float(), never_R - largest_R1[:, 0])
        if not self.temperature:
            return greedy_R1[:, 0], -total_R
        if self.top_k or self.top_p < 1:
            cut_RV = likeliest(chances_RV, self.top_k, self.top_p)
            token_R = draw(cut_RV, block_sums(cut_RV), uniform_R)
        else:
            token_R = draw(chances_RV, sums_RK, uniform_R)
        return token_R, chances_RV.gather(1, token_R[:, None])[:, 0].log() - total_R


def likeliest(chances_RV: Tensor, top_k: int, top_p: float) -> Tensor:
    """0 for all but the ``top_k`` likeliest words (0: any number), and of these all but the
    likeliest that together have ``top_p`` of the chance (Holtzman et al. 2020). As transformers'
    warpers, whose running sum CUDA refuses under ``full_determinism``.

    >>> likeliest(torch.tensor([[0.1, 0.2, 0.3, 0.4]]), 3, 0.7)
    tensor([[0.0000, 0.0000, 0.3000, 0.4000]])
    """
    sorted_RV = chances_RV.sort(dim=1, descending=True).values
    if top_k:
        sorted_RV[:, top_k:] = 0
    share_R = sorted_RV.new_full((len(sorted_RV),), top_p, dtype=torch.float64)
    last_R = draw(sorted_RV, block_sums(sorted_RV), share_R)
    least_R1 = sorted_RV.gather(1, last_R[:, None])
    return chances_RV.masked_fill(chances_RV < least_R1, 0)


def block_size(n_words: int) -> int:
    """Near the square root, so that there are as many blocks as words in one.

    >>> block_size(151_936), block_size(4)
    (512, 2)
    """
    return 2 ** round(math.log2(n_words) / 2)


def block_sums(chances_RV: Tensor) -> Tensor:
    """Of each block of the vocabulary, (R, K) float64."""
    block = block_size(chances_RV.shape[1])
    n_whole = chances_RV.shape[1] // block * block
    sums_RK = chances_RV[:, :n_whole].unflatten(1, (-1, block)).sum(dim=2)
    rest_R1 = chances_RV[:, n_whole:].sum(dim=1, keepdim=True)
    return torch.cat([sums_RK, rest_R1], dim=1).double()


def draw(chances_RV: Tensor, sums_RK: Tensor, uniform_R: Tensor) -> Tensor:
    """Where the running sum of each row, over its last, passes its number in [0, 1), (R,) int64.

    In two steps: the block of the vocabulary (``sums_RK``: ``block_sums`` of the chances), and the
    word in it. Running sums are products with a triangle of ones, in float64, which are
    deterministic on every device.

    >>> chances = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).expand(4, -1)
    >>> uniform = torch.tensor([0.09, 0.11, 0.31, 0.999], dtype=torch.float64)
    >>> draw(chances, block_sums(chances), uniform).tolist()
    [0, 1, 2, 3]
    """
    n_words = chances_RV.shape[1]
    block = block_size(n_words)
    blocks_RK = _running_sums(sums_RK)
    # below the total, so that rounding never leads past the last word with a chance
    wanted_R1 = uniform_R[:, None] * blocks_RK[:, -1:] * (1 - 1e-12)
    block_R1 = torch.searchsorted(blocks_RK, wanted_R1, right=True)
    before_R1 = nn.functional.pad(blocks_RK, (1, 0)).gather(1, block_R1)
    place_RW = block_R1 * block + torch.arange(block, device=block_R1.device)
    inside_RW = chances_RV.gather(1, place_RW.clamp(max=n_words - 1))
    words_RW = _running_sums(inside_RW.masked_fill(place_RW >= n_words, 0).double())
    left_R1 = torch.minimum(wanted_R1 - before_R1, words_RW[:, -1:] * (1 - 1e-12))
    word_R1 = torch.searchsorted(words_RW, left_R1, right=True)
    return (block_R1 * block + word_R1)[:, 0]


def _running_sums(values: Tensor) -> Tensor:
    return values @ _triangle(values.shape[1], values.device)


@functools.lru_cache(maxsize=16)
def _triangle(size: int, device: torch.device) -> Tensor:
    return torch.ones(size, size, dtype=torch.float64, device=device).triu()
