"""A token through the decoder layers against transformers' own forward of them."""

import copy

import pytest
import torch
from families import compute_exactly
from torch.utils._python_dispatch import TorchDispatchMode

from kit.model.adapters import add_lora
from kit.model.cache import RowCache
from kit.model.decoder import next_hidden
from kit.model.decoding import forward
from kit.model.families import FAMILIES
from kit.model.load import load_base
from kit.model.logprobs import base_of
from kit.model.merged import sampling_weights

N_ROWS, N_FILLED = 3, 7
IDS = (5, 9, 40)


@pytest.fixture(scope="module", params=["tiny", *FAMILIES])
def filled(request, base_of_family):
    """A model in float64, a cache of it, and what rows may see of the cache (rows begin late)."""
    torch.manual_seed(0)
    base = base_of_family(request.param) if request.param in FAMILIES else request.param
    model = load_base(base, dtype=torch.float64).eval()
    visible = torch.arange(N_FILLED) >= torch.tensor([0, 2, 5])[:, None]
    cache = RowCache(N_FILLED + 2)
    ids = torch.randint(300, (N_ROWS, N_FILLED))
    causal = visible[:, None] & torch.ones(N_FILLED, N_FILLED, dtype=torch.bool).tril()
    causal |= torch.eye(N_FILLED, dtype=torch.bool)
    positions = torch.arange(N_FILLED).expand(3, N_ROWS, -1)
    with torch.no_grad():
        forward(model, ids, positions, causal, cache)
    return model, cache, torch.nn.functional.pad(visible, (0, 1), value=True)


class Operations(TorchDispatchMode):
    """Counts operations that compute something: views cost a GPU nothing."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not function.is_view
        return function(*args, **(kwargs or {}))


def both(filled, ids=IDS):
    """A token, appended by both ways: hidden states, the cache, and operations."""
    model, cache, visible = filled
    ids, found = torch.tensor(ids), []
    for ours in (True, False):
        own = copy.deepcopy(cache)
        with torch.no_grad(), Operations() as mode:
            position = torch.full((N_ROWS,), N_FILLED)
            if ours:
                hidden = next_hidden(model, ids, position, visible, own)
            else:
                positions = position[:, None].expand(3, -1, -1)
                hidden = forward(model, ids[:, None], positions, visible[:, None], own)[:, 0]
        assert own.used == N_FILLED + 1
        found.append((hidden, own.layers, mode.count))
    return found


def test_a_token_is_what_the_layers_compute(filled, monkeypatch):
    compute_exactly(monkeypatch)
    (ours, our_layers, _), (theirs, their_layers, _) = both(filled)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    for one, other in zip(our_layers, their_layers, strict=True):
        assert all(
            torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(one, other, strict=True)
        )


@pytest.mark.parametrize("autocast", [False, True])
def test_in_bfloat16(filled, autocast):
    """As near to float64 as transformers' own, over some tokens."""
    model, cache, visible = filled
    cache = copy.deepcopy(cache)
    half = copy.deepcopy(model).to(torch.float32 if autocast else torch.bfloat16)
    cache.layers = [[part.bfloat16() for part in layer] for layer in cache.layers]
    squares = []
    for ids in (IDS, (6, 10, 41), (7, 11, 42), (8, 12, 43)):
        (exact, _, _), _ = both(filled, ids)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            (ours, _, _), (theirs, _, _) = both((half, cache, visible), ids)
        parts = (ours.double() - exact, theirs.double() - exact, exact)
        squares.append([float(part.square().sum()) for part in parts])
    error, usual, whole = (sum(column) ** 0.5 for column in zip(*squares, strict=True))
    assert error < 1.2 * usual < 0.05 * whole


def test_operations_of_a_token(filled, monkeypatch):
    """With an adapter, merged, against transformers' forward with it beside. torch computes the
    norm in six operations on a CPU, and in one on a GPU."""
    monkeypatch.setattr("torch.nn.functional.rms_norm", lambda x, shape, weight, eps: x * weight)
    base, cache, visible = filled
    model = add_lora(
        copy.deepcopy(base), r=4, alpha=8, dropout=0.0, freeze_vision_tower=True
    ).eval()
    causal_lm = base_of(model)
    *_, (_, layers, before) = both((causal_lm, cache, visible))
    with sampling_weights(model):
        (_, _, after), _ = both((causal_lm, cache, visible))
    print(f"a token and layer: {after / len(layers):.1f} operations, {before / len(layers):.1f}")
    assert after < 0.4 * before
