"""Does the answer change when its evidence is taken away, and not when anything else is?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kit.counterfactual.images import ImageCache
from kit.counterfactual.probe import Case, probe
from kit.counterfactual.regions import Boxes, claimed_region, whole_pixels
from kit.evaluate.answering import DECIMALS, Answer, Predictor
from kit.prompting.answers import same_answer


@dataclass(frozen=True)
class Intervention:
    """A region that is taken away, and its controls (``kit.counterfactual.controls``)."""

    region: Boxes
    controls: tuple[Boxes, ...]


def measure_flips(
    predictor: Predictor, answers: Sequence[Answer], *, draws: int, seed: int
) -> list[dict]:
    """What becomes of each answer when a region is taken out of the image: ``flips``, by whose
    region it is (the ``gold`` boxes, the ``claimed`` ones, or ``both`` together), and
    ``unmatched``, those of the three that have a region but no control, and so are left out.

    Of each region: ``roi``, whether the greedy answer is another one without it (1.0 or 0.0);
    ``random``, the share of its controls without which it is; ``drop_roi`` and ``drop_random``,
    how far the probability of the answer drops (``kit.counterfactual.probe``); ``region_change``
    and ``control_change``, how far a removed pixel is changed (grey levels, 0..255; of controls
    the mean); and to look at, ``region`` and ``random_regions`` (pixels), ``answer`` and
    ``random_answers``.
    """
    cache = predictor.image_cache
    every = [interventions_of(cache, item, draws, seed) for item in answers]
    owned = [
        (item, intervention)
        for item, found in zip(answers, every, strict=True)
        for intervention in found.values()
        if intervention.controls
    ]
    wanted = [
        (cache.prepared(item.record.image, without), item.record.question, item.mode)
        for item, intervention in owned
        for without in (intervention.region, *intervention.controls)
    ]
    said = iter(predictor.answers(wanted))
    cases = [
        Case(
            item.record.image,
            item.record.question,
            item.parsed.answer,
            intervention.region,
            intervention.controls,
        )
        for item, intervention in owned
    ]
    effects = iter(probe(predictor.model, cache, cases, batch_size=predictor.batch_size))
    rows = []
    for item, found in zip(answers, every, strict=True):
        flips = {}
        for source, intervention in found.items():
            if not intervention.controls:
                continue
            effect, without = next(effects), next(said)
            others = [next(said) for _ in intervention.controls]
            before, image = item.parsed.answer, item.record.image
            changes = [cache.change(image, control) for control in intervention.controls]
            flips[source] = {
                "roi": float(not same_answer(without, before)),
                "random": sum(not same_answer(one, before) for one in others) / len(others),
                "drop_roi": round(effect.delta_roi, DECIMALS),
                "drop_random": round(effect.delta_rand, DECIMALS),
                "region_change": round(cache.change(image, intervention.region), DECIMALS),
                "control_change": round(sum(changes) / len(changes), DECIMALS),
                "region": [list(box) for box in intervention.region],
                "random_regions": [[list(box) for box in r] for r in intervention.controls],
                "answer": without,
                "random_answers": others,
            }
        unmatched = [source for source in found if source not in flips]
        rows.append({"flips": flips, "unmatched": unmatched})
    return rows


def interventions_of(
    cache: ImageCache, item: Answer, draws: int, seed: int
) -> dict[str, Intervention]:
    """The regions of an answer, by whose they are; ``both`` where there are gold and claimed
    ones. No control touches a gold box."""
    record = item.record
    if record.image_size is None:
        return {}
    gold = whole_pixels([r.box_xyxy_pixels for r in record.regions], record.image_size)
    claimed = claimed_region(item.parsed.boxes, record.image_size)
    both = tuple(dict.fromkeys((*gold, *claimed))) if gold and claimed else ()
    return {
        source: Intervention(
            region, cache.controls(record.image, region, draws=draws, seed=seed, avoid=gold)
        )
        for source, region in {"gold": gold, "claimed": claimed, "both": both}.items()
        if region
    }
