"""Abstention: on an image without its evidence the model says that it cannot tell.

DeFacto (arXiv 2509.20912): on the counterfactual image the reward is for abstaining, on the whole
one and on the one with another place taken out for the right answer (``answer``); abstaining there
earns nothing. Published masks are random there; here a control is as much tissue as the evidence.
That something is no longer there, or none of it, is as good an answer as that it cannot be told.
"""

from __future__ import annotations

from collections.abc import Sequence

from kit.data.box_columns import UNNAMED
from kit.data.entailment import Asked, answer_without
from kit.data.grpo_records import GrpoRecord
from kit.grpo.rollout import Group
from kit.grpo.terms.judge import Judge, completions_of
from kit.prompting.answers import normalise
from kit.scoring.exact import exact_match

VIEWS = ("without_evidence", "without_control")
SAID = (
    "cannot tell", "can not tell", "i cannot tell", "cannot say", "no answer", "not visible",
    "unknown", "not known", "cannot be determined", "cannot be determined from the image",
    "cannot determine", "cannot be answered", "unanswerable", "insufficient evidence",
    "无法判断", "无法确定", "不能确定", "看不出", "不知道",
)  # fmt: skip


def score(groups: Sequence[Group], judge: Judge) -> list[float | None]:
    """1 for an answer that says so on an image without its evidence, or what is true there
    (``kit.data.entailment.answer_without``), else 0. Absent on others, and where the evidence has
    no label, so that nobody knows what is gone."""
    return [
        float(abstains(parsed.answer) or _is_true(parsed.answer, task.record))
        if task.view == "without_evidence" and _is_labelled(task.record)
        else None
        for task, parsed in completions_of(groups)
    ]


def _is_labelled(record: GrpoRecord) -> bool:
    return all(region.label != UNNAMED for region in record.regions)


def _is_true(answer: str, record: GrpoRecord) -> bool:
    asked = Asked(record.question, record.gold, record.content_type, record.regions)
    known = answer_without(asked)
    return bool(known) and bool(exact_match(answer, known))


def abstains(answer: str) -> bool:
    """Whether an answer says that there is none to be given.

    >>> abstains("Cannot tell."), abstains("无法判断。"), abstains("No"), abstains("")
    (True, True, False, False)
    """
    return normalise(answer) in {normalise(said) for said in SAID}
