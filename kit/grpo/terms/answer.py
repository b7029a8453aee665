"""Answer: the gold one (verifiable reward; DeepSeekMath, arXiv 2402.03300)."""

from __future__ import annotations

from collections.abc import Sequence

from kit.grpo.rollout import Group
from kit.grpo.terms.judge import Judge, completions_of
from kit.scoring.faithfulness import answer_score


def score(groups: Sequence[Group], judge: Judge) -> list[float | None]:
    """:func:`kit.scoring.faithfulness.answer_score` by ``answer_scoring``. Absent on an image
    without its evidence, where the gold answer is none."""
    scoring = judge.config.answer_scoring
    return [
        None
        if task.view == "without_evidence"
        else answer_score(parsed.answer, task.record.gold, scoring, task.record.choices)
        for task, parsed in completions_of(groups)
    ]
