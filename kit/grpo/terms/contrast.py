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

from kit.data.entailment import polarity
from kit.data.words import CHINESE
from kit.grpo.rollout import Group
from kit.grpo.terms.judge import Judge, completions_of, is_right
from kit.prompting.answers import normalise
from kit.scoring.exact import relaxed_match

VIEWS = ("without_evidence", "without_control")


def score(groups: Sequence[Group], judge: Judge) -> list[float | None]:
    """1 for :func:`another` answer than the gold one on an image without its evidence, else 0.
    Absent on other images, where ``answer`` pays, and where the gold answer denies that something
    is there: that stays true."""
    return [
        float(another(parsed.answer, task.record.gold) and not is_right(parsed, task.record))
        if task.view == "without_evidence" and polarity(task.record.gold) is not False
        else None
        for task, parsed in completions_of(groups)
    ]


def another(answer: str, gold: str) -> bool:
    """Whether an answer says something and neither the gold one in other words nor all the words of
    it, of which more would hardly make another answer.

    >>> [another(said, "Left lung") for said in ("Right lung", "Probably the left lung.", " ")]
    [True, False, False]
    >>> another("two", "2"), another("可能是左肺", "左肺")
    (False, False)
    """
    said = set(normalise(answer).split())
    held = set(normalise(gold).split()) <= said or (CHINESE.search(gold) and gold in answer)
    return bool(said) and not held and not relaxed_match(answer, gold)
