"""The kit's own accuracy: normalised exact match, lists as sets, yes and no by whole word.

The shape of lmms-eval's medical tasks (one 0 or 1 a record, then means by answer type, modality,
organ and content type), with the rules of ``kit.prompting.answers``.
"""

from __future__ import annotations

from kit.prompting.answers import normalise, same_answer


def exact_match(prediction: str, gold: str) -> float:
    """1.0 or 0.0: whether both are the same answer (``same_answer``).

    A gold answer of nothing but punctuation is never matched.

    >>> exact_match("Yes, there is.", "yes"), exact_match("It is normal", "No")
    (1.0, 0.0)
    >>> exact_match("spinal cord, lung", "Lung, Spinal Cord"), exact_match("lung", "Left lung")
    (1.0, 0.0)
    """
    return float(bool(normalise(gold)) and same_answer(prediction, gold))
