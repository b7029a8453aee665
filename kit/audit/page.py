"""The page of an audit: the tables of ``audit.json`` in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from kit.audit.conventions import METRICS, SHORT, grouped, words_of
from kit.audit.words import (
    bounds,
    claim_verdict,
    claimed,
    in_short,
    n_of,
    of_files,
)
from kit.files import atomic_write
from kit.report.page import render
from kit.report.page_tables import GROUPS
from kit.report.table import Row

SUBSETS = {
    "answered": "what it answered", "guessable": "a guess without images is right",
    "not_guessable": "... and where it is wrong", "without_leaks": "without leaked questions",
    "image_disjoint": "... and without images of the training file",
}  # fmt: skip
KINDS = {
    "image_in_other_language_test": "the image, in another language",
    "repeats_test_question": "the same question on the same image",
    "rewords_test_question": "a rewording of it on the same image",
}


def write_page(path: Path, found: Mapping) -> None:
    """Write ``audit.html`` of what ``audit.json`` holds."""
    page = render(
        "audit.html.j2",
        found=found,
        systems=list(found["systems"]),
        short=[*in_short(found)],
        files=[*of_files(found)],
        claims=[_claim(one) for one in found["claims"]],
        numbers=[*_numbers(found)],
        forest=[*_forest(found)],
        subsets=[*_subsets(found)],
        strata=[*_strata(found)],
        comparisons=[_comparison(one) for one in found["comparisons"]],
        judged=[*_judged(found)],
        kinds=KINDS,
    )
    with atomic_write(path) as stream:
        stream.write(page)


def _cell(row: Row, metrics: Mapping[str, float]) -> dict[str, str]:
    return {"text": row.text(metrics.get(row.name)), "range": bounds(row, metrics)}


def _numbers(found: Mapping) -> Iterator[dict]:
    """A line for each figure of each convention that any system has."""
    systems = [one["metrics"] for one in found["systems"].values()]
    for group, row in grouped():
        if n := n_of(row.name, systems):
            yield {
                "group": group,
                "words": row.words,
                "cells": [_cell(row, own) for own in (*systems, *found["guesses"].values())],
                "n": n,
            }


def _forest(found: Mapping) -> Iterator[dict]:
    """What the plot of intervals shows: for each figure the marks, in per cent from the left."""
    for name in ("exact/all", *SHORT[1:]):
        marks = [
            {
                "number": number,
                "value": 100 * own[name],
                "low": 100 * own.get(f"{name}/low", own[name]),
                "high": 100 * own.get(f"{name}/high", own[name]),
                "text": f"{system}: {METRICS[name].text(own[name])} {bounds(METRICS[name], own)}",
            }
            for number, (system, one) in enumerate(found["systems"].items())
            if name in (own := one["metrics"])
        ]
        guesses = [100 * own[name] for own in found["guesses"].values() if name in own]
        if marks:
            yield {"words": words_of(name), "marks": marks, "guess": max(guesses, default=None)}


def _subsets(found: Mapping) -> Iterator[dict]:
    """A table for each system: its figures on parts of the test."""
    rows = [METRICS[name] for name in SHORT]
    for name, one in found["systems"].items():
        parts = [("all records", {"n": one["metrics"].get("exact/all/n", 0), **one["metrics"]})]
        parts += [(w, one["subsets"][key]) for key, w in SUBSETS.items() if key in one["subsets"]]
        yield {
            "system": name,
            "heads": [words_of(row.name) for row in rows],
            "lines": [
                {"words": w, "n": int(own["n"]), "cells": [_cell(row, own) for row in rows]}
                for w, own in parts
            ],
        }


def _strata(found: Mapping) -> Iterator[dict]:
    """Exact match by dataset, modality, organ, content type and evidence."""
    metrics = [one["metrics"] for one in found["systems"].values()]
    names = dict.fromkeys(n.removesuffix("/n") for own in metrics for n in own if n.endswith("/n"))
    for group, words in GROUPS.items():
        for name in names:
            parts = name.split("/")
            if len(parts) == 3 and parts[0] == "exact" and parts[1] == group:
                row = Row(name, parts[2].replace("_", " "))
                yield {
                    "group": words,
                    "words": row.words,
                    "cells": [_cell(row, own) for own in metrics],
                    "n": max(int(own.get(f"{name}/n", 0)) for own in metrics),
                }


def _claim(one: Mapping) -> dict[str, str]:
    kinds = {"reproduced": "good", "not reproduced": "bad"}
    return {
        "system": one["system"],
        "claimed": claimed(one),
        "verdict": one["verdict"],
        "rest": claim_verdict(one).removeprefix(one["verdict"]),
        "kind": kinds.get(one["verdict"], "soft"),
    }


def _comparison(one: Mapping) -> dict[str, str]:
    scale = 100 * one["difference"]
    ends = "" if one["low"] is None else f"[{100 * one['low']:+.1f}, {100 * one['high']:+.1f}]"
    p_value = one["p_adjusted"]
    return {
        "words": words_of(one["metric"]),
        "pair": f"{one['b']} - {one['a']}",
        "text": f"{scale:+.1f}",
        "range": ends,
        "p": "-" if p_value is None else f"{p_value:.2g}" if p_value > 0.001 else "<= 0.001",
        "family": one["family"] or "",
        "kind": {one["b"]: "good", one["a"]: "bad", None: "soft"}[one["better"]],
        "n": str(one["n"]),
    }


def _judged(found: Mapping) -> Iterator[dict]:
    """A line for each system: what the judge says, and always beside it how far it agrees."""
    rows = [
        Row("judge/all", "judged right"), Row("judge/open", "... open"),
        Row("judge/closed", "... closed"), Row("exact", "exact match on the judged answers"),
        Row("agreement", "judge and exact match agree"), Row("kappa", "Cohen's kappa", ""),
    ]  # fmt: skip
    if not found["judge"]:
        return
    for name, own in found["judge"]["systems"].items():
        yield {
            "system": name,
            "heads": [row.words for row in rows],
            "cells": [_cell(row, own) for row in rows],
            "n": own.get("agreement/n", 0),
            "not_judged": own["not_judged"],
        }
