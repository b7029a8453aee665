"""Counterfactual: a right answer needs the boxes that it claims.

The probability of the completion's own answer on the image without its claimed boxes, against that
without their controls (``kit.counterfactual``); or what ``cf_proxy`` measured for the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from kit.counterfactual.images import ImageCache
from kit.counterfactual.probe import Case, probe
from kit.counterfactual.regions import Boxes, area_share, claimed_region, gold_region
from kit.data.canvas import Canvas
from kit.data.grpo_records import GrpoRecord
from kit.grpo.rollout import Group
from kit.grpo.terms.judge import Judge, is_right, spread
from kit.prompting.answers import ParsedAnswer
from kit.scoring.faithfulness import LARGEST_SHARE, counterfactual_score
from kit.scoring.grounding import union_iou
from kit.scoring.settings import CounterfactualAnswers


def score(groups: Sequence[Group], judge: Judge) -> list[float | None]:
    """:func:`offline_scores` or :func:`online_scores` by ``counterfactual``. Absent on a changed
    image, and for all where it is ``off``."""
    config, cache = judge.config, judge.image_cache
    numbers = [n for n, group in enumerate(groups) if group.task.view == "whole"]
    asked = [groups[n] for n in numbers]
    found: list[float | None] = []
    if config.counterfactual == "offline":
        for group in asked:
            canvas = cache.canvas(group.task.record.shown)
            found += offline_scores(group, canvas, config.counterfactual_answers)
    elif config.counterfactual == "online":
        with judge.autocast():
            found = online_scores(
                judge.model,
                cache,
                asked,
                draws=config.random_draws,
                seed=config.seed,
                answers=config.counterfactual_answers,
            )
    else:
        numbers = []
    return spread(groups, (numbers, found))


def is_paid(parsed: ParsedAnswer, record: GrpoRecord, answers: CounterfactualAnswers) -> bool:
    """Whether the counterfactual part pays for an answer: a right one, or any that is given."""
    if answers == "right":
        return is_right(parsed, record)
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
