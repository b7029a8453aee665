"""Gold evidence: a right answer needs its gold evidence, and claims it.

As ``counterfactual``, with the record's own boxes taken out of the image in place of the claimed
ones, times how well the claim covers them; where a record has none, of the claimed ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from kit.counterfactual.probe import Case, probe
from kit.counterfactual.regions import claimed_region, gold_region
from kit.grpo.rollout import Group
from kit.grpo.terms.counterfactual import is_paid, online_scores
from kit.grpo.terms.judge import Judge, completions_of
from kit.scoring.faithfulness import counterfactual_score
from kit.scoring.grounding import union_iou


def score(groups: Sequence[Group], judge: Judge) -> list[float | None]:
    """The drop without the gold boxes beyond that without their controls, times IoU; what is not
    paid for (``counterfactual_answers``) earns 0. Absent on a changed image, and where nothing
    matches the evidence."""
    config, cache = judge.config, judge.image_cache
    options = {"draws": config.random_draws, "seed": config.seed}
    with judge.autocast():
        return [
            value
            for group in groups
            for value in (
                [None] * len(group.parsed)
                if group.task.view != "whole"
                else _of_gold(group, judge)
                if gold_region(group.task.record.regions, cache.canvas(group.task.record.shown))
                else online_scores(
                    judge.model, cache, [group], answers=config.counterfactual_answers, **options
                )
            )
        ]


def _of_gold(group: Group, judge: Judge) -> list[float | None]:
    config, cache, record = judge.config, judge.image_cache, group.task.record
    canvas = cache.canvas(record.shown)
    gold = gold_region(record.regions, canvas)
    controls = cache.controls(record.shown, gold, draws=config.random_draws, seed=config.seed)
    if not controls:
        return [None] * len(group.parsed)
    covered = [
        union_iou(claimed_region(parsed.boxes, canvas), gold)
        if parsed.boxes and is_paid(parsed, record, config.counterfactual_answers)
        else 0.0
        for _, parsed in completions_of([group])
    ]
    cases = [
        Case(record.shown, record.question, parsed.answer, gold, controls)
        for parsed, share in zip(group.parsed, covered, strict=True)
        if share
    ]
    effects = iter(probe(judge.model, cache, cases) if cases else ())
    scores: list[float | None] = []
    for share in covered:
        effect = next(effects) if share else None
        found = counterfactual_score(effect.delta_roi, effect.delta_rand) if effect else 0.0
        scores.append(None if found is None else found * share)
    return scores
