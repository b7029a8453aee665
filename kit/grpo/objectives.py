"""Objectives: what the policy says on changed images, as terms of the loss (``--objectives``)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kit.counterfactual.images import ImageCache
from kit.data.grpo_records import GrpoRecord
from kit.errors import ConfigError
from kit.grpo.config import GrpoConfig
from kit.grpo.microbatches import MicroBatch
from kit.grpo.rollout import Group
from kit.grpo.terms import parse_objectives
from kit.grpo.views import places_of
from kit.model.processor import PreparedImage, Processor
from kit.model.sharing import Trunk
from kit.run.metrics import Meters

MASKED_SHARE = 0.6  # of the patches, as in PAPO

_OWN = 2  # keeps its draws apart from those of sampling and of ``kit.grpo.views``

ChangedTrunks = dict[str, list[Trunk | None]]  # by view, one a group


def chosen(config: GrpoConfig) -> dict[str, tuple[float, ModuleType]]:
    """The weight and the module of each objective that counts."""
    return {
        name: (weight, importlib.import_module(f"kit.grpo.terms.{name}"))
        for name, weight in parse_objectives(config.objectives).items()
        if weight
    }


def views_of(config: GrpoConfig) -> tuple[str, ...]:
    """The changed images that the objectives look at."""
    return tuple(dict.fromkeys(view for _, term in chosen(config).values() for view in term.VIEWS))


def require_evidence(records: Sequence[GrpoRecord], config: GrpoConfig) -> None:
    """
    Raises:
        ConfigError: an objective takes evidence away, and no record has any.
    """
    for name, (_, term) in chosen(config).items():
        if "without_evidence" in term.VIEWS and not any(r.regions or r.cf_boxes for r in records):
            raise ConfigError(
                f"{name} is of images without their evidence, and no record has any",
                where=f"objectives: {config.objectives}",
                fix="give records with gold boxes, or those that cf_proxy wrote",
            )


def changed_trunks(
    groups: Sequence[Group], image_cache: ImageCache, config: GrpoConfig
) -> ChangedTrunks:
    """The prompts of groups with each changed image that an objective asks for; None where a prompt
    has no such image: no evidence, or none that a control matches, or is not shown whole itself.

    ``masked``: patches of the model are black, each with a chance of ``MASKED_SHARE``, drawn once a
    prompt; ``without_evidence`` and ``without_control``: as ``kit.grpo.views`` has them. All
    follows from the seed and the prompt alone.
    """
    wanted = set(views_of(config))
    made: ChangedTrunks = {}
    if "masked" in wanted:
        black_D = _black_patch(image_cache.processor)
        seeds = [[config.seed, _OWN, group.task.prompt_index] for group in groups]
        made["masked"] = [
            masked(group.trunk, black_D, seed) for group, seed in zip(groups, seeds, strict=True)
        ]
    if wanted <= {"masked"}:
        return made
    whole = [group for group in groups if group.task.view == "whole"]
    places = iter(places_of([group.task for group in whole], image_cache, config))
    found = [next(places) if group.task.view == "whole" else ((), ()) for group in groups]
    for place, view in enumerate(("without_evidence", "without_control")):
        if view in wanted:
            made[view] = _without(groups, [own[place] for own in found], image_cache)
    return made


def masked(trunk: Trunk, black_D: Tensor, seed: Sequence[int]) -> Trunk:
    """The same prompt, of whose image every patch is black with a chance of ``MASKED_SHARE``."""
    draws = np.random.default_rng(seed).random(len(trunk.pixel_values))
    is_black = torch.from_numpy(draws < MASKED_SHARE)
    return replace(
        trunk,
        image_keys=tuple(f"{key} masked {seed}" for key in trunk.image_keys),
        pixel_values=torch.where(is_black[:, None], black_D, trunk.pixel_values),
    )


def _black_patch(processor: Processor) -> Tensor:
    """A row of ``pixel_values``."""
    return processor.prepare_image(Image.new("RGB", (112, 112))).pixel_values[0]


def _without(
    groups: Sequence[Group], regions: Sequence[tuple], image_cache: ImageCache
) -> list[Trunk | None]:
    asked = [(g.task.record.shown, region) for g, region in zip(groups, regions, strict=True)]
    images = iter(image_cache.prepared_all([request for request in asked if request[1]]))
    return [
        showing(group.trunk, next(images)) if region else None
        for group, region in zip(groups, regions, strict=True)
    ]


def showing(trunk: Trunk, image: PreparedImage) -> Trunk:
    """The same prompt with an image of the same size."""
    assert torch.equal(trunk.image_grid_thw, image.image_grid_thw)
    return replace(trunk, image_keys=image.keys, pixel_values=image.pixel_values)


def record_absent(meters: Meters, changed: ChangedTrunks, config: GrpoConfig) -> None:
    """How many prompts an objective is not of."""
    for name, (_, term) in chosen(config).items():
        views = zip(*(changed[view] for view in term.VIEWS), strict=True)
        meters.add(f"objectives/{name}/absent", [float(None in trunks) for trunks in views])


def objective_of(
    logprobs: Tensor, part: MicroBatch, config: GrpoConfig, meters: Meters
) -> Tensor | float:
    """What is to be maximised beside the policy's objective, a scalar with its gradient: each
    objective's mean over the tokens by ``part.weights``, times its weight. ``logprobs`` are of all
    targets of ``part.changed``. Notes the means of what counts."""
    terms = chosen(config)
    if not terms or part.changed is None:
        return 0.0
    whole_K, views = parted(logprobs, part.changed.places, len(part.weights))
    counted_K = part.weights > 0 if part.kept is None else (part.weights > 0) & part.kept
    total = 0.0
    for name, (weight, term) in terms.items():
        own = [views[view] for view in term.VIEWS]
        there_K = torch.stack([counted_K, *(is_there_K for _, is_there_K in own)]).all(dim=0)
        if getattr(term, "RIGHT", False):
            there_K &= part.changed.right
        values_K = term.value(whole_K, *(view_K for view_K, _ in own)).masked_fill(~there_K, 0.0)
        total = total + weight * (values_K * part.weights).sum()
        summed = values_K.detach().double().sum().item()
        meters.add_sum(f"objectives/{name}", summed, int(there_K.sum()))
    return total


def parted(
    logprobs: Tensor, places: Mapping[str, Tensor], count: int
) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """The log-probabilities of ``count`` tokens (K,) on whole images, and of the same tokens on
    each changed one (K,), with where it is known, (K,) bool; elsewhere it is 0.

    >>> whole, views = parted(-torch.arange(1.0, 6.0), {"masked": torch.tensor([0, 2])}, 3)
    >>> whole.tolist(), *(values.tolist() for values in views["masked"])
    ([-1.0, -2.0, -3.0], [-4.0, 0.0, -5.0], [True, False, True])
    """
    whole_K, *rest = logprobs.float().split([count, *(len(own) for own in places.values())])
    views = {}
    for (name, own), values in zip(places.items(), rest, strict=True):
        is_there_K = torch.zeros_like(whole_K, dtype=torch.bool).index_fill(0, own, True)
        views[name] = torch.zeros_like(whole_K).index_put((own,), values), is_there_K
    return whole_K, views
