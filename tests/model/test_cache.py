"""What rows share is kept once, and read as if each had its own."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.model.cache import RowCache, Trunks

K, G, D = 2, 3, 4  # heads of keys, queries a head, size


def rows_of(draw_owners, n_shared, n_own, seed):
    """A cache of rows with two layers, and their keys and values with the trunks repeated."""
    generator = torch.Generator().manual_seed(seed)

    def states(n, length):
        return torch.randn(n, K, length, D, dtype=torch.float64, generator=generator)

    n_trunks, n_rows = max(draw_owners) + 1, len(draw_owners)
    lengths = torch.randint(1, n_shared + 1, (n_trunks,), generator=generator)
    visible = torch.arange(n_shared) >= n_shared - lengths[:, None]
    layers = [[states(n_trunks, n_shared) for _ in range(2)] for _ in range(2)]
    cache = RowCache(n_own + 4, Trunks(layers, visible, list(draw_owners)))
    for layer in range(2):
        cache.append(states(n_rows, n_own), states(n_rows, n_own), layer)
    cache.used = n_own
    return cache


def dense(cache):
    """Keys, values and what is seen of each row, of the last layer; keys begin where they may."""
    owner = cache.trunks.owner_R
    own = [buffer[:, :, : cache.used + 1] for buffer in cache.layers[-1]]
    shared = [buffer[owner] for buffer in cache.trunks.layers[-1]]
    both = [torch.cat(pair, dim=2) for pair in zip(shared, own, strict=True)]
    real = torch.ones(len(owner), cache.used + 1, dtype=torch.bool)
    return *both, torch.cat([cache.trunks.visible[owner], real], dim=1)


def attended(cache, seed):
    """By both ways."""
    generator = torch.Generator().manual_seed(seed)
    n_rows = len(cache.trunks.owners)
    queries, *new = (
        torch.randn(n_rows, K, n, D, dtype=torch.float64, generator=generator) for n in (G, 1, 1)
    )
    cache.append(*new, 1)
    bias = torch.zeros(n_rows, 1, 1, cache.used + 1, dtype=torch.float64)
    keys, values, visible = dense(cache)
    whole = torch.nn.functional.scaled_dot_product_attention(
        queries, keys, values, visible[:, None, None], scale=0.3
    )
    return cache.attend(queries, bias, 0.3, 1), whole


OWNERS = st.lists(st.integers(0, 3), min_size=1, max_size=9).map(
    lambda owners: [sorted(set(owners)).index(owner) for owner in owners]
)


@settings(max_examples=40, deadline=None)
@given(OWNERS, OWNERS, st.integers(1, 6), st.integers(1, 6), st.integers(0, 5), st.data())
def test_attention_is_that_of_rows_of_their_own(one, other, length, width, n_own, data):
    """Of any rows of any trunks, after some have gone and others have come."""
    first = rows_of(one, length, n_own, 0)
    assert torch.allclose(*attended(copy.deepcopy(first), 1), rtol=0, atol=1e-12)
    kept = data.draw(st.lists(st.sampled_from(range(len(one))), min_size=1, unique=True))
    fewer = first.taken(kept, 0)
    assert len(fewer.trunks.visible) == len({one[row] for row in kept})
    assert torch.allclose(*attended(copy.deepcopy(fewer), 2), rtol=0, atol=1e-12)
    second = rows_of(other, width, n_own, 3)
    joined = fewer.joined(second, n_own + 2)
    assert torch.allclose(*attended(copy.deepcopy(joined), 4), rtol=0, atol=1e-12)
    for source, start in ((fewer, 0), (second, len(kept))):
        rows = range(start, start + len(source.trunks.owners))
        alone, together = source, joined.taken(list(rows), 0)
        ours, theirs = (attended(copy.deepcopy(cache), 5)[0] for cache in (together, alone))
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_scores_are_float32_under_autocast(dtype):
    cache = rows_of([0, 0, 1], 3, 2, 0)
    for layers in (cache.layers, cache.trunks.layers):
        layers[:] = [[part.float() for part in layer] for layer in layers]
    cache.trunks.bias_P11T = cache.trunks.bias_P11T.float()
    queries, bias = torch.randn(3, K, G, D, dtype=dtype), torch.zeros(3, 1, 1, 3)
    exact = cache.attend(queries, bias, 0.3, 0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cache.attend(queries, bias, 0.3, 0), exact)
    assert exact.dtype == torch.float32
