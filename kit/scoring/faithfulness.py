"""The four-part reward: is the answer well formed, right, about the question, and does it rest on
the part of the image that it points to?

Each component is in 0..1, or None where it cannot be known; then it is left out and the others
weigh accordingly more. Nothing that fails to compute counts as 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kit.prompting.answers import ParsedAnswer
from kit.scoring.consistency import Consistency
from kit.scoring.exact import exact_match
from kit.scoring.medevalkit import open_scores
from kit.scoring.settings import DEFAULT_WEIGHTS, AnswerScoring, Weights

LARGEST_SHARE = 0.5  # of the image; what points at more of it points at nothing


@dataclass(frozen=True)
class Reward:
    """``total``, and the raw ``parts`` that it is made of (None: absent)."""

    total: float
    parts: dict[str, float | None]


def combine(parts: Mapping[str, float | None], weights: Mapping[str, float]) -> float:
    """The weighted sum of the parts that are there, scaled as if all were.

    >>> combine({"a": 1.0, "b": 0.5}, {"a": 0.25, "b": 0.5})
    0.5
    >>> combine({"a": 1.0, "b": None}, {"a": 0.25, "b": 0.5})
    0.75
    """
    there = {name: value for name, value in parts.items() if value is not None}
    weight = sum(weights[name] for name in there)
    if weight == 0:
        return 0.0
    total = sum(weights[name] * value for name, value in there.items())
    return total * sum(weights[name] for name in parts) / weight


def faithfulness_reward(
    *,
    valid_json: bool,
    answer_correct: float,
    consistency: float | None,
    counterfactual: float | None,
    weights: Weights = DEFAULT_WEIGHTS,
) -> Reward:
    """The reward of one answer, from plain values; None leaves a component out.

    Args:
        answer_correct: right or wrong, or a degree in 0..1 (:func:`answer_score`).
        consistency: of caption and question (``kit.scoring.consistency``).
        counterfactual: what :func:`counterfactual_score` gives.

    >>> faithfulness_reward(valid_json=True, answer_correct=1.0, consistency=None,
    ...                     counterfactual=counterfactual_score(0.6, 0.1)).total
    0.875
    """
    parts = {
        "format": float(valid_json),
        "answer": answer_correct,
        "consistency": consistency,
        "counterfactual": counterfactual,
    }
    return Reward(combine(parts, weights.as_dict()), parts)


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


def answer_score(prediction: str, gold: str, scoring: AnswerScoring = "exact") -> float:
    """An answer in 0..1: ``exact`` match (``kit.scoring.exact``), or with ``f1`` what is not
    exact by its tokens' F1 (yes and no stay all or nothing).

    >>> answer_score("left lung", "lung"), round(answer_score("left lung", "lung", "f1"), 2)
    (0.0, 0.67)
    """
    exact = exact_match(prediction, gold)
    if scoring == "exact" or exact or gold.strip().lower() in ("yes", "no"):
        return exact
    return open_scores(prediction, gold)["f1"]


def score_completions(
    parsed: Sequence[ParsedAnswer],
    golds: Sequence[str],
    questions: Sequence[str],
    counterfactuals: Sequence[float | None],
    *,
    consistency: Consistency | None,
    weights: Weights = DEFAULT_WEIGHTS,
    scoring: AnswerScoring = "exact",
) -> list[Reward]:
    """The rewards of many completions; captions and questions are embedded in one batch.

    ``counterfactuals`` are scores as :func:`counterfactual_score` gives them.
    """
    agreements: Sequence[float | None] = [None] * len(parsed)
    if consistency is not None:
        agreements = consistency.scores([answer.caption for answer in parsed], questions)
    return [
        faithfulness_reward(
            valid_json=answer.valid_json,
            answer_correct=answer_score(answer.answer, gold, scoring),
            consistency=agreement,
            counterfactual=counterfactual,
            weights=weights,
        )
        for answer, gold, agreement, counterfactual in zip(
            parsed, golds, agreements, counterfactuals, strict=True
        )
    ]
