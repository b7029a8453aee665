"""Caption and answer: what the answer speaks of is in the caption, and what it denies is not.

That the answer follows from what is said before it is rewarded by a judge model in GRPO-CARE (arXiv
2506.16141) and by answering from the caption alone in Vision-SR1 (arXiv 2508.19652); here by the
organs and lesions that both name (``kit.data.evidence``), for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from kit.data.entailment import asks_presence, polarity
from kit.data.evidence import is_lesion, named_things, shows
from kit.grpo.rollout import Group
from kit.grpo.terms.judge import Judge, completions_of


def score(groups: Sequence[Group], judge: Judge) -> list[float | None]:
    """:func:`agreement` of each completion."""
    return [
        agreement(parsed.caption, task.record.question, parsed.answer)
        for task, parsed in completions_of(groups)
    ]


def agreement(caption: str, question: str, answer: str) -> float | None:
    """The share of the things that an answer names that the caption shows too, on the same side; of
    a yes or no to whether something is there of those that the question names, to be there or not.
    None of any other yes or no, of lesions in a named organ, which a caption does not place, and
    where no thing is named; 0 of an empty caption.

    >>> caption = "CT of the chest showing the left lung and a nodule."
    >>> agreement(caption, "What disease is shown?", "Nodule")
    1.0
    >>> agreement(caption, "Is there a mass?", "No"), agreement(caption, "Is there a mass?", "Yes")
    (1.0, 0.0)
    >>> agreement(caption, "Is there a right lung?", "No")
    1.0
    >>> agreement(caption, "What is the modality?", "CT") is None
    True
    """
    said = polarity(answer)
    if said is not None and not asks_presence(question):
        return None
    things = named_things(question if said is not None else answer)
    if not things or (said is not None and len({is_lesion(thing) for thing in things}) == 2):
        return None
    if not caption.strip():
        return 0.0
    shown = sum(shows(caption, thing) for thing in things) / len(things)
    return 1 - shown if said is False else shown
