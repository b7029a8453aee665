"""Attention over packed trees (``kit.model.sharing``) that computes what the tree lets through.

A row ``[trunk | branch 1 | ... | branch n]`` as a matrix of S x S scores is mostly masked: eight
completions of 256 tokens after a prompt of 300 leave a sixth of it. So trunks attend as a batch of
their own, causally, and branches as another, each to its trunk and itself. The same function on a
CPU and a GPU, with torch's own kernels, and nothing to be compiled when shapes change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

TREE_ATTENTION = "tree_sdpa"  # the name under which transformers knows it


class OnDevice:
    """A dataclass whose tensors go to a device together."""

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Self:
        """The same on another device."""
        return self._with(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same in memory from which a GPU copies by itself; a DataLoader calls it."""
        return self._with(lambda value: value.pin_memory())

    def _with(self, change: Callable) -> Self:
        changed = {
            field.name: change(value)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), (Tensor, OnDevice))
        }
        return dataclasses.replace(self, **changed)


@dataclass(frozen=True)
class TreeMask(OnDevice):
    """Where trunks and branches of B packed rows of S places lie: the trunk first.

    n_trunk: T, the length of the longest trunk; row (N,) of each branch; place (N, L) the flat
    index into B*S of each of its tokens, shorter ones padded with their first; visible
    (N, 1, L, T + L) bool, which of its trunk and of itself each token may see; source and target
    (tokens of all branches,), their flat indexes into N*L and B*S.
    """

    n_trunk: int
    row: Tensor
    place: Tensor
    visible: Tensor
    source: Tensor
    target: Tensor

    @classmethod
    def of(cls, trunks: Sequence[int], branches: Sequence[Sequence[int]], length: int) -> TreeMask:
        """From the lengths of each row's trunk and of its branches.

        >>> mask = TreeMask.of([2], [[1, 2]], length=5)
        >>> mask.place.tolist(), mask.visible[0, 0].int().tolist()
        ([[2, 2], [3, 4]], [[1, 1, 1, 0], [1, 1, 1, 0]])
        """
        row_N = torch.tensor([row for row, each in enumerate(branches) for _ in each])
        length_N = torch.tensor([n for each in branches for n in each])
        start_N = torch.tensor(
            [
                row * length + trunk + sum(each[:number])
                for row, (trunk, each) in enumerate(zip(trunks, branches, strict=True))
                for number in range(len(each))
            ]
        )
        trunk_N, step_L = torch.tensor(list(trunks))[row_N], torch.arange(max(length_N))
        real_NL = step_L < length_N[:, None]
        own_NLL = (step_L <= step_L[:, None]) & real_NL[:, None]
        own_NLL[..., 0] = True  # so that padding sees something
        trunk_NT = torch.arange(max(trunks)) < trunk_N[:, None]
        trunk_NLT = trunk_NT[:, None].expand(-1, len(step_L), -1)
        place_NL = start_N[:, None] + step_L * real_NL
        return cls(
            n_trunk=max(trunks),
            row=row_N,
            place=place_NL,
            visible=torch.cat([trunk_NLT, own_NLL], dim=2)[:, None],
            source=real_NL.flatten().nonzero().flatten(),
            target=place_NL[real_NL],
        )


def use_tree_attention(model: nn.Module) -> nn.Module:
    """Have a language model take tree masks; masks of other kinds go to transformers' own
    function, as ever."""
    model.model.language_model.set_attn_implementation(TREE_ATTENTION)
    return model


def mask_for(model: nn.Module, mask: TreeMask, group_BS: Tensor) -> dict[str, TreeMask | Tensor]:
    """What a language model is called with: the tree, which reaches its attention as it is, or
    where it attends in another way, the whole matrix of it."""
    if model.model.language_model.config._attn_implementation == TREE_ATTENTION:
        return {"tree_mask": mask}
    return {"attention_mask": branch_mask(group_BS)}


def branch_mask(group_BS: Tensor) -> Tensor:
    """Which token may see which, (B, 1, S, S) bool: earlier ones of the trunk and of its own
    branch.

    ``group_BS`` (B, S): 0 for the trunk, 1.. for branches, -1 for padding. Padding sees only
    itself, so that no row of the softmax is empty and none of it reaches a real token.

    >>> branch_mask(torch.tensor([[0, 1, 2, -1]]))[0, 0].int().tolist()
    [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]
    """
    query_BS1, key_B1S = group_BS[:, :, None], group_BS[:, None, :]
    length = group_BS.shape[1]
    earlier_SS = torch.ones(length, length, dtype=torch.bool, device=group_BS.device).tril()
    real_BSS = (query_BS1 >= 0) & (key_B1S >= 0)
    same_SS = torch.eye(length, dtype=torch.bool, device=group_BS.device)
    return ((earlier_SS & real_BSS & ((key_B1S == 0) | (key_B1S == query_BS1))) | same_SS)[:, None]


def _tree_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask,
    tree_mask: TreeMask | None = None, **options,
) -> tuple[Tensor, None]:  # fmt: skip
    """Transformers' attention interface: (B, heads, S, D) to (B, S, heads, D)."""
    if tree_mask is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    mask, (n_rows, _, length, _) = tree_mask, query.shape

    def branches(states_BHSD: Tensor) -> Tensor:
        return states_BHSD.transpose(1, 2).flatten(0, 1)[mask.place].transpose(1, 2)

    def with_trunk(states_BHSD: Tensor) -> Tensor:
        trunk_NHTD = states_BHSD[:, :, : mask.n_trunk].index_select(0, mask.row)
        return torch.cat([trunk_NHTD, branches(states_BHSD)], dim=2)

    # what stands behind a shorter trunk is computed too, and replaced
    trunks = (states[:, :, : mask.n_trunk] for states in (query, key, value))
    of_trunks, _ = sdpa_attention_forward(module, *trunks, None, **options | {"is_causal": True})
    of_branches, _ = sdpa_attention_forward(
        module, branches(query), with_trunk(key), with_trunk(value), mask.visible, **options
    )
    found = nn.functional.pad(of_trunks, (0, 0, 0, 0, 0, length - mask.n_trunk)).flatten(0, 1)
    found = found.index_copy(0, mask.target, of_branches.flatten(0, 1)[mask.source])
    return found.unflatten(0, (n_rows, length)), None


AttentionInterface.register(TREE_ATTENTION, _tree_attention)
AttentionMaskInterface.register(TREE_ATTENTION, sdpa_mask)
