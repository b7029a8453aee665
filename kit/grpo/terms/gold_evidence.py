"""Gold evidence: a right answer needs its gold evidence, and claims it.

As ``counterfactual``, with the record's own boxes taken out of the image in place of the claimed
ones, times how well the claim covers them; where a record has none, of the claimed ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from kit.counterfactual.probe import Case, probe
from kit.counterfactual.regions import Boxes, claimed_region, gold_region
from kit.grpo.rollout import Group
from kit.grpo.terms.counterfactual import is_paid, online_scores
from kit.grpo.terms.judge import Judge, spread
from kit.scoring.faithfulness import counterfactual_score
from kit.scoring.grounding import union_iou


def score(groups: Sequence[Group], judge: Judge) -> list[float | None]:
    """The drop without the gold boxes beyond that without their controls, times IoU; what is not
    paid for (``counterfactual_answers``) earns 0. Absent on a changed image, and where nothing
    matches the evidence."""
    config, cache = judge.config, judge.image_cache
    gold = {
        n: gold_region(group.task.record.regions, cache.canvas(group.task.record.shown))
        for n, group in enumerate(groups)
        if group.task.view == "whole"
    }
    marked = [n for n in gold if gold[n]]
    unmarked = [n for n in gold if not gold[n]]
    with judge.autocast():
        of_gold = _of_gold([groups[n] for n in marked], [gold[n] for n in marked], judge)
        of_claims = online_scores(
            judge.model,
            cache,
            [groups[n] for n in unmarked],
            draws=config.random_draws,
            seed=config.seed,
            answers=config.counterfactual_answers,
        )
    return spread(groups, (marked, of_gold), (unmarked, of_claims))


def _of_gold(groups: Sequence[Group], gold: Sequence[Boxes], judge: Judge) -> list[float | None]:
    config, cache = judge.config, judge.image_cache
    found = cache.controls_all(
        [(group.task.record.shown, own, ()) for group, own in zip(groups, gold, strict=True)],
        draws=config.random_draws,
        seed=config.seed,
    )
    scores: list[float | None] = []
    cases: list[tuple[int, Case, float]] = []
    for group, own, controls in zip(groups, gold, found, strict=True):
        record = group.task.record
        canvas = cache.canvas(record.shown)
        for parsed in group.parsed:
            scores.append(0.0 if controls else None)
            if not (controls and is_paid(parsed, record, config.counterfactual_answers)):
                continue
            claim = claimed_region(parsed.boxes, canvas) if parsed.boxes else ()
            if claim and (share := union_iou(claim, own)):
                case = Case(record.shown, record.question, parsed.answer, own, controls)
                cases.append((len(scores) - 1, case, share))
    effects = probe(judge.model, cache, [case for _, case, _ in cases])
    for (place, _, share), effect in zip(cases, effects, strict=True):
        value = counterfactual_score(effect.delta_roi, effect.delta_rand)
        scores[place] = None if value is None else value * share
    return scores
