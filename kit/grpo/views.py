"""Prompts whose image is shown without its evidence, or without a control of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kit.counterfactual.images import ImageCache
from kit.counterfactual.regions import Boxes, gold_region, whole_pixels
from kit.data.grpo_records import GrpoRecord
from kit.grpo.config import GrpoConfig
from kit.grpo.rollout import Task

_OWN = 1  # keeps its draws apart from those of sampling


def changed(tasks: Sequence[Task], image_cache: ImageCache, config: GrpoConfig) -> list[Task]:
    """The prompts, of which a ``changed_images`` share shows its image without the evidence or
    without a control of it, as often the one as the other. What has no evidence, or evidence that
    nothing matches, is shown whole.

    Which and how follows from the seed and the prompt alone.
    """
    draws = [np.random.default_rng([config.seed, _OWN, t.prompt_index]).random() for t in tasks]
    picked = [number for number, draw in enumerate(draws) if draw < config.changed_images]
    places = places_of([tasks[number] for number in picked], image_cache, config)
    result = list(tasks)
    for number, (evidence, control) in zip(picked, places, strict=True):
        if not control:
            continue
        if draws[number] < config.changed_images / 2:
            result[number] = replace(tasks[number], view="without_evidence", without=evidence)
        else:
            result[number] = replace(tasks[number], view="without_control", without=control)
    return result


def places_of(
    tasks: Sequence[Task], image_cache: ImageCache, config: GrpoConfig
) -> list[tuple[Boxes, Boxes]]:
    """Of each prompt its evidence and one control of it, empty where there is none. They follow
    from the seed and the prompt alone."""
    regions = [evidence_of(task.record, image_cache) for task in tasks]
    found = image_cache.controls_all(
        [(task.record.shown, region, ()) for task, region in zip(tasks, regions, strict=True)],
        draws=config.random_draws,
        seed=config.seed,
    )
    return [
        (region, matching[task.prompt_index % len(matching)] if matching else ())
        for task, region, matching in zip(tasks, regions, found, strict=True)
    ]


def evidence_of(record: GrpoRecord, image_cache: ImageCache) -> Boxes:
    """The gold boxes of a record, or those for which ``cf_proxy`` measured it."""
    canvas = image_cache.canvas(record.shown)
    return gold_region(record.regions, canvas) or whole_pixels(record.cf_boxes, canvas.size)
