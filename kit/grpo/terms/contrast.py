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

VIEWS = ("without_evidence", "without_control")


def score(groups: Sequence[Group], judge: Judge) -> list[float | None]:
    """1 for an answer that is not the gold one on an image without its evidence, else 0; no answer
    earns 0 too. Absent on other images, where ``answer`` pays."""
    return [
        float(bool(parsed.answer.strip()) and not is_right(parsed, task.record))
        if task.view == "without_evidence"
        else None
        for task, parsed in completions_of(groups)
    ]
