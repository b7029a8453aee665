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
    picked = [
        (number, draw < config.changed_images / 2, evidence)
        for number, (task, draw) in enumerate(zip(tasks, draws, strict=True))
        if draw < config.changed_images and (evidence := evidence_of(task.record, image_cache))
    ]
    controls = image_cache.controls_all(
        [(tasks[number].record.shown, evidence, ()) for number, _, evidence in picked],
        draws=config.random_draws,
        seed=config.seed,
    )
    result = list(tasks)
    for (number, of_evidence, evidence), matching in zip(picked, controls, strict=True):
        if not matching:
            continue
        view = "without_evidence" if of_evidence else "without_control"
        own = tasks[number]
        without = evidence if of_evidence else matching[own.prompt_index % len(matching)]
        result[number] = replace(own, view=view, without=without)
    return result


def evidence_of(record: GrpoRecord, image_cache: ImageCache) -> Boxes:
    """The gold boxes of a record, or those for which ``cf_proxy`` measured it."""
    canvas = image_cache.canvas(record.shown)
    return gold_region(record.regions, canvas) or whole_pixels(record.cf_boxes, canvas.size)
