"""The tables of the report's page, as plain values for its template."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from kit.report import published
from kit.report.comparison import Comparison
from kit.report.metrics import FAINT, STRONG
from kit.report.table import ROWS, Row, rows_with_values

Metrics = Mapping[str, Mapping[str, float]]

STRATA = {
    "exact": "exact match", "flip_gap": "evidence gap", "iou/mean": "IoU with gold boxes",
    "claimed_flip_gap": "own-box gap", "both_flip_gap": "gap of evidence and own boxes together",
    "drop_gap": "probability drop, evidence - controls",
    "claimed_drop_gap": "probability drop, own boxes - controls",
    "causal/recall_all": "causal recall, also without controls",
    "twin/both_right": "right with and without what decides the answer",
}  # fmt: skip
HEADLINES = {
    "exact/all": "exact match", "above_floor": "... above a guess without image, points",
    "flip_gap": "evidence gap, points", "claimed_flip_gap": "own-box gap, points",
    "iou/mean": "IoU with gold boxes", "excess_aurc": "excess AURC (0 is best)",
    "json_valid_rate": "valid JSON",
}  # fmt: skip
GROUPS = {
    "": "answer type", "dataset": "dataset", "modality": "modality", "location": "organ",
    "content": "content type", "evidence": "evidence", "guessable": "question-only guess is right",
    "change": "change of a pixel that is painted over", "asked": "kind of question",
}  # fmt: skip
STRATUM_WORDS = {
    "xray_lesion": "X-ray lesion", "faint": f"faint, below {FAINT:g} of 255",
    "middle": f"between {FAINT:g} and {STRONG:g}", "strong": f"strong, above {STRONG:g}",
}  # fmt: skip


def summary(metrics: Metrics, comparisons: Sequence[Comparison], mode: str) -> Iterator[dict]:
    """The lines of the summary table: a group, words, n and a cell for each model."""
    for group, row in rows_with_values(metrics, mode):
        yield _line(row, metrics, comparisons, mode, changes=True) | {"group": group}


def headlines(metrics: Metrics, comparisons: Sequence[Comparison], mode: str) -> list[dict]:
    """The lines of a few numbers to begin with."""
    return [
        _line(ROWS[name], metrics, comparisons, mode, changes=False) | {"words": words}
        for name, words in HEADLINES.items()
        if any(f"{mode}/{name}" in own for own in metrics.values())
    ]


def _line(
    row: Row, metrics: Metrics, comparisons: Sequence[Comparison], mode: str, *, changes: bool
) -> dict:
    name = f"{mode}/{row.name}"
    counts = sorted({int(own[f"{name}/n"]) for own in metrics.values() if f"{name}/n" in own})
    best = _surely_best(row, metrics, comparisons, mode)
    return {
        "words": row.words,
        "better": {1: "higher is better", -1: "lower is better", 0: ""}[row.better],
        "n": "-".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else "",
        "cells": [
            {
                "text": row.text(own.get(name)),
                "range": row.bounds(own, mode),
                "best": model == best,
                "changes": [*_changes(row, model, list(metrics), comparisons, mode)]
                if changes
                else [],
            }
            for model, own in metrics.items()
        ],
    }


def _surely_best(
    row: Row, metrics: Metrics, comparisons: Sequence[Comparison], mode: str
) -> str | None:
    """The model that is surely better than every other one."""
    beaten: dict[str, set[str]] = {}
    for one in comparisons:
        if (one.mode, one.metric) == (mode, row.name) and one.better:
            beaten.setdefault(one.better, set()).update({one.a, one.b} - {one.better})
    there = {model for model, own in metrics.items() if f"{mode}/{row.name}" in own}
    return next((model for model in there if beaten.get(model) == there - {model}), None)


def _changes(row: Row, model: str, names: list[str], comparisons, mode: str):
    """What a model has above the first one and above the one before it."""
    place = names.index(model)
    if not row.better:  # a difference would say nothing
        return
    for other in dict.fromkeys([names[0], names[place - 1]] if place else []):
        for one in comparisons:
            if (one.a, one.b, one.mode, one.metric) != (other, model, mode, row.name):
                continue
            found = one.difference
            scale = 1 if row.unit == "" else 100
            digits = 3 if row.unit == "" else 1
            mean, low, high = (
                "" if v is None else f"{scale * v:+.{digits}f}"
                for v in (found.mean, found.low, found.high)
            )
            yield {
                "text": f"{mean} [{low}, {high}] vs {other}" if low else f"{mean} vs {other}",
                "kind": {model: "good", other: "bad", None: "soft"}[one.better],
                "sure": one.better is not None,
            }


def beside_published(metrics: Metrics, datasets: Mapping[str, int], mode: str) -> Iterator[dict]:
    """Published figures with ours beside them, and whether those are of the same questions."""
    for figure in published.beside(datasets, mode):
        row = ROWS[figure.metric]
        name = f"{mode}/{figure.metric}/dataset/{figure.dataset}"
        ours = [row.text(own.get(name)) for own in metrics.values()]
        yield {
            "model": figure.model,
            "dataset": figure.dataset,
            "words": row.words,
            "text": row.text(figure.value),
            "ours": ours,
            "protocol": figure.protocol,
            "source": figure.source,
            "whole": published.official(figure.dataset, datasets[figure.dataset]),
            "n": datasets[figure.dataset],
            "official_n": published.OFFICIAL[figure.dataset],
        }


def strata(metrics: Metrics, mode: str) -> Iterator[dict]:
    """For each headline metric a table of its values by stratum."""
    for metric, words in STRATA.items():
        row = ROWS["exact/all" if metric == "exact" else metric]
        lines = [*_stratum_lines(metrics, mode, metric, row)]
        if lines:
            yield {"metric": metric, "words": words, "lines": lines}


def _stratum_lines(metrics: Metrics, mode: str, metric: str, row: Row) -> Iterator[dict]:
    start = f"{mode}/{metric}/"
    names = dict.fromkeys(
        name.removeprefix(start).removesuffix("/n")
        for own in metrics.values()
        for name in own
        if name.startswith(start) and name.endswith("/n")
    )
    for group, words in GROUPS.items():
        for stratum in names:
            head, _, tail = stratum.partition("/") if "/" in stratum else ("", "", stratum)
            if head != group or (not group and tail not in ("open", "closed")):
                continue
            part = dataclasses.replace(row, name=f"{metric}/{stratum}")
            yield {
                "group": words,
                "name": STRATUM_WORDS.get(tail, tail.replace("_", " ")),
                "n": max(int(own.get(f"{start}{stratum}/n", 0)) for own in metrics.values()),
                "cells": [
                    {
                        "text": part.text(own.get(f"{mode}/{part.name}")),
                        "range": part.bounds(own, mode),
                    }
                    for own in metrics.values()
                ],
            }
