"""IoU: the claimed boxes cover the gold ones.

The usual reward of grounded GRPO: VLM-R1 (arXiv 2504.07615), Visual-RFT (arXiv 2503.01785). Of the
area of all boxes together, so that neither splitting nor repeating a box pays.
"""

from __future__ import annotations

from collections.abc import Sequence

from kit.counterfactual.regions import claimed_region, gold_region
from kit.grpo.rollout import Group
from kit.grpo.terms.judge import Judge, completions_of
from kit.scoring.grounding import union_iou


def score(groups: Sequence[Group], judge: Judge) -> list[float | None]:
    """IoU in 0..1; 0 without a box. Absent where there is no gold box, or the image is shown
    without it."""
    scores: list[float | None] = []
    for task, parsed in completions_of(groups):
        canvas = judge.image_cache.canvas(task.record.shown)
        gold = gold_region(task.record.regions, canvas)
        if not gold or task.view == "without_evidence":
            scores.append(None)
            continue
        claim = claimed_region(parsed.boxes, canvas)
        scores.append(union_iou(claim, gold) if claim else 0.0)
    return scores
