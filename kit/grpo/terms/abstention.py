"""Abstention: on an image without its evidence the model says that it cannot tell.

DeFacto (arXiv 2509.20912): on the counterfactual image the reward is for abstaining, on the whole
one and on the one with another place taken out for the right answer (``answer``); abstaining there
earns nothing. Published masks are random there; here a control is as much tissue as the evidence.
"""

from __future__ import annotations

from collections.abc import Sequence

from kit.grpo.rollout import Group
from kit.grpo.terms.judge import Judge, completions_of
from kit.prompting.answers import normalise

VIEWS = ("without_evidence", "without_control")
SAID = (
    "cannot tell",
    "can not tell",
    "no answer",
    "not visible",
    "unknown",
    "cannot be determined",
    "unanswerable",
)


def score(groups: Sequence[Group], judge: Judge) -> list[float | None]:
    """1 for an answer that says so on an image without its evidence, else 0. Absent on others."""
    return [
        float(abstains(parsed.answer)) if task.view == "without_evidence" else None
        for task, parsed in completions_of(groups)
    ]


def abstains(answer: str) -> bool:
    """Whether an answer says that there is none to be given.

    >>> abstains("Cannot tell."), abstains("no answer"), abstains("No"), abstains("")
    (True, True, False, False)
    """
    return normalise(answer) in {normalise(said) for said in SAID}
