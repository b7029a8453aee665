"""Keys and values of rows that are decoded together. What several rows continue, an image above
all, is kept once, and each layer reads it once for all of them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class RowCache:
    """Keys and values of R rows in C columns, of which the first ``used`` are filled, behind those
    of ``trunks`` where there are any. Buffers are made once and not grown by a token.

    Scores are computed in float32 at least, and so are buffers.
    """

    def __init__(self, n_columns: int, trunks: Trunks | None = None):
        self.n_columns, self.trunks, self.used = n_columns, trunks, 0
        self.layers: list[list[Tensor]] = []  # keys and values (R, K, C, D) of each

    def append(self, keys: Tensor, values: Tensor, layer: int) -> None:
        """Write (R, K, L, D) states behind what is there."""
        if layer == len(self.layers):
            exact = torch.promote_types(keys.dtype, torch.float32)
            shape = (*keys.shape[:2], self.n_columns, keys.shape[3])
            self.layers.append([keys.new_zeros(shape, dtype=exact) for _ in range(2)])
        end = self.used + keys.shape[2]
        for buffer, states in zip(self.layers[layer], (keys, values), strict=True):
            buffer[:, :, self.used : end] = states

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: object, **__: object
    ) -> list[Tensor]:
        """As transformers' attention layers take a cache: all of them, trunks repeated."""
        self.append(keys, values, layer)
        end = self.used + keys.shape[2]
        own = [buffer[:, :, :end].to(keys.dtype) for buffer in self.layers[layer]]
        if self.trunks is None:
            return own
        before = [b[self.trunks.owner_R].to(keys.dtype) for b in self.trunks.layers[layer]]
        return [torch.cat(parts, dim=2) for parts in zip(before, own, strict=True)]

    def get_seq_length(self, *_: object) -> int:
        return self.used + (self.trunks.visible.shape[1] if self.trunks else 0)

    def attend(self, q_RKGD: Tensor, bias_R11C: Tensor, scale: float, layer: int) -> Tensor:
        """What queries of one token a row read in a layer, G of them for each of K heads of keys,
        to which the token's own keys are appended: (R, K, G, D).

        ``bias_R11C`` is 0 for the columns that a row sees, and -inf.
        """
        with _without_autocast(q_RKGD.device.type):
            keys, values = (buffer[:, :, : self.used + 1] for buffer in self.layers[layer])
            q = q_RKGD.to(keys.dtype) * scale
            scores = torch.matmul(q, keys.transpose(2, 3)).add_(bias_R11C)
            if self.trunks is None:
                return scores.softmax(dim=-1) @ values
            n_shared = self.trunks.visible.shape[1]
            chances = torch.cat([self.trunks.scores(q, layer), scores], dim=-1).softmax(dim=-1)
            shared, own = chances.split([n_shared, self.used + 1], dim=-1)
            return self.trunks.mean(shared, layer).add_(torch.matmul(own, values))

    def taken(self, rows: Sequence[int], first: int) -> RowCache:
        """Some rows, from a column on."""
        index = torch.tensor(rows, device=self.layers[0][0].device)
        result = RowCache(self.n_columns - first, self.trunks and self.trunks.taken(rows))
        result.used = self.used - first
        result.layers = [[buffer[index, :, first:] for buffer in layer] for layer in self.layers]
        return result

    def joined(self, others: RowCache, n_columns: int) -> RowCache:
        """These rows and others, filled up to the same column: the narrower move to the right."""
        trunks = self.trunks and self.trunks.joined(others.trunks)
        result = RowCache(n_columns, trunks)
        result.used = max(self.used, others.used)
        result.layers = [
            [
                stacked(pair, 2, [self.used, others.used], result.used, n_columns)
                for pair in zip(*of_layer, strict=True)
            ]
            for of_layer in zip(self.layers, others.layers, strict=True)
        ]
        return result


@dataclass
class Trunks:
    """What rows share: keys and values (P, K, T, D) of each layer, ``visible`` (P, T) bool which
    columns are real, and the trunk of each row (``owners``)."""

    layers: list[list[Tensor]]
    visible: Tensor
    owners: list[int]

    def __post_init__(self):
        device = self.visible.device
        self.owner_R = torch.tensor(self.owners, device=device)
        exact = self.layers[0][0].dtype
        self.bias_P11T = torch.zeros(self.visible.shape, dtype=exact, device=device)
        self.bias_P11T = self.bias_P11T.masked_fill_(~self.visible, -torch.inf)[:, None, None]
        # a grid of rows, as many a trunk as the one with the most has; the rest repeat any row
        members: list[list[int]] = [[] for _ in self.visible]
        for row, owner in enumerate(self.owners):
            members[owner].append(row)
        self.width = max(map(len, members))
        padded = [rows + [rows[0]] * (self.width - len(rows)) for rows in members]
        self.in_order = list(itertools.chain(*padded)) == list(range(len(self.owners)))
        if not self.in_order:
            self.rows_PW = torch.tensor(padded, device=device)
            place = [members[o].index(r) + o * self.width for r, o in enumerate(self.owners)]
            self.place_R = torch.tensor(place, device=device)

    def scores(self, q_RKGD: Tensor, layer: int) -> Tensor:
        """Of the trunks' columns, (R, K, G, T)."""
        scores = torch.matmul(self._by_trunk(q_RKGD), self.layers[layer][0].transpose(2, 3))
        return self._by_row(scores.add_(self.bias_P11T))

    def mean(self, chances_RKGT: Tensor, layer: int) -> Tensor:
        """Values of the trunks' columns, weighted, (R, K, G, D)."""
        return self._by_row(torch.matmul(self._by_trunk(chances_RKGT), self.layers[layer][1]))

    def _by_trunk(self, x_RKGN: Tensor) -> Tensor:
        """(P, K, W * G, N)."""
        grid = x_RKGN.unflatten(0, (-1, self.width)) if self.in_order else x_RKGN[self.rows_PW]
        return grid.transpose(1, 2).flatten(2, 3)

    def _by_row(self, x_PKMN: Tensor) -> Tensor:
        grid = x_PKMN.unflatten(2, (self.width, -1)).transpose(1, 2).flatten(0, 1)
        return grid if self.in_order else grid[self.place_R]

    def taken(self, rows: Sequence[int]) -> Trunks:
        """Those of some rows."""
        owners = [self.owners[row] for row in rows]
        kept = sorted(set(owners))
        layers, visible = self.layers, self.visible
        if len(kept) < len(visible):
            index = torch.tensor(kept, device=visible.device)
            layers, visible = [[b[index] for b in layer] for layer in layers], visible[index]
        return Trunks(layers, visible, [kept.index(owner) for owner in owners])

    def joined(self, others: Trunks) -> Trunks:
        """These and others, which end in the same column."""
        filled = [self.visible.shape[1], others.visible.shape[1]]
        end = max(filled)
        return Trunks(
            [
                [stacked(pair, 2, filled, end, end) for pair in zip(*of_layer, strict=True)]
                for of_layer in zip(self.layers, others.layers, strict=True)
            ],
            stacked([self.visible, others.visible], 1, filled, end, end),
            self.owners + [owner + len(self.visible) for owner in others.owners],
        )


def stacked(
    pair: Sequence[Tensor], axis: int, filled: Sequence[int], used: int, n_columns: int
) -> Tensor:
    """Two buffers above one another, each filled up to a column of an axis, so that both are
    filled up to column ``used`` of ``n_columns``."""
    shape = list(pair[0].shape)
    shape[0], shape[axis] = sum(map(len, pair)), n_columns
    result, start = pair[0].new_zeros(shape), 0
    for buffer, n_filled in zip(pair, filled, strict=True):
        place = result[start : start + len(buffer)].narrow(axis, used - n_filled, n_filled)
        place.copy_(buffer.narrow(axis, 0, n_filled))
        start += len(buffer)
    return result


def _without_autocast(device: str) -> contextlib.AbstractContextManager:
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()
