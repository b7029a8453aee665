"""Results for people to read."""

from __future__ import annotations

from kit.prompting.messages import MODES

ROWS = {
    "exact/all": "exact match",
    "exact/open": "exact match, open",
    "exact/closed": "exact match, closed",
    "floor/question_only": "question-only floor",
    "llava_med/open_recall": "LLaVA-Med open recall",
    "llava_med/closed_accuracy": "LLaVA-Med closed accuracy",
    "medevalkit/total": "MedEvalKit accuracy",
    "json_valid_rate": "valid JSON",
    "box_rate": "answers with boxes",
    "iou/mean": "IoU with gold boxes",
    "iou/acc@0.5": "IoU at least 0.5",
    "roi_flip_rate": "answers flip without evidence",
    "random_flip_rate": "... without random regions",
    "flip_gap": "gap of the two",
    "claimed_roi_flip_rate": "answers flip without own boxes",
    "claimed_random_flip_rate": "... without random regions",
    "claimed_flip_gap": "gap of the two",
}


def metrics_table(models: dict[str, dict[str, float]]) -> str:
    """Metrics of one or several models side by side, in percent (IoU as it is), as plain text.

    >>> print(metrics_table({"base": {"think_answer/exact/all": 0.25}}))
    think_answer   base
    exact match   25.0%
    """
    lines = []
    for mode in MODES:
        table = [[mode, *models]]
        for name, words in ROWS.items():
            values = [metrics.get(f"{mode}/{name}") for metrics in models.values()]
            if any(value is not None for value in values):
                table.append([words, *(_cell(name, value) for value in values)])
        if len(table) > 1:
            lines += [*_aligned(table), ""]
    return "\n".join(lines[:-1])


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if name == "iou/mean" else f"{100 * value:.1f}%"


def _aligned(table: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
