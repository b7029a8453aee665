"""The metrics that people are shown, in their words, and as a table of plain text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from kit.prompting.messages import MODES
from kit.report.risk_coverage import THRESHOLDS

Unit = Literal["%", "points", "grey", ""]


@dataclass(frozen=True)
class Row:
    """A metric without its mode, what it is called, its unit (shares in percent or points, or as
    they are; grey levels), and whether more of it is better (1), worse (-1) or neither (0)."""

    name: str
    words: str
    unit: Unit = "%"
    better: int = 1

    def text(self, value: float | None) -> str:
        """A value as it is shown.

        >>> Row("flip_gap", "gap", "points").text(0.104), Row("aurc", "AURC", "").text(0.2)
        ('+10.4', '0.200')
        """
        if value is None:
            return "-"
        if self.unit in ("", "grey"):
            return f"{value:.3f}" if self.unit == "" else f"{value:.1f}"
        return f"{100 * value:+.1f}" if self.unit == "points" else f"{100 * value:.1f}%"

    def bounds(self, metrics: Mapping[str, float], mode: str) -> str:
        """The interval of a metric as it is shown; empty without one (too few images)."""
        ends = [metrics.get(f"{mode}/{self.name}/{end}") for end in ("low", "high")]
        if None in ends:
            return ""
        low, high = (self.text(value).removesuffix("%") for value in ends)
        return f"[{low}, {high}]"

    def with_bounds(self, metrics: Mapping[str, float], mode: str) -> str:
        """A value and its interval.

        >>> metrics = {"m/aurc": 0.2, "m/aurc/low": 0.1, "m/aurc/high": 0.3}
        >>> Row("aurc", "AURC", "").with_bounds(metrics, "m")
        '0.200 [0.100, 0.300]'
        """
        value = self.text(metrics.get(f"{mode}/{self.name}"))
        return f"{value} {self.bounds(metrics, mode)}".rstrip()


_CONSISTENT = [
    row
    for threshold in THRESHOLDS
    for row in (
        Row(f"consistency@{threshold}/coverage", f"cosine at least {threshold}: coverage", "%", 0),
        Row(f"consistency@{threshold}/accuracy", "... exact match on these"),
    )
]


def _changes(prefix: str, whose: str) -> list[Row]:
    """How much painting over changes, and what had to be left out."""
    return [
        Row(f"{prefix}region_change", f"change of a pixel without {whose}, 0-255", "grey", 0),
        Row(f"{prefix}control_change", "... without its controls", "grey", 0),
        Row(f"{prefix}unmatched_rate", f"{whose}: no control, left out", "%", 0),
    ]


GROUPS: dict[str, list[Row]] = {
    "Answers": [
        Row("exact/all", "exact match"),
        Row("exact/open", "exact match, open"),
        Row("exact/closed", "exact match, closed"),
        Row("exact/choice", "exact match, multiple choice"),
        Row("relaxed/all", "exact match, relaxed (spelling, number words, units)"),
        Row("relaxed/open", "... open"),
        Row("relaxed/closed", "... closed"),
        Row("laterality_error", "right but for left and right", "%", -1),
        Row("floor/question_only", "question-only floor", "%", 0),
        Row("above_floor", "exact match above that floor", "points"),
        Row("llava_med/open_recall", "LLaVA-Med open recall"),
        Row("llava_med/closed_accuracy", "LLaVA-Med closed accuracy"),
        Row("medevalkit/total", "MedEvalKit accuracy"),
        Row("json_valid_rate", "valid JSON"),
    ],
    "Boxes": [
        Row("box_rate", "answers with boxes", "%", 0),
        Row("iou/mean", "IoU with gold boxes", ""),
        Row("iou/acc@0.5", "IoU at least 0.5"),
        Row("pointing", "box centres in a gold box"),
        Row("iou/mean/evidence/organ", "IoU, organs", ""),
        Row("iou/mean/evidence/lesion", "IoU, lesions (CT, MRI)", ""),
        Row("iou/mean/evidence/xray_lesion", "IoU, X-ray lesions", ""),
    ],
    "Faithfulness": [
        Row("roi_flip_rate", "answers flip without evidence"),
        Row("random_flip_rate", "... without its controls", "%", -1),
        Row("flip_gap", "gap of the two", "points"),
        Row("claimed_roi_flip_rate", "answers flip without own boxes"),
        Row("claimed_random_flip_rate", "... without its controls", "%", -1),
        Row("claimed_flip_gap", "gap of the two", "points"),
        Row("both_roi_flip_rate", "answers flip without both"),
        Row("both_random_flip_rate", "... without its controls", "%", -1),
        Row("both_flip_gap", "gap of the two", "points"),
        Row("drop_gap", "probability drop, evidence - controls", "points"),
        Row("claimed_drop_gap", "probability drop, own boxes - controls", "points"),
        *_changes("", "evidence"),
        *_changes("claimed_", "own boxes"),
        *_changes("both_", "both"),
    ],
    "Causes (phantoms)": [
        Row("causal/recall", "causal recall: share carried by what decides the answer"),
        Row("causal/control", "... by its controls", "%", -1),
        Row("causal/gap", "gap of the two", "points"),
        Row("causal/recall_all", "causal recall, also without controls"),
        Row("twin/right", "answers without what decided them that are right"),
        Row("twin/both_right", "... and with it too"),
        Row("causal/placed", "questions that a place of the image decides", "%", 0),
        Row("causal/unmatched_rate", "of these: no control, left out", "%", 0),
    ],
    "Without the image": [
        Row("vrs", "visual reliance score (VRS): image - another's", "points"),
        Row("hvrr", "hallucinated visual reasoning (HVRR)", "%", -1),
        Row("image_sensitivity", "image sensitivity, mean of blank and another's"),
        Row("changed/blank", "answers change: blank image", "%", 0),
        Row("changed/shuffled", "answers change: another's image (IS)", "%", 0),
        Row("changed/question_only", "answers change: no image", "%", 0),
        Row("exact/blank", "exact match, blank image", "%", 0),
        Row("exact/shuffled", "exact match, another's image", "%", 0),
        Row("exact/question_only", "exact match, no image", "%", 0),
        Row("accuracy_survival/question_only", "right answers that survive without image", "%", -1),
    ],
    "Confidence": [
        Row("aurc", "AURC by answer probability", "", -1),
        Row("excess_aurc", "... above the oracle's", "", -1),
        Row("ece", "calibration error of the direct answer", "%", -1),
        Row("aurc/consistency", "AURC by caption consistency", "", -1),
        Row("excess_aurc/consistency", "... above the oracle's", "", -1),
        *_CONSISTENT,
        Row("aurc/self_consistency", "AURC by self-consistency", "", -1),
        Row("excess_aurc/self_consistency", "... above the oracle's", "", -1),
        Row("ece/self_consistency", "calibration error of self-consistency", "%", -1),
    ],
}  # fmt: skip

ROWS = {row.name: row for rows in GROUPS.values() for row in rows}


def rows_with_values(
    models: Mapping[str, Mapping[str, float]], mode: str
) -> Iterator[tuple[str, Row]]:
    """The group and the row of each metric that any model has."""
    for group, rows in GROUPS.items():
        for row in rows:
            if any(f"{mode}/{row.name}" in metrics for metrics in models.values()):
                yield group, row


def metrics_table(
    models: Mapping[str, Mapping[str, float]],
    names: Collection[str] = ROWS,
    *,
    bounds: bool = False,
) -> str:
    """Metrics of one or several models side by side, as plain text.

    Args:
        names: which, of ``ROWS``.
        bounds: with their intervals, and over how many questions they are.

    >>> print(metrics_table({"base": {"think_answer/exact/all": 0.25}}))
    think_answer   base
    exact match   25.0%
    """
    lines = []
    for mode in MODES:
        table = [[mode, *models, *(["n"] if bounds else [])]]
        for _, row in rows_with_values(models, mode):
            if row.name not in names:
                continue
            cells = [
                row.with_bounds(own, mode) if bounds else row.text(own.get(f"{mode}/{row.name}"))
                for own in models.values()
            ]
            n = max(own.get(f"{mode}/{row.name}/n", 0) for own in models.values())
            table.append([row.words, *cells, *([str(n)] if bounds else [])])
        if len(table) > 1:
            lines += [*aligned(table), ""]
    return "\n".join(lines[:-1])


def aligned(table: list[list[str]]) -> list[str]:
    """Rows of cells as lines, the first column to the left and the others to the right."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
