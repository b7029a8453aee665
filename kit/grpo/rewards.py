"""What completions earn: the four-part reward, and functions of the user's own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from kit.counterfactual.images import ImageCache
from kit.counterfactual.probe import Case, probe
from kit.counterfactual.regions import Boxes, area_share, claimed_region, gold_region
from kit.data.canvas import Canvas
from kit.data.choices import without_choices
from kit.data.grpo_records import GrpoRecord
from kit.grpo.config import GrpoConfig
from kit.grpo.functions import RewardFunctions
from kit.grpo.rollout import Group
from kit.prompting.answers import ParsedAnswer
from kit.scoring.consistency import Consistency
from kit.scoring.exact import exact_match
from kit.scoring.faithfulness import (
    LARGEST_SHARE,
    Reward,
    counterfactual_score,
    group_rewards,
    reward_parts,
)
from kit.scoring.grounding import union_iou
from kit.scoring.settings import CounterfactualAnswers, parse_weights


class Rewards:
    """Rewards groups of completions as configured. ``autocast`` gives the context in which the
    model is asked; sentence encoder and functions run outside of it, as in evaluation.

    Raises:
        UserError: the sentence encoder cannot be loaded.
        ConfigError: a reward function cannot be found.
    """

    def __init__(
        self,
        config: GrpoConfig,
        device: torch.device | str,
        autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ):
        self.config, self.autocast = config, autocast
        own_weights = parse_weights(config.weights)
        self.consistency = None
        if own_weights.consistency:
            self.consistency = Consistency(config.consistency_model, device)
        self.functions = RewardFunctions(config.reward_funcs)
        others = config.reward_weights or [1.0] * len(self.functions.names)
        self.weights = own_weights.as_dict() | dict(zip(self.functions.names, others, strict=True))

    @property
    def spreads(self) -> list[str]:
        """The metrics of which the standard deviation is logged too."""
        return [f"rewards/{name}/mean" for name in self.weights]

    def __call__(
        self, model: nn.Module, image_cache: ImageCache, groups: Sequence[Group]
    ) -> list[list[Reward]]:
        """One reward a completion, a list a group. ``model`` judges the counterfactuals."""
        records = [group.task.record for group in groups for _ in group.completions]
        parts = reward_parts(
            [parsed for group in groups for parsed in group.parsed],
            [record.gold for record in records],
            [without_choices(r.question, r.choices) for r in records],
            self._counterfactuals(model, image_cache, groups),
            consistency=self.consistency,
            scoring=self.config.answer_scoring,
            choices=[record.choices for record in records],
        )
        if self.functions.names:
            added = self.functions(groups)
            parts = [own | more for own, more in zip(parts, added, strict=True)]
        ordered = iter(parts)
        return [
            group_rewards([next(ordered) for _ in group.completions], self.weights)
            for group in groups
        ]

    def _counterfactuals(
        self, model: nn.Module, image_cache: ImageCache, groups: Sequence[Group]
    ) -> list[float | None]:
        config = self.config
        if config.counterfactual == "off" or not self.weights["counterfactual"]:
            return [None for group in groups for _ in group.completions]
        if config.counterfactual == "offline":
            answers = config.counterfactual_answers
            canvases = [image_cache.canvas(group.task.record.shown) for group in groups]
            return [
                score
                for group, canvas in zip(groups, canvases, strict=True)
                for score in offline_scores(group, canvas, answers)
            ]
        with self.autocast():
            return online_scores(
                model,
                image_cache,
                groups,
                draws=config.random_draws,
                seed=config.seed,
                answers=config.counterfactual_answers,
            )


def is_paid(parsed: ParsedAnswer, record: GrpoRecord, answers: CounterfactualAnswers) -> bool:
    """Whether the counterfactual part pays for an answer: a right one, or any that is given."""
    if answers == "right":
        return exact_match(parsed.answer, record.gold, record.choices) == 1
    return bool(parsed.answer.strip())


def offline_scores(
    group: Group, canvas: Canvas, answers: CounterfactualAnswers = "right"
) -> list[float | None]:
    """The record's own counterfactual score, times how well each completion's boxes cover the
    region that it was measured for (IoU); the score alone where the record names no region. What
    is not paid for earns 0. None for all where nothing was measured for the record."""
    record = group.task.record
    score = counterfactual_score(record.delta_cf_roi, record.delta_cf_rand)
    if score is None:
        return [None] * len(group.completions)

    def covered(parsed: ParsedAnswer) -> float:
        if not record.cf_boxes:
            return 1.0
        claim = claimed_region(parsed.boxes, canvas)
        return union_iou(claim, record.cf_boxes) if claim else 0.0

    return [
        score * covered(parsed) if is_paid(parsed, record, answers) else 0.0
        for parsed in group.parsed
    ]


def online_scores(
    model: nn.Module,
    image_cache: ImageCache,
    groups: Sequence[Group],
    *,
    draws: int,
    seed: int,
    answers: CounterfactualAnswers = "right",
) -> list[float | None]:
    """The counterfactual score of each completion: by how much its own answer loses probability
    without the boxes that it claims, beyond what their controls take from it.

    An answer that is not paid for earns 0 and is not measured; so does a claim of no box, or of
    ``LARGEST_SHARE`` of the image or more. None where nothing matches the claim, or a probability
    is not finite. All completions of all groups are measured in one batch, equal claims once.
    """
    scores: list[float | None] = []
    claims: list[tuple[int, Case, Boxes, float]] = []
    for group in groups:
        record = group.task.record
        canvas = image_cache.canvas(record.shown)
        gold = gold_region(record.regions, canvas)
        for parsed in group.parsed:
            claim = claimed_region(parsed.boxes, canvas)
            share = area_share(claim, canvas)
            if not (is_paid(parsed, record, answers) and 0 < share < LARGEST_SHARE):
                scores.append(0.0)
                continue
            case = Case(record.shown, record.question, parsed.answer, claim, ())
            claims.append((len(scores), case, gold, share))
            scores.append(None)
    found = image_cache.controls_all(
        [(case.image, case.evidence, gold) for _, case, gold, _ in claims], draws=draws, seed=seed
    )
    measured = [
        (place, replace(case, controls=controls), share)
        for (place, case, _, share), controls in zip(claims, found, strict=True)
        if controls
    ]
    effects = probe(model, image_cache, [case for _, case, _ in measured])
    for (place, _, share), effect in zip(measured, effects, strict=True):
        scores[place] = counterfactual_score(effect.delta_roi, effect.delta_rand, share)
    return scores
