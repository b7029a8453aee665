"""One trunk, many branches: token rows in which continuations share what comes before them.

A tree is a trunk (a prompt with its image) and branches (continuations that each see the trunk
and themselves, and not each other). Packed into one row ``[trunk | branch 1 | ... | branch n]``
with a block mask and position ids that restart at the trunk's end, every branch gets exactly the
log-probabilities and gradients that it has as a row of its own, and the trunk is computed once.
The questions of one image, the completions of one prompt and the variants of one probe are all
trees; nothing here knows which.

Shapes, and the suffixes that say them in the core (``ids_BS`` is B by S): B rows of a batch, each
a tree; S row length; T trunk length; L branch length; K targets of the batch; N branches of the
batch; V vocabulary; H hidden size; I distinct images. In sampling R rows that are decoded and C
places of their cache, in GRPO P prompts and G completions of each.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kit.model.attention import OnDevice, TreeMask


@dataclass(frozen=True)
class Trunk:
    """A shared beginning with one image or several, or (for generation alone) with none.

    ``input_ids`` (T,) int64 with image placeholders already repeated; ``pixel_values``
    (patches, dim) and ``image_grid_thw`` (images, 3) as the vision tower takes them, None without
    an image; ``image_keys`` name the images by their content, so that equal ones are encoded once.
    """

    input_ids: Tensor
    image_token_id: int
    image_keys: tuple[str, ...]
    pixel_values: Tensor | None
    image_grid_thw: Tensor | None

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class Branch:
    """A continuation. ``input_ids`` (L,) int64; ``is_target`` (L,) bool marks the tokens whose
    log-probability is wanted."""

    input_ids: Tensor
    is_target: Tensor

    @classmethod
    def of(cls, context: Sequence[int], target: Sequence[int]) -> Branch:
        """A branch whose ``context`` tokens are read and whose ``target`` tokens are scored.

        >>> Branch.of([5, 6], [7]).is_target.tolist()
        [False, False, True]
        """
        marks = [False] * len(context) + [True] * len(target)
        return cls(torch.tensor([*context, *target], dtype=torch.int64), torch.tensor(marks))


@dataclass(frozen=True)
class Tree:
    trunk: Trunk
    branches: tuple[Branch, ...]

    def __len__(self) -> int:
        return len(self.trunk) + sum(len(b.input_ids) for b in self.branches)


@dataclass(frozen=True)
class PackedBatch(OnDevice):
    """Trees as model inputs.

    input_ids (B, S) int64, right-padded; position_ids (3, B, S) int64; group (B, S) int64, 0 in
    the trunk, 1.. in branches and -1 in padding, and the same as a tree_mask; images: image_keys,
    pixel_values and image_grid_thw of the distinct ones and image_index (images of all rows,)
    which of them each row shows, in order; predictor_index (K,) flat index into B*S of the token
    that predicts each target; target_ids (K,); branch_index (K,) number of the branch of each
    target, counted over the batch in order.
    """

    input_ids: Tensor
    position_ids: Tensor
    group: Tensor
    tree_mask: TreeMask
    image_keys: tuple[str, ...]
    pixel_values: Tensor
    image_grid_thw: Tensor
    image_index: Tensor
    predictor_index: Tensor
    target_ids: Tensor
    branch_index: Tensor
    n_branches: int

    def images(self) -> tuple[tuple[str, ...], Tensor, Tensor, Tensor]:
        """As ``kit.model.vision.encode_images`` takes them."""
        return self.image_keys, self.pixel_values, self.image_grid_thw, self.image_index


def trunk_positions(trunk: Trunk, merge_size: int) -> tuple[Tensor, int]:
    """Multimodal rotary positions of a trunk, and the position that follows it.

    Text counts on in all three axes; an image spans (time, height, width) from where it starts
    and what follows continues after its largest position (Qwen2-VL, arXiv 2409.12191, section
    2.1; transformers' ``get_rope_index`` gives the same).

    Returns:
        (3, T) int64 and the next free position.
    """
    is_image_T = (trunk.input_ids == trunk.image_token_id).tolist()
    grids = iter([] if trunk.image_grid_thw is None else trunk.image_grid_thw.tolist())
    parts, start = [], 0
    for image, run in itertools.groupby(is_image_T):
        length = len(list(run))
        if image:
            time, height, width = next(grids)
            axes = (time, height // merge_size, width // merge_size)
            grid = torch.meshgrid(*(torch.arange(n) for n in axes), indexing="ij")
            parts.append(torch.stack([axis.flatten() for axis in grid]) + start)
            start += max(axes)
        else:
            parts.append((torch.arange(length) + start).expand(3, -1))
            start += length
    return torch.cat(parts, dim=1), start


def pack(trees: Sequence[Tree], *, merge_size: int, pad_token_id: int = 0) -> PackedBatch:
    """Lay each tree into one right-padded row."""
    n_rows, length = len(trees), max(len(tree) for tree in trees)
    ids_BS = torch.full((n_rows, length), pad_token_id)
    positions_3BS = torch.zeros(3, n_rows, length, dtype=torch.int64)
    group_BS = torch.full((n_rows, length), -1)
    predictors_K, targets_K, owners_K = [], [], []
    number = 0
    for row, tree in enumerate(trees):
        at = len(tree.trunk)
        ids_BS[row, :at] = tree.trunk.input_ids
        positions_3BS[:, row, :at], after = trunk_positions(tree.trunk, merge_size)
        group_BS[row, :at] = 0
        for index, branch in enumerate(tree.branches, 1):
            end = at + len(branch.input_ids)
            ids_BS[row, at:end] = branch.input_ids
            positions_3BS[:, row, at:end] = torch.arange(end - at) + after
            group_BS[row, at:end] = index
            places = branch.is_target.nonzero().flatten()
            before = at + places - 1
            before[places == 0] = len(tree.trunk) - 1
            predictors_K.append(row * length + before)
            targets_K.append(branch.input_ids[places])
            owners_K.append(torch.full_like(places, number))
            number, at = number + 1, end
    keys, pixel_values, image_grid_thw, image_index = distinct_images([t.trunk for t in trees])
    return PackedBatch(
        input_ids=ids_BS,
        position_ids=positions_3BS,
        group=group_BS,
        tree_mask=TreeMask.of(
            [len(tree.trunk) for tree in trees],
            [[len(branch.input_ids) for branch in tree.branches] for tree in trees],
            length,
        ),
        image_keys=keys,
        pixel_values=pixel_values,
        image_grid_thw=image_grid_thw,
        image_index=image_index,
        predictor_index=torch.cat(predictors_K),
        target_ids=torch.cat(targets_K),
        branch_index=torch.cat(owners_K),
        n_branches=number,
    )


def distinct_images(
    trunks: Sequence[Trunk],
) -> tuple[tuple[str, ...], Tensor, Tensor, Tensor]:
    """The images of trunks, equal ones once.

    Returns:
        their keys, pixel_values (patches, dim), image_grid_thw (images, 3), and which of them the
        trunks show, one after the other.
    """
    patches: dict[str, Tensor] = {}
    grids: dict[str, Tensor] = {}
    for trunk in trunks:
        sizes = trunk.image_grid_thw.prod(dim=1).tolist()
        patches |= zip(trunk.image_keys, trunk.pixel_values.split(sizes), strict=True)
        grids |= zip(trunk.image_keys, trunk.image_grid_thw, strict=True)
    place = {key: index for index, key in enumerate(patches)}
    return (
        tuple(patches),
        torch.cat([*patches.values()]),
        torch.stack([*grids.values()]),
        torch.tensor([place[key] for trunk in trunks for key in trunk.image_keys]),
    )
