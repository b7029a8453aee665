"""How much better is one model than another, on the same questions, and how sure is that?"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kit.prompting.messages import MODES
from kit.report.metrics import BY_DEFAULT, values_of
from kit.report.risk_coverage import Resampled, aurc, excess_aurc
from kit.report.statistics import (
    Difference,
    McNemar,
    bootstrap_statistic,
    mcnemar,
    paired_difference,
)
from kit.report.table import ROWS

Rows = Sequence[Mapping]
ACCURACIES = ("exact/all", "exact/open", "exact/closed", "llava_med/closed_accuracy")


@dataclass(frozen=True)
class Comparison:
    """What ``b`` has above ``a`` in one metric and mode."""

    a: str
    b: str
    mode: str
    metric: str
    difference: Difference
    mcnemar: McNemar | None = None

    def to_json(self) -> dict:
        """Flat plain values."""
        found = self.difference
        flat = {
            "a": self.a, "b": self.b, "mode": self.mode, "metric": self.metric,
            "difference": found.mean, "low": found.low, "high": found.high,
            "p_value": found.p_value, "n": found.n, "images": found.n_groups,
        }  # fmt: skip
        if self.mcnemar is not None:
            flat |= {
                "mcnemar/only_a": self.mcnemar.only_a,
                "mcnemar/only_b": self.mcnemar.only_b,
                "mcnemar/p_value": self.mcnemar.p_value,
            }
        return flat


def compare(models: Mapping[str, Rows], seed: int = 0) -> list[Comparison]:
    """Every shown metric of each model against each one before it.

    Only questions that both were asked count; a metric only where both have a value.
    """
    by_key = {name: _keyed(rows) for name, rows in models.items()}
    found = []
    for a, b in itertools.combinations(models, 2):
        common = [key for key in by_key[a] if key in by_key[b]]
        for mode in MODES:
            keys = [key for key in common if key[0] == mode]
            rows = [(by_key[a][key], by_key[b][key]) for key in keys]
            found += [Comparison(a, b, mode, *rest) for rest in _in_mode(rows, seed)]
    return found


def _keyed(rows: Rows) -> dict[tuple, Mapping]:
    """Rows by mode and question; a question that was asked twice by its turn too."""
    seen: Counter = Counter()
    keyed = {}
    for row in rows:
        key = (row["mode"], *(row[name] for name in ("dataset", "image", "qid", "question")))
        keyed[*key, seen[key]] = row
        seen[key] += 1
    return keyed


def _in_mode(rows: Sequence[tuple[Mapping, Mapping]], seed: int):
    values = [(values_of(a), values_of(b)) for a, b in rows]
    for metric in ROWS:
        both = [
            (a[metric], b[metric], row["image"])
            for (a, b), (row, _) in zip(values, rows, strict=True)
            if metric in a and metric in b
        ]
        if both:
            first, second, images = zip(*both, strict=True)
            test = mcnemar(first, second) if metric in ACCURACIES else None
            yield metric, paired_difference(first, second, images, seed=seed), test
    for metric, confidence in (
        ("aurc", BY_DEFAULT),
        ("aurc/consistency", "consistency"),
        ("aurc/self_consistency", "self_consistency"),
    ):
        both = [
            pair for pair in rows if all(confidence in row.get("confidences", {}) for row in pair)
        ]
        if both:
            yield metric, _area_difference(both, confidence, aurc, "aurc", seed), None
            name = f"excess_{metric}"
            found = _area_difference(both, confidence, excess_aurc, "excess_aurc", seed)
            yield name, found, None


def _area_difference(rows, confidence: str, area, method: str, seed: int) -> Difference:
    sides = [
        (
            np.array([pair[side]["confidences"][confidence] for pair in rows]),
            np.array([pair[side]["scores"]["exact"] for pair in rows]),
        )
        for side in (0, 1)
    ]
    images = [row["image"] for row, _ in rows]
    again = [getattr(Resampled(*side), method) for side in sides]
    draws = []

    def apart(drawn: np.ndarray) -> np.ndarray:
        draws.append(again[1](drawn) - again[0](drawn))
        return draws[-1]

    low, high = bootstrap_statistic(apart, images, seed=seed)
    mean = area(*sides[1]) - area(*sides[0])
    return Difference.of(mean, low, high, np.concatenate(draws), len(rows), len(set(images)))
