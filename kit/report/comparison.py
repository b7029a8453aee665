"""How much better is one model than another, on the same questions, and how sure is that?"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kit.prompting.messages import MODES
from kit.report.metrics import Statistic, statistics_of, values_of
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
    sides = [statistics_of([pair[side] for pair in rows]) for side in (0, 1)]
    for metric, a in sides[0].items():
        b = sides[1].get(metric)
        if metric in ROWS and b is not None and a.images == b.images:
            yield metric, _apart(a, b, seed), None


def _apart(a: Statistic, b: Statistic, seed: int) -> Difference:
    draws = []

    def apart(drawn: np.ndarray) -> np.ndarray:
        draws.append(b.resampled(drawn) - a.resampled(drawn))
        return draws[-1]

    low, high = bootstrap_statistic(apart, a.images, seed=seed)
    every = np.concatenate(draws)
    every = every[~np.isnan(every)]
    return Difference.of(b.value - a.value, low, high, every, len(a.images), len(set(a.images)))
