"""From rewarded groups to what the loss of a micro-batch takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from kit.grpo.config import GrpoConfig
from kit.grpo.losses import token_weights
from kit.grpo.rollout import Group
from kit.grpo.terms.judge import is_right
from kit.model.adapters import as_reference
from kit.model.logprobs import TokenLogprobs, token_logprobs
from kit.model.processor import Processor
from kit.model.sampler import evaluating
from kit.model.sharing import PackedBatch, Tree, Trunk, pack
from kit.run import process


@dataclass(frozen=True)
class Changed:
    """The trees of a micro-batch, and after them the same with changed images, so that one pass
    scores them all. ``places``: by view, which targets (M,) of the micro-batch, in order, have it;
    its own targets come in this order after those of the views before it. ``right``: (K,)
    bool, which targets of the micro-batch are of a completion whose answer is right."""

    batch: PackedBatch
    places: dict[str, Tensor]
    right: Tensor


@dataclass(frozen=True)
class MicroBatch:
    """Groups as the loss takes them. Per target token (K,): ``sampled``, the sampler's
    log-probability; ``advantages``; ``weights`` (``kit.grpo.losses.token_weights``); ``old`` and
    ``reference`` log-probabilities, None where the loss needs none; ``kept``, whether the policy
    term counts it (None: all). ``changed``: what objectives are of (None: there are none)."""

    batch: PackedBatch
    sampled: Tensor
    advantages: Tensor
    weights: Tensor
    old: Tensor | None = None
    reference: Tensor | None = None
    kept: Tensor | None = None
    changed: Changed | None = None

    @property
    def scored(self) -> PackedBatch:
        """What an update passes through the model; its first targets are those of ``batch``."""
        return self.batch if self.changed is None else self.changed.batch


def micro_batches(
    groups: Sequence[Group],
    advantages_PG: Tensor,
    processor: Processor,
    config: GrpoConfig,
    accelerator: Accelerator,
    changed: Mapping[str, Sequence[Trunk | None]] = MappingProxyType({}),
) -> list[MicroBatch]:
    """This process's groups of a step, ``per_device_train_batch_size`` of them at a time.

    What the loss is normalised by is counted over all ranks and micro-batches, so that its
    gradient does not depend on how the step is split. Where a step is several updates, it is an
    equal part of that for each (as TRL's ``dapo`` has it), so that a token counts the same in
    whichever update it comes. ``changed``: as ``kit.grpo.objectives.changed_trunks`` gives it."""
    counted_PG = torch.tensor(
        [
            [is_counted(c.truncated, bool(row.any()), config) for c in group.completions]
            for group, row in zip(groups, advantages_PG, strict=True)
        ]
    )
    lengths_PG = torch.tensor([[len(c.token_ids) for c in group.completions] for group in groups])
    n_completions, n_tokens = process.total(
        accelerator, counted_PG.numel(), int((lengths_PG * counted_PG).sum())
    )
    updates = config.micro_batches_per_step // config.gradient_accumulation_steps
    result = []
    for start in range(0, len(groups), config.per_device_train_batch_size):
        part = slice(start, start + config.per_device_train_batch_size)
        batch = pack(
            [group.tree() for group in groups[part]],
            merge_size=processor.image_processor.merge_size,
        ).to(accelerator.device)
        owner_K = batch.branch_index
        weights = token_weights(
            owner_K,
            counted_PG[part].flatten().to(owner_K.device),
            loss_type=config.loss_type,
            n_completions=n_completions / updates,
            n_tokens=n_tokens / updates,
            max_completion_length=config.max_completion_length,
        )
        sampled = [p for group in groups[part] for c in group.completions for p in c.logprobs]
        result.append(
            MicroBatch(
                batch=batch,
                sampled=torch.tensor(sampled, device=owner_K.device),
                advantages=advantages_PG[part].flatten().float().to(owner_K.device)[owner_K],
                weights=weights,
                changed=with_changed(
                    groups[part],
                    {view: trunks[part] for view, trunks in changed.items()},
                    processor,
                    accelerator.device,
                ),
            )
        )
    return result


def with_changed(
    groups: Sequence[Group],
    trunks: Mapping[str, Sequence[Trunk | None]],
    processor: Processor,
    device: torch.device | str,
) -> Changed | None:
    """The trees of groups beside themselves with other trunks, by view; where one has none (None)
    it is left out. None where there is no view."""
    if not trunks:
        return None
    trees = [group.tree() for group in groups]
    sizes = [sum(int(branch.is_target.sum()) for branch in tree.branches) for tree in trees]
    ranges = torch.arange(sum(sizes)).split(sizes)
    there = {
        view: [number for number, trunk in enumerate(own) if trunk is not None]
        for view, own in trunks.items()
    }
    others = [
        Tree(trunks[view][number], trees[number].branches)
        for view, numbers in there.items()
        for number in numbers
    ]
    places = {
        view: torch.cat([ranges[0][:0], *(ranges[number] for number in numbers)]).to(device)
        for view, numbers in there.items()
    }
    right = torch.tensor([is_right(parsed, g.task.record) for g in groups for parsed in g.parsed])
    merge_size = processor.image_processor.merge_size
    batch = pack([*trees, *others], merge_size=merge_size).to(device)
    return Changed(batch, places, right.to(device)[batch.branch_index[: sum(sizes)]])


def is_counted(truncated: bool, has_advantage: bool, config: GrpoConfig) -> bool:
    """Whether the loss is of a completion."""
    if truncated and config.mask_truncated_completions:
        return False
    return has_advantage or not config.mask_zero_advantage_groups


@torch.no_grad()
def with_fixed_logprobs(
    model: nn.Module,
    reference: nn.Module | None,
    batches: Sequence[MicroBatch],
    config: GrpoConfig,
    accelerator: Accelerator,
) -> list[MicroBatch]:
    """Add what stays the same over the updates of a step: the reference's log-probabilities where
    there is a KL penalty (``reference``: see ``as_reference``), the policy's own where there is
    more than one update of it, and which tokens are kept where that goes by their entropy."""
    by_entropy = config.top_entropy_quantile < 1
    off_policy = config.num_iterations * len(batches) > config.gradient_accumulation_steps

    def scores(by: nn.Module, part: MicroBatch, entropy: bool = False) -> TokenLogprobs:
        with evaluating(by):
            return token_logprobs(by, part.batch, temperature=config.temperature, entropy=entropy)

    if off_policy or by_entropy:
        found = [scores(model, part, by_entropy) for part in batches]
    if off_policy:
        batches = [replace(p, old=s.logprobs) for p, s in zip(batches, found, strict=True)]
    if by_entropy:
        counted = [s.entropy[p.weights > 0] for p, s in zip(batches, found, strict=True)]
        least = entropy_reached(torch.cat(counted), config.top_entropy_quantile, accelerator)
        batches = [replace(p, kept=s.entropy >= least) for p, s in zip(batches, found, strict=True)]
    if config.beta:
        with as_reference(model, reference) as start:
            batches = [replace(part, reference=scores(start, part).logprobs) for part in batches]
    return list(batches)


def entropy_reached(entropy_K: Tensor, share: float, accelerator: Accelerator) -> Tensor:
    """The entropy (a scalar) that ``share`` of all ranks' tokens reach: the forking tokens, to
    which the gradient may be left (Wang et al. 2025, arXiv 2506.01939; TRL's
    ``top_entropy_quantile``, which looks at each micro-batch by itself, and so at another set when
    a step is split otherwise)."""
    padded = accelerator.pad_across_processes(entropy_K.float(), dim=0, pad_index=-1)
    every = accelerator.gather(padded)
    every = every[every >= 0]
    return torch.quantile(every, 1 - share) if len(every) else every.new_zeros(())
