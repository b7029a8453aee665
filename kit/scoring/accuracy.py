"""An answer under the three conventions at once.

The conventions, each a module of its own: ``exact`` (ours, with ``relaxed`` and
``laterality_error``), ``llava_med``, ``medevalkit``.
"""

from __future__ import annotations

from collections.abc import Sequence

from kit.data.types import SftRecord
from kit.data.words import CHINESE
from kit.prompting.choices import chosen
from kit.scoring import llava_med, medevalkit
from kit.scoring.exact import exact_match, laterality_error, relaxed_match

Scores = dict[str, float | None]

# fmt: off
MEDEVALKIT_OPEN = (
    "open_exact", "bleu1", "bleu2", "bleu3", "bleu4", "rouge1", "rouge2", "rougeL",
    "precision", "recall", "f1",
)
# fmt: on
KEYS = (
    "exact",
    "relaxed",
    "laterality_error",
    "llava_med/open_recall",
    "llava_med/closed_accuracy",
    "medevalkit/total",
    "medevalkit/closed",
    *(f"medevalkit/{name}" for name in MEDEVALKIT_OPEN),
)


def score_record(prediction: str, record: SftRecord) -> Scores:
    """:func:`score_answer` of an answer to a record's question."""
    return score_answer(
        prediction,
        record.answer,
        answer_type=record.answer_type,
        question=record.question,
        choices=record.choices,
    )


def score_answer(
    prediction: str,
    gold: str,
    *,
    answer_type: str,
    question: str = "",
    choices: Sequence[str] = (),
) -> Scores:
    """All values of one record, in 0..1, under the names in ``KEYS``.

    ``answer_type`` is ``"OPEN"`` or ``"CLOSED"``. None where a convention has no value for that
    type; for any other type only ours has one. The published conventions are for English: where
    the question or the gold answer is in Chinese they have none, nor for multiple choice, where
    ours takes a letter of ``choices`` for its text.

    >>> scores = score_answer("Yes.", "yes", answer_type="CLOSED")
    >>> scores["exact"], scores["llava_med/closed_accuracy"], scores["llava_med/open_recall"]
    (1.0, 1.0, None)
    """
    scores: Scores = dict.fromkeys(KEYS)
    scores["exact"] = exact_match(prediction, gold, choices)
    scores["relaxed"] = relaxed_match(prediction, gold, choices)
    scores["laterality_error"] = laterality_error(chosen(prediction, choices), gold)
    if choices or CHINESE.search(question + gold):
        return scores
    if answer_type == "CLOSED":
        scores["llava_med/closed_accuracy"] = llava_med.closed_hit(prediction, gold)
        scores["medevalkit/closed"] = medevalkit.closed_hit(prediction, gold)
        scores["medevalkit/total"] = scores["medevalkit/closed"]
    elif answer_type == "OPEN":
        scores["llava_med/open_recall"] = llava_med.open_recall(prediction, gold)
        for name, value in medevalkit.open_scores(prediction, gold).items():
            scores[f"medevalkit/{name}"] = value
        scores["medevalkit/total"] = scores["medevalkit/open_exact"]
    return scores
