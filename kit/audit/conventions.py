"""The conventions under which an audit scores, side by side, and what each is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kit.data.types import SftRecord
from kit.data.words import CHINESE
from kit.report.table import ROWS, Row
from kit.scoring.accuracy import Scores, score_record
from kit.scoring.vqa_challenge import vqa_hit

VQA = "vqa_challenge/accuracy"


CONVENTIONS: dict[str, list[Row]] = {
    "exact match (this kit)": [
        Row("exact/all", "all"), Row("exact/open", "open"), Row("exact/closed", "closed"),
        Row("exact/choice", "multiple choice"),
    ],
    "relaxed match (this kit)": [
        Row("relaxed/all", "all"), Row("relaxed/open", "open"), Row("relaxed/closed", "closed"),
        ROWS["laterality_error"],
    ],
    "VQA challenge": [Row(VQA, "string match")],
    "LLaVA-Med": [
        Row("llava_med/open_recall", "open recall"),
        Row("llava_med/closed_accuracy", "closed accuracy"),
    ],
    "MedEvalKit": [
        Row("medevalkit/total", "accuracy"),
        Row("medevalkit/closed", "closed accuracy"),
        Row("medevalkit/open_exact", "open exact match"),
        Row("medevalkit/recall", "open token recall"),
        Row("medevalkit/precision", "open token precision"),
        Row("medevalkit/f1", "open token F1"),
        *(Row(f"medevalkit/bleu{order}", f"open BLEU-{order}") for order in (1, 2, 3, 4)),
        *(Row(f"medevalkit/rouge{kind}", f"open ROUGE-{kind}") for kind in ("1", "2", "L")),
    ],
}  # fmt: skip
METRICS = {row.name: row for rows in CONVENTIONS.values() for row in rows}
SHORT = (  # where there is no room for all
    "exact/all", "relaxed/all", VQA, "llava_med/open_recall", "llava_med/closed_accuracy",
    "medevalkit/total",
)  # fmt: skip


def scores_of(answer: str, record: SftRecord) -> Scores:
    """An answer under every convention; None where one has no value for such a question."""
    scores = score_record(answer, record)
    english = not (record.choices or CHINESE.search(record.question + record.answer))
    return scores | {VQA: vqa_hit(answer, record.answer) if english else None}


def words_of(metric: str) -> str:
    """What a metric is called where it stands alone.

    >>> words_of("medevalkit/f1"), words_of("exact/all"), words_of("exact/modality/CT")
    ('MedEvalKit, open token F1', 'exact match (this kit)', 'exact match (this kit), modality CT')
    """
    for group, row in grouped():
        if row.name == metric:
            return group if row.words == "all" else f"{group}, {row.words}"
    stem, _, stratum = metric.partition("/")
    group = next((g for g, row in grouped() if row.name.startswith(f"{stem}/")), stem)
    return f"{group}, {stratum.replace('/', ' ')}"


def grouped() -> Iterator[tuple[str, Row]]:
    """Each row with its convention."""
    for group, rows in CONVENTIONS.items():
        for row in rows:
            yield group, row


def of_conventions(metrics: Mapping[str, float]) -> dict[str, float]:
    """Of flat metrics those of the conventions, without strata."""
    ends = ("", "/low", "/high", "/n")
    return {
        name + end: metrics[name + end] for name in METRICS for end in ends if name + end in metrics
    }
