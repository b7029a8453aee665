"""What a model card says of evaluations: tables for people, and the hub's ``model-index``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter

from huggingface_hub import EvalResult

from kit.prompting.messages import MODES
from kit.report.published import beside, official
from kit.report.table import ROWS, Row, rows_with_values
from kit.share.provenance import ORIGINS, Evaluation, Origin, Subject

INDEXED = {
    "exact/all": "Exact match",
    "llava_med/open_recall": "LLaVA-Med open recall",
    "llava_med/closed_accuracy": "LLaVA-Med closed accuracy",
    "medevalkit/total": "MedEvalKit accuracy",
    "iou/mean": "Mean IoU of the boxes",
    "flip_gap": "Answer flips without the evidence, beyond flips without its controls",
    "claimed_flip_gap": "Answer flips without its own boxes, beyond flips without its controls",
    "json_valid_rate": "Valid JSON",
}


def index_results(subject: Subject) -> list[EvalResult]:
    """The headline metrics of the last evaluation by dataset and mode, for ``model-index``."""
    results = []
    last = subject.evaluations[-1] if subject.evaluations else Evaluation("", {}, {}, False)
    for dataset in last.datasets or ["unnamed"]:
        name = last.shown(dataset)
        origin = ORIGINS.get(name, Origin(name, "", ""))
        for mode in MODES:
            for metric, words in INDEXED.items():
                value = last.metrics.get(f"{mode}/{metric.removesuffix('/all')}/dataset/{dataset}")
                if value is None and len(last.datasets) < 2:
                    value = last.metrics.get(f"{mode}/{metric}")
                if value is None:
                    continue
                results.append(
                    EvalResult(
                        task_type="visual-question-answering",
                        task_name="Medical visual question answering",
                        dataset_type=origin.hub or re.sub(r"[^\w.-]+", "-", name),
                        dataset_name=origin.title,
                        metric_type="exact_match" if metric == "exact/all" else metric,
                        metric_name=f"{words} (mode {mode})",
                        metric_value=round(value, 4),
                        metric_config=mode,
                    )
                )
    return results


def evaluation_section(subject: Subject) -> str:
    if not subject.evaluations:
        return "Not evaluated, or the evaluation was not given when this card was written."
    last = subject.evaluations[-1]
    models = {one.name: one.metrics for one in subject.evaluations}
    asked = [
        f"{ORIGINS[key].title if key in ORIGINS else key}, {n} questions"
        + (" (as many as its official English test split)" if official(key, n) else "")
        for key, n in ((last.shown(dataset), n) for dataset, n in last.datasets.items())
    ]
    parts = [
        f"`{last.name}` is this model, as the adapter on its base or merged"
        + (f", on {'; '.join(asked)}." if asked else ".")
        + " In brackets: 95% interval over ten images or more; n: answers that the value is over."
    ]
    if dropped := int(last.metrics.get("n_dropped", 0)):
        parts.append(f"{dropped} broken lines of its data were left out.")
    for mode in MODES:
        rows = [["metric", *models, "n"]]
        for group, members in groupby(rows_with_values(models, mode), key=itemgetter(0)):
            rows.append([f"**{group}**", *([""] * (len(models) + 1))])
            rows += [_metric_row(row, mode, models) for _, row in members]
        if len(rows) > 1:
            parts += [f"### Mode `{mode}`", markdown_table(rows), *_published(last, mode)]
    parts.append(
        "*question-only floor*: what a guesser scores that sees the training questions and no "
        "image. *flip*: the answer changes when a part of the image is taken out by inpainting. "
        "*gap*: how much more often it changes without the evidence than without its controls (the "
        "same shape elsewhere, of as much body, changed as much). *AURC*: area under the "
        "risk-coverage curve, lower is better."
    )
    return "\n\n".join(parts)


def _metric_row(row: Row, mode: str, models: Mapping[str, Mapping[str, float]]) -> list[str]:
    name = f"{mode}/{row.name}"
    counts = sorted({int(own[f"{name}/n"]) for own in models.values() if f"{name}/n" in own})
    n = "-".join(map(str, dict.fromkeys([counts[0], counts[-1]]))) if counts else ""
    return [row.words, *(row.with_bounds(own, mode) for own in models.values()), n]


def _published(last: Evaluation, mode: str) -> list[str]:
    """Published figures for the datasets that this model was evaluated on."""
    figures = beside([last.shown(dataset) for dataset in last.datasets], mode)
    if not figures:
        return []
    head = ["published model", "dataset", "metric", "published", last.name, "protocol", "source"]
    rows = [head]
    for one in figures:
        row = ROWS[one.metric]
        own = last.metrics.get(f"{mode}/{one.metric}/dataset/{one.dataset}")
        rows.append(
            [one.model, ORIGINS[one.dataset].title, row.words, row.text(one.value), row.text(own),
             one.protocol, one.source]
        )  # fmt: skip
    caveat = (
        "Published figures, for orientation only: their protocols (training data, prompts, "
        "scoring, size of the model) differ from this one and from each other, so the numbers do "
        "not rank the models."
    )
    return [caveat, markdown_table(rows)]


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head.

    >>> print(markdown_table([["a", "b"], ["x|y", "1"]]))
    | a | b |
    |---|---|
    | x\\|y | 1 |
    """
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
