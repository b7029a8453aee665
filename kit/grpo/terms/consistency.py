"""Consistency: the caption speaks of what is asked (``kit.scoring.consistency``)."""

from __future__ import annotations

from collections.abc import Sequence

from kit.grpo.rollout import Group
from kit.grpo.terms.judge import Judge, completions_of

CAPTIONS = True


def score(groups: Sequence[Group], judge: Judge) -> list[float | None]:
    """``(1 + cosine) / 2`` of caption and question; 0 for a caption that says nothing."""
    rows = list(completions_of(groups))
    return judge.consistency.scores(
        [parsed.caption for _, parsed in rows],
        [task.record.question for task, _ in rows],
        [task.record.choices for task, _ in rows],
    )
