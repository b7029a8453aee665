"""Does the answer change when its evidence is taken away, and not when anything else is?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kit.counterfactual.images import Boxes, random_matches
from kit.counterfactual.probe import Case, probe
from kit.counterfactual.regions import claimed_region, whole_pixels
from kit.evaluate.answering import DECIMALS, Answer, Predictor
from kit.prompting.answers import as_set


@dataclass(frozen=True)
class Intervention:
    """A region that is taken away, and the random ones that match it."""

    region: Boxes
    random: tuple[Boxes, ...]


def measure_flips(
    predictor: Predictor, answers: Sequence[Answer], *, draws: int, seed: int
) -> list[dict[str, dict]]:
    """What becomes of each answer when a region is taken out of the image, by whose region it is:
    the ``gold`` boxes, the ``claimed`` ones, or ``both`` together.

    For each: ``roi``, whether the greedy answer is another one without the region (1.0 or 0.0);
    ``random``, the share of the matched random regions without which it is; ``drop_roi`` and
    ``drop_random``, how far the probability of the answer drops (``kit.counterfactual.probe``);
    and to look at, ``region`` and ``random_regions`` (pixels), ``answer`` and ``random_answers``.
    A region that nothing matches is left out: there is nothing to compare it with.
    """
    owned = [
        (item, source, intervention)
        for item in answers
        for source, intervention in interventions_of(item, draws, seed).items()
    ]
    wanted = [
        (
            predictor.image_cache.prepared(item.record.image, without),
            item.record.question,
            item.mode,
        )
        for item, _, intervention in owned
        for without in (intervention.region, *intervention.random)
    ]
    said = iter(predictor.answers(wanted))
    cases = [
        Case(
            item.record.image,
            item.record.question,
            item.parsed.answer,
            intervention.region,
            intervention.random,
        )
        for item, _, intervention in owned
    ]
    effects = probe(predictor.model, predictor.image_cache, cases, batch_size=predictor.batch_size)
    flips: dict[int, dict[str, dict]] = {id(item): {} for item in answers}
    for (item, source, intervention), effect in zip(owned, effects, strict=True):
        without = next(said)
        random = [next(said) for _ in intervention.random]
        before = as_set(item.parsed.answer)
        flips[id(item)][source] = {
            "roi": float(as_set(without) != before),
            "random": sum(as_set(one) != before for one in random) / len(random),
            "drop_roi": round(effect.delta_roi, DECIMALS),
            "drop_random": round(effect.delta_rand, DECIMALS),
            "region": [list(box) for box in intervention.region],
            "random_regions": [[list(box) for box in region] for region in intervention.random],
            "answer": without,
            "random_answers": random,
        }
    return [flips[id(item)] for item in answers]


def interventions_of(item: Answer, draws: int, seed: int) -> dict[str, Intervention]:
    """The regions of an answer, by whose they are; ``both`` where there are gold and claimed
    ones."""
    record = item.record
    if record.image_size is None:
        return {}
    gold = whole_pixels([r.box_xyxy_pixels for r in record.regions], record.image_size)
    claimed = claimed_region(item.parsed.boxes, record.image_size)
    both = tuple(dict.fromkeys((*gold, *claimed))) if gold and claimed else ()
    found = {}
    for source, region in {"gold": gold, "claimed": claimed, "both": both}.items():
        names = (seed, record.dataset, record.qid, record.question)
        random = random_matches(region, record.image_size, draws=draws, seed=names)
        if random:
            found[source] = Intervention(region, random)
    return found
