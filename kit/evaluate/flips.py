"""Does the answer change when its evidence is taken away, and not when anything else is?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kit.counterfactual.images import ImageCache
from kit.counterfactual.probe import Case, Effect, probe
from kit.counterfactual.regions import Boxes, claimed_region, gold_region
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
    every = interventions_of(cache, answers, draws, seed)
    owned = [
        (item, intervention)
        for item, found in zip(answers, every, strict=True)
        for intervention in found.values()
        if intervention.controls
    ]
    outcomes = iter(outcomes_of(predictor, owned))
    rows = []
    for item, found in zip(answers, every, strict=True):
        flips = {
            source: _flip(cache, item, intervention, next(outcomes))
            for source, intervention in found.items()
            if intervention.controls
        }
        unmatched = [source for source in found if source not in flips]
        rows.append({"flips": flips, "unmatched": unmatched})
    return rows


@dataclass(frozen=True)
class Outcome:
    """What is said without a region (``answer``) and without each of its controls, and what
    becomes of the probability of the answer to the whole image."""

    effect: Effect
    answer: str
    of_controls: tuple[str, ...]


def outcomes_of(
    predictor: Predictor, owned: Sequence[tuple[Answer, Intervention]]
) -> list[Outcome]:
    """That of each intervention on the image of its answer."""
    cache = predictor.image_cache
    wanted = [
        (item, without)
        for item, intervention in owned
        for without in (intervention.region, *intervention.controls)
    ]
    images = cache.prepared_all([(item.record.shown, without) for item, without in wanted])
    asks = [
        (image, item.record.question, item.mode)
        for image, (item, _) in zip(images, wanted, strict=True)
    ]
    said = iter(predictor.answers(asks))
    cases = [
        Case(
            item.record.shown,
            item.record.question,
            item.parsed.answer,
            intervention.region,
            intervention.controls,
        )
        for item, intervention in owned
    ]
    effects = probe(predictor.model, cache, cases, batch_size=predictor.batch_size)
    return [
        Outcome(effect, next(said), tuple(next(said) for _ in intervention.controls))
        for effect, (_, intervention) in zip(effects, owned, strict=True)
    ]


def _flip(cache: ImageCache, item: Answer, intervention: Intervention, outcome: Outcome) -> dict:
    """One of the ``flips`` of an answer, of a region that has controls."""
    before, shown, choices = item.parsed.answer, item.record.shown, item.record.choices
    without, others, effect = outcome.answer, outcome.of_controls, outcome.effect
    changes = [cache.change(shown, control) for control in intervention.controls]
    return {
        "roi": float(not same_answer(without, before, choices)),
        "random": sum(not same_answer(one, before, choices) for one in others) / len(others),
        "drop_roi": round(effect.delta_roi, DECIMALS),
        "drop_random": round(effect.delta_rand, DECIMALS),
        "region_change": round(cache.change(shown, intervention.region), DECIMALS),
        "control_change": round(sum(changes) / len(changes), DECIMALS),
        "region": [list(box) for box in intervention.region],
        "random_regions": [[list(box) for box in r] for r in intervention.controls],
        "answer": without,
        "random_answers": list(others),
    }


def interventions_of(
    cache: ImageCache, answers: Sequence[Answer], draws: int, seed: int
) -> list[dict[str, Intervention]]:
    """The regions of each answer, by whose they are; ``both`` where there are gold and claimed
    ones. No control touches a gold box."""
    asked = []
    for number, item in enumerate(answers):
        record = item.record
        canvas = cache.canvas(record.shown)
        gold = gold_region(record.regions, canvas)
        claimed = claimed_region(item.parsed.boxes, canvas)
        both = tuple(dict.fromkeys((*gold, *claimed))) if gold and claimed else ()
        regions = {"gold": gold, "claimed": claimed, "both": both}
        asked += [(number, source, (record.shown, r, gold)) for source, r in regions.items() if r]
    controls = cache.controls_all([request for *_, request in asked], draws=draws, seed=seed)
    found: list[dict[str, Intervention]] = [{} for _ in answers]
    for (number, source, (_, region, _)), own in zip(asked, controls, strict=True):
        found[number][source] = Intervention(region, own)
    return found
