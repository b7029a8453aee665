"""How much better is one model than another, on the same questions, and how sure is that?"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from kit.prompting.messages import MODES
from kit.report.families import FALSE_ALARMS, adjust
from kit.report.metrics import bounds_of, statistics_of, values_of
from kit.report.statistics import (
    Difference,
    Discordant,
    cluster_of,
    discordant,
    paired_difference,
    statistic_difference,
)
from kit.report.table import ROWS

Rows = Sequence[Mapping]
Found = tuple[str, Difference, Discordant | None]
PRIMARY = ("exact/all", "flip_gap", "iou/mean")  # of the main mode, the last of MODES that is there
ACCURACIES = ("exact/all", "exact/open", "exact/closed", "llava_med/closed_accuracy")
REPEATED = ("above_floor",)  # where a guesser is the same, its difference is that of exact match


@dataclass(frozen=True)
class Comparison:
    """What ``b`` has above ``a`` in one metric and mode.

    ``family``: ``primary`` or ``other``, with which ``p_adjusted`` is corrected for; None of a
    metric of which neither more nor less is better.
    """

    a: str
    b: str
    mode: str
    metric: str
    difference: Difference
    discordant: Discordant | None = None
    family: str | None = None
    p_adjusted: float | None = None

    @property
    def better(self) -> str | None:
        """The model that is surely better, if one is: more than chance, also after so many
        comparisons."""
        if self.p_adjusted is None or self.p_adjusted > FALSE_ALARMS:
            return None
        return self.b if self.difference.mean * ROWS[self.metric].better > 0 else self.a

    def to_json(self) -> dict:
        """Flat plain values."""
        found = self.difference
        flat = {
            "a": self.a, "b": self.b, "mode": self.mode, "metric": self.metric,
            "difference": found.mean, "low": found.low, "high": found.high,
            "p_value": found.p_value, "p_adjusted": self.p_adjusted, "family": self.family,
            "n": found.n, "clusters": found.n_clusters,
        }  # fmt: skip
        if self.discordant is not None:
            flat |= {"only_a": self.discordant.only_a, "only_b": self.discordant.only_b}
        return flat


def compare(models: Mapping[str, Rows], seed: int = 0) -> list[Comparison]:
    """Every shown metric of each model against each one before it, with p-values that are
    corrected for how many comparisons there are.

    Only questions that both were asked count; a metric only where both have a value.
    """
    contents = contents_of(itertools.chain(*models.values()))
    by_key = {name: keyed(rows, contents) for name, rows in models.items()}
    found = []
    for a, b in itertools.combinations(models, 2):
        common = [key for key in by_key[a] if key in by_key[b]]
        for mode in MODES:
            keys = [key for key in common if key[0] == mode]
            rows = [(by_key[a][key], by_key[b][key]) for key in keys]
            found += [Comparison(a, b, mode, *rest) for rest in _in_mode(rows, seed)]
    return corrected(found)


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same with their families and adjusted p-values."""
    main = max((one.mode for one in comparisons), key=MODES.index, default="")
    families = [
        None
        if not ROWS[one.metric].better
        else "primary"
        if one.mode == main and one.metric in PRIMARY
        else "other"
        for one in comparisons
    ]
    p_values = adjust([one.difference.p_value for one in comparisons], families)
    return [
        replace(one, family=family, p_adjusted=p_value)
        for one, family, p_value in zip(comparisons, families, p_values, strict=True)
    ]


def correction(comparisons: Sequence[Comparison]) -> str:
    """What was corrected for, in a sentence; empty where nothing was compared."""
    counts = Counter(one.family for one in comparisons if one.family)
    if not counts:
        return ""
    return (
        f"Of {counts.total()} comparisons, {counts['primary']} were named before looking (exact "
        "match, evidence gap and IoU of the main mode, all pairs of models; Holm) and "
        f"{counts['other']} are the rest (Benjamini-Hochberg): half of 5% each, so that of pages "
        "of equal models at most one in twenty calls any two different."
    )


def contents_of(rows: Iterable[Mapping]) -> dict[str, str]:
    """The sum of each image by its path, as far as rows say it."""
    return {row["image"]: row["image_sha256"] for row in rows if "image_sha256" in row}


def keyed(rows: Rows, contents: Mapping[str, str]) -> dict[tuple, Mapping]:
    """Rows by mode and question; a question that was asked twice by its turn too.

    Images are the same if their ``contents`` (:func:`contents_of`) are, wherever they lie; those
    of which none is known if their paths are.

    >>> row = {"mode": "answer_only", "dataset": "own", "qid": "1", "question": "Where?"}
    >>> there = row | {"image": "/b/1.png", "image_sha256": "5a"}
    >>> for contents in ({"/a/1.png": "5a"}, {}):
    ...     here = keyed([row | {"image": "/a/1.png"}], contents)
    ...     print(here.keys() == keyed([there], contents).keys())
    True
    False
    """
    seen: Counter = Counter()
    keyed = {}
    for row in rows:
        path = row["image"]
        image = row.get("image_sha256") or contents.get(path, path)
        key = (row["mode"], row["dataset"], image, row["qid"], row["question"])
        keyed[*key, seen[key]] = row
        seen[key] += 1
    return keyed


def _in_mode(rows: Sequence[tuple[Mapping, Mapping]], seed: int) -> Iterator[Found]:
    values = [(values_of(a), values_of(b)) for a, b in rows]
    for metric in (name for name in ROWS if name not in REPEATED):
        both = [
            (a[metric], b[metric], cluster_of(row))
            for (a, b), (row, _) in zip(values, rows, strict=True)
            if metric in a and metric in b
        ]
        if both:
            first, second, clusters = zip(*both, strict=True)
            found = paired_difference(first, second, clusters, bounds_of(metric), seed)
            yield metric, found, discordant(first, second) if metric in ACCURACIES else None
    sides = [[pair[side] for pair in rows] for side in (0, 1)]
    a, b, pooled = (statistics_of(part) for part in (*sides, sides[0] + sides[1]))
    for metric in (name for name in ROWS if name in a and name in b):
        one, other = a[metric], b[metric]
        if one.clusters == other.clusters:
            sides = (one.value, other.value, pooled[metric].counted, one.clusters)
            yield metric, statistic_difference(*sides, bounds_of(metric), seed), None
