"""The kit's own accuracy, and which wrong answers are right but for left and right.

The shape of lmms-eval's medical tasks (one 0 or 1 a record, then means by answer type, modality,
organ and content type), with the rules of ``kit.prompting.answers``.
"""

from __future__ import annotations

from collections.abc import Sequence

from kit.data.words import exchange_sides
from kit.prompting.answers import normalise, same_answer
from kit.prompting.relaxed import relaxed_answer


def exact_match(prediction: str, gold: str, choices: Sequence[str] = ()) -> float:
    """1.0 or 0.0: whether both are the same answer (``same_answer``).

    A gold answer of nothing but punctuation is never matched. With ``choices`` a letter of theirs
    is as good as its text.

    >>> exact_match("Yes, there is.", "yes"), exact_match("It is normal", "No")
    (1.0, 0.0)
    >>> exact_match("spinal cord, lung", "Lung, Spinal Cord"), exact_match("lung", "Left lung")
    (1.0, 0.0)
    >>> exact_match("B", "Lung", ["Liver", "Lung"]), exact_match("B", "Lung")
    (1.0, 0.0)
    """
    return float(bool(normalise(gold)) and same_answer(prediction, gold, choices))


def relaxed_match(prediction: str, gold: str, choices: Sequence[str] = ()) -> float:
    """1.0 or 0.0: ``exact_match``, or the same but for how it is written (``relaxed_answer``).

    >>> relaxed_match("3cm", "3 cm"), relaxed_match("tumours", "Tumor"), relaxed_match("4", "3")
    (1.0, 1.0, 0.0)
    """
    return float(bool(normalise(gold)) and relaxed_answer(prediction, gold, choices))


def laterality_error(prediction: str, gold: str) -> float | None:
    """1.0 for a wrong answer that is the gold answer with left and right exchanged, else 0.0; both
    by ``relaxed_answer``. None where the gold answer names no side, or is its own mirror image.

    >>> laterality_error("left side", "Right"), laterality_error("Right", "Right")
    (1.0, 0.0)
    >>> laterality_error("Left", "Heart"), laterality_error("Left", "Left Lung, Right Lung")
    (None, None)
    """
    mirrored = exchange_sides(gold)
    if relaxed_answer(gold, mirrored):
        return None
    return float(not relaxed_answer(prediction, gold) and relaxed_answer(prediction, mirrored))
