"""How sure a number is, and whether two models differ.

Questions about one image are not independent, so images are what is drawn (cluster bootstrap,
Field and Welsh 2007, doi 10.1111/j.1467-9868.2007.00593.x), and of two models that answered the
same questions the differences are what is averaged (paired).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 2000
ROUNDING = 1e-12  # gains and losses that cancel come to no more than this


def bootstrap_interval(
    values: Sequence[float],
    groups: Sequence[Hashable],
    *,
    confidence: float = CONFIDENCE,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean, resampling whole groups.

    >>> bootstrap_interval([1.0, 1.0, 1.0], ["a", "a", "b"])
    (1.0, 1.0)
    """
    number = _numbers(groups)
    sums = np.bincount(number, weights=np.asarray(values, dtype=np.float64))
    counts = np.bincount(number).astype(np.float64)
    drawn = _draws(len(sums), n_resamples, seed)
    return _percentiles(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), confidence)


def bootstrap_statistic(
    statistic: Callable[[np.ndarray], np.ndarray],
    groups: Sequence[Hashable],
    *,
    confidence: float = CONFIDENCE,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """The same for a statistic that is no mean.

    Args:
        statistic: takes how often each record was drawn, ``(resamples, records)`` int64, and
            gives its value in each resample, ``(resamples,)``, NaN where it has none; those are
            left out.

    >>> values = np.array([0.0, 1.0, 1.0])
    >>> bootstrap_statistic(lambda drawn: (drawn * values).max(axis=1) * 0 + 7, ["a", "b", "c"])
    (7.0, 7.0)
    """
    number = _numbers(groups)
    drawn = _draws(number.max() + 1, n_resamples, seed)
    found = []
    for part in np.array_split(drawn, max(1, n_resamples // 250)):  # a few MB at a time
        offsets = np.arange(len(part))[:, None] * drawn.shape[1]
        counts = np.bincount((part + offsets).ravel(), minlength=part.size).reshape(part.shape)
        found.append(statistic(counts[:, number]))
    values = np.concatenate(found)
    return _percentiles(values[~np.isnan(values)], confidence)


@dataclass(frozen=True)
class Difference:
    """Of two models over the same questions: how much more ``b`` has than ``a`` on average, the
    bounds of that, and over how many questions and images.

    ``p_value`` is two-sided: twice the smaller share of resamples in which the difference is not
    above, or not below, 0, and never below ``1 / resamples`` (Davison and Hinkley 1997, 4.4).
    """

    mean: float
    low: float
    high: float
    p_value: float
    n: int
    n_groups: int

    @classmethod
    def of(
        cls, mean: float, low: float, high: float, draws: np.ndarray, n: int, n_groups: int
    ) -> Difference:
        """``draws``: the difference in each resample."""
        tail = min((draws <= ROUNDING).mean(), (draws >= -ROUNDING).mean())
        p_value = float(min(1.0, max(2 * tail, 1 / len(draws))))
        return cls(float(mean), low, high, p_value, n, n_groups)


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    groups: Sequence[Hashable],
    *,
    confidence: float = CONFIDENCE,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """``b - a`` by paired bootstrap over groups.

    Raises:
        ValueError: the two are not of one length, or empty.

    >>> found = paired_difference([0.0, 0.0], [1.0, 1.0], ["x", "y"])
    >>> found.mean, found.low, found.n
    (1.0, 1.0, 2)
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"{len(a)} and {len(b)} values cannot be paired")
    apart = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    number = _numbers(groups)
    sums, counts = np.bincount(number, weights=apart), np.bincount(number).astype(np.float64)
    drawn = _draws(len(sums), n_resamples, seed)
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = _percentiles(means, confidence)
    return Difference.of(apart.mean(), low, high, means, len(apart), len(sums))


@dataclass(frozen=True)
class McNemar:
    """Of the questions that just one of two models answered right: how many each, and the exact
    two-sided p-value (McNemar 1947; the binomial test of the discordant pairs).

    It takes questions as independent: with several of one image it is too sure, and the paired
    bootstrap over images is the one to believe.
    """

    only_a: int
    only_b: int
    p_value: float


def mcnemar(a: Sequence[float], b: Sequence[float]) -> McNemar:
    """Compare two models whose answers are right (1) or wrong (0).

    Raises:
        ValueError: the two are not of one length.

    >>> found = mcnemar([1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1])
    >>> found.only_a, found.only_b, found.p_value
    (0, 5, 0.0625)
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} answers cannot be paired")
    first, second = np.asarray(a) > 0.5, np.asarray(b) > 0.5
    only_a, only_b = int((first & ~second).sum()), int((second & ~first).sum())
    n = only_a + only_b
    p_value = float(stats.binomtest(only_a, n).pvalue) if n else 1.0
    return McNemar(only_a, only_b, p_value)


def _numbers(groups: Sequence[Hashable]) -> np.ndarray:
    """The groups as 0, 1, ..., in an order that does not depend on that of the records."""
    number = {group: n for n, group in enumerate(sorted(set(groups), key=repr))}
    return np.array([number[group] for group in groups])


@functools.lru_cache(maxsize=4)
def _draws(n_groups: int, n_resamples: int, seed: int) -> np.ndarray:
    """(resamples, groups): the groups of each resample."""
    return np.random.default_rng(seed).integers(0, n_groups, size=(n_resamples, n_groups))


def _percentiles(values: np.ndarray, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
