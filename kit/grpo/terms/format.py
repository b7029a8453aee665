"""Format: the completion is exactly one JSON object with caption, reasoning, boxes and answer.

A rule-based format reward beside that of the answer, as DeepSeek-R1 has it (arXiv 2501.12948).
"""

from __future__ import annotations

from collections.abc import Sequence

from kit.grpo.rollout import Group
from kit.grpo.terms.judge import Judge, completions_of


def score(groups: Sequence[Group], judge: Judge) -> list[float | None]:
    """1 for what :func:`kit.prompting.answers.parse_answer` finds valid, else 0."""
    return [float(parsed.valid_json) for _, parsed in completions_of(groups)]
