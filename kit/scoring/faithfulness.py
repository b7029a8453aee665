"""How rewards are put together, and the two that are no more than a formula: is the answer right,
and does it rest on a part of the image?

Each component is in 0..1, or None where it cannot be known: absent, which is not 0. What it counts
then is what the other completions of its group earn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kit.scoring.exact import exact_match
from kit.scoring.medevalkit import open_scores
from kit.scoring.settings import AnswerScoring

LARGEST_SHARE = 0.5  # of the image; what points at more of it points at nothing


@dataclass(frozen=True)
class Reward:
    """``total``, and the raw ``parts`` that it is made of (None: absent)."""

    total: float
    parts: dict[str, float | None]


def combine(parts: Mapping[str, float | None], weights: Mapping[str, float]) -> float:
    """The weighted sum of the parts that are there, scaled as if all were. A weight below 0 makes
    a part a penalty.

    >>> combine({"a": 1.0, "b": 0.5}, {"a": 0.25, "b": 0.5})
    0.5
    >>> combine({"a": 1.0, "b": None}, {"a": 0.25, "b": 0.5})
    0.75
    >>> combine({"a": 1.0, "b": 0.5}, {"a": 1.0, "b": -1.0})
    0.5
    """
    there = {name: value for name, value in parts.items() if value is not None}
    weight = sum(abs(weights[name]) for name in there)
    if weight == 0:
        return 0.0
    total = sum(weights[name] * value for name, value in there.items())
    return total * sum(abs(weights[name]) for name in parts) / weight


def group_rewards(
    parts_G: Sequence[Mapping[str, float | None]], weights: Mapping[str, float]
) -> list[Reward]:
    """The rewards of the completions of one group, all with the same names of parts.

    A part that some have and others lack counts as the mean of those that have it in the totals
    of the others: it puts them neither above nor below the group, so that nothing is gained by an
    answer that cannot be measured. What the whole group lacks is left out (:func:`combine`).

    >>> weights = {"a": 0.5, "b": 0.5}
    >>> group = [{"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 0.5}, {"a": 1.0, "b": None}]
    >>> [reward.total for reward in group_rewards(group, weights)]
    [0.5, 0.75, 0.625]
    >>> group_rewards(group[2:], weights)
    [Reward(total=1.0, parts={'a': 1.0, 'b': None})]
    """
    means: dict[str, float | None] = {}
    for name in parts_G[0]:
        known = [parts[name] for parts in parts_G if parts[name] is not None]
        means[name] = sum(known) / len(known) if known else None
    rewards = []
    for parts in parts_G:
        filled = {n: means[n] if value is None else value for n, value in parts.items()}
        rewards.append(Reward(combine(filled, weights), dict(parts)))
    return rewards


def counterfactual_score(
    delta_cf_roi: float | None, delta_cf_rand: float | None, share: float = 0.0
) -> float | None:
    """How much more the answer needs the evidence than other places, in 0..1.

    The drop without the evidence beyond the drop without random regions, times what remains of
    ``LARGEST_SHARE`` when ``share``, the part of the image that the evidence covers, is taken
    from it. A rise counts as no drop. None where a drop is unknown or not finite.

    >>> counterfactual_score(0.75, 0.25), counterfactual_score(0.75, 0.25, share=0.25)
    (0.5, 0.25)
    >>> counterfactual_score(0.2, 0.4), counterfactual_score(0.0, -0.5)
    (0.0, 0.0)
    >>> counterfactual_score(0.2, None) is None
    True
    """
    drops = (delta_cf_roi, delta_cf_rand)
    if any(drop is None or not math.isfinite(drop) for drop in drops):
        return None
    gap = max(0.0, delta_cf_roi) - max(0.0, delta_cf_rand)
    return min(1.0, max(0.0, gap)) * max(0.0, 1 - share / LARGEST_SHARE)


def answer_score(
    prediction: str, gold: str, scoring: AnswerScoring = "exact", choices: Sequence[str] = ()
) -> float:
    """An answer in 0..1: ``exact`` match (``kit.scoring.exact``), or with ``f1`` what is not
    exact by its tokens' F1 (yes and no, and one of several choices, stay all or nothing).

    >>> answer_score("left lung", "lung"), round(answer_score("left lung", "lung", "f1"), 2)
    (0.0, 0.67)
    """
    exact = exact_match(prediction, gold, choices)
    if scoring == "exact" or exact or choices or gold.strip().lower() in ("yes", "no"):
        return exact
    return open_scores(prediction, gold)["f1"]
