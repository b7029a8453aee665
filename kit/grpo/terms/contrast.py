"""Contrast: two images that differ from the prompt's in one place each, and what is said of them.

Some prompts are answered on their image without its evidence, where any answer but the gold one is
paid for, and as many on the image without a control of it (the same shape with as much tissue, that
changes a pixel as much, elsewhere), where the gold answer is. What reacts to any change of an image
loses on the second what it gains on the first. The three images (whole, without, control) are those
of DeFacto (arXiv 2509.20912), which wants the model to abstain (``abstention``): where it has never
said so there is nothing to reinforce, while another answer is always among those sampled.
"""

from __future__ import annotations

from collections.abc import Sequence

from kit.grpo.rollout import Group
from kit.grpo.terms.judge import Judge, completions_of, is_right
from kit.prompting.answers import normalise

VIEWS = ("without_evidence", "without_control")


def score(groups: Sequence[Group], judge: Judge) -> list[float | None]:
    """1 for :func:`another` answer than the gold one on an image without its evidence, else 0.
    Absent on other images, where ``answer`` pays."""
    return [
        float(another(parsed.answer, task.record.gold) and not is_right(parsed, task.record))
        if task.view == "without_evidence"
        else None
        for task, parsed in completions_of(groups)
    ]


def another(answer: str, gold: str) -> bool:
    """Whether an answer says something and not all the words of the gold one, of which more would
    hardly make another answer.

    >>> [another(said, "Left lung") for said in ("Right lung", "Probably the left lung.", " ")]
    [True, False, False]
    """
    said = set(normalise(answer).split())
    return bool(said) and not set(normalise(gold).split()) <= said
