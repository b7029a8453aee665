"""How sure a number is, and whether two models differ.

Questions about one image, and near-duplicate slices of one volume, are not independent: such a
cluster is what counts (:func:`cluster_of`), and of two models that answered the same questions
the differences are what is averaged (paired).

Intervals are Wilson's with an effective sample size and quantiles of t (Dean and Pagano 2015;
Franco, Little, Louis and Slud 2019, doi 10.1093/jssam/smy019): value v, in 0..1 once it is
scaled, with a standard error s over clusters is as sure as a share of v (1 - v) / s^2 independent
answers. Below :data:`FEWEST` clusters there is none. Tests swap the two models in whole clusters.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

CONFIDENCE = 0.95
FEWEST = 10  # clusters that an interval takes
ROUNDING = 1e-9  # of a sum: less is a tie
EXACT = 12  # clusters up to which every swap is looked at
DRAWS = 20_000  # swaps drawn of more, or until as many as ENOUGH part the models as far
STATISTIC_DRAWS = 5_000  # of what takes longer than a mean
ENOUGH = 100
PART = 100  # drawn at a time: arrays that stay in a processor's cache

Interval = tuple[float, float]
Counted = Callable[[np.ndarray], np.ndarray]  # (times, records) counts to (times,) values


def cluster_of(row: Mapping) -> str:
    """What a prediction row is drawn with: near-duplicate slices share a ``volume``; else the
    image.

    >>> cluster_of({"image": "a.png"}), cluster_of({"image": "a.png", "volume": "7"})
    ('a.png', '7')
    """
    return row.get("volume") or row["image"]


def mean_interval(
    values: ArrayLike,
    clusters: Sequence[Hashable],
    bounds: Interval = (0.0, 1.0),
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """The interval of a mean of values that lie within ``bounds``; None of too few clusters.

    >>> low, high = mean_interval([1.0] * 20, range(20))
    >>> round(low, 2), high
    (0.82, 1.0)
    """
    values, number = np.asarray(values, dtype=np.float64), _numbers(clusters)
    n_clusters = number.max() + 1
    if n_clusters < FEWEST:
        return None
    size = _effective_size(values, number, bounds)
    return _wilson(values.mean(), size, n_clusters, bounds, confidence)


def statistic_interval(
    value: float,
    counted: Counted,
    clusters: Sequence[Hashable],
    *,
    correct: ArrayLike | None = None,
    bounds: Interval = (0.0, 1.0),
    lean: float = 0.0,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """The same for a statistic that is no mean, with the standard error of the jackknife that
    leaves out one cluster at a time.

    Args:
        counted: takes how often each record counts, ``(times, records)`` int64, and gives the
            statistic, ``(times,)``, NaN where it has none.
        correct: 0 or 1 of each record; the statistic is taken to be no surer than their share.
            A few errors say little of the area under a curve, and the jackknife does not know.
        lean: how far above the truth the statistic may lie by chance alone; its low end is moved.
    """
    number = _numbers(clusters)
    n_clusters = number.max() + 1
    if n_clusters < FEWEST:
        return None
    without = counted((number != np.arange(n_clusters)[:, None]).astype(np.int64))
    without = without[~np.isnan(without)]
    scale = (len(without) - 1) / len(without)
    error = math.sqrt(scale * ((without - without.mean()) ** 2).sum()) / (bounds[1] - bounds[0])
    share = (value - bounds[0]) / (bounds[1] - bounds[0])
    size = share * (1 - share) / error**2 if error > ROUNDING else math.inf
    if correct is not None:
        most = _effective_size(np.asarray(correct, dtype=np.float64), number)
        size = min(size, n_clusters if math.isinf(most) else most)
    low, high = _wilson(value, size, n_clusters, bounds, confidence)
    return max(bounds[0], low - lean), high


def interval_of_error(
    value: float,
    error: float,
    n_clusters: int,
    degrees: float,
    bounds: Interval = (0.0, 1.0),
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """The same for a value whose standard ``error`` is known by some ``degrees`` of freedom; None
    of too few clusters.

    >>> low, high = interval_of_error(0.5, 0.05, 100, 99.0)
    >>> round(low, 2), round(high, 2)
    (0.4, 0.6)
    """
    if n_clusters < FEWEST:
        return None
    share = (value - bounds[0]) / (bounds[1] - bounds[0])
    error /= bounds[1] - bounds[0]
    size = share * (1 - share) / error**2 if error > ROUNDING else math.inf
    return _wilson(value, size, n_clusters, bounds, confidence, degrees)


@dataclass(frozen=True)
class Difference:
    """Of two models over the same questions: how much more ``b`` has than ``a``, the bounds of
    that (None of too few clusters), and over how many questions and clusters.

    ``p_value``: two-sided, of swapping the two models cluster by cluster: the share of all swaps
    that part them as far or, of many clusters, of those drawn, with theirs as one of them (Besag
    and Clifford 1991, doi 10.1093/biomet/78.2.301): never less than the draws can show.
    """

    mean: float
    low: float | None
    high: float | None
    p_value: float
    n: int
    n_clusters: int


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[Hashable],
    bounds: Interval = (0.0, 1.0),
    seed: int = 0,
) -> Difference:
    """``b - a`` of the means of values within ``bounds``.

    Raises:
        ValueError: the two are not of one length, or empty.

    >>> found = paired_difference([0.0, 0.0], [1.0, 1.0], ["x", "y"])
    >>> found.mean, found.low, found.n, found.p_value  # two of the four swaps
    (1.0, None, 2, 0.5)
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"{len(a)} and {len(b)} values cannot be paired")
    apart = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    number = _numbers(clusters)
    sums = np.bincount(number, weights=apart)
    slack = ROUNDING * np.abs(apart).sum()
    sums = sums[np.abs(sums) > slack]  # a swap of the others changes nothing
    p_value = _p_value(lambda swapped: (1 - 2 * swapped) @ sums, len(sums), slack, DRAWS, seed)
    span = bounds[1] - bounds[0]
    low, high = mean_interval(apart, clusters, (-span, span)) or (None, None)
    return Difference(float(apart.mean()), low, high, p_value, len(apart), len(set(number)))


def statistic_difference(
    a: float,
    b: float,
    counted: Counted,
    clusters: Sequence[Hashable],
    bounds: Interval = (0.0, 1.0),
    seed: int = 0,
) -> Difference:
    """``b - a`` of a statistic within ``bounds`` that is no mean.

    Args:
        counted: as for :func:`statistic_interval`, of the records of both models, first all of
            ``a``, then in the same order all of ``b``.
        clusters: of the records of one.
    """
    number = _numbers(clusters)

    def apart(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        none = np.zeros_like(first)
        sides = [np.hstack([first, none]), np.hstack([none, second])]
        return counted(sides[1]) - counted(sides[0])

    def of_swapped(swapped: np.ndarray) -> np.ndarray:
        swapped = swapped[:, number]
        kept = 1 - swapped
        return counted(np.hstack([swapped, kept])) - counted(np.hstack([kept, swapped]))

    span = bounds[1] - bounds[0]
    low, high = statistic_interval(
        b - a, lambda times: apart(times, times), clusters, bounds=(-span, span)
    ) or (None, None)
    n_clusters = int(number.max()) + 1
    p_value = _p_value(of_swapped, n_clusters, ROUNDING, STATISTIC_DRAWS, seed)
    return Difference(b - a, low, high, p_value, len(number), n_clusters)


@dataclass(frozen=True)
class Discordant:
    """Of the questions that just one of two models answered right: how many each."""

    only_a: int
    only_b: int


def discordant(a: ArrayLike, b: ArrayLike) -> Discordant:
    """
    >>> discordant([1, 0, 0, 0], [1, 1, 1, 0])
    Discordant(only_a=0, only_b=2)
    """
    first, second = np.asarray(a) > 0.5, np.asarray(b) > 0.5
    return Discordant(int((first & ~second).sum()), int((second & ~first).sum()))


def _p_value(apart: Counted, n_clusters: int, slack: float, draws: int, seed: int) -> float:
    """``apart``: takes which clusters are swapped, ``(times, clusters)`` 0 or 1, and gives how far
    the two models are apart, ``(times,)``."""
    own = abs(apart(np.zeros((1, n_clusters), dtype=np.int64))[0]) - slack

    def as_far(swapped: np.ndarray) -> np.ndarray:
        return ~(np.abs(apart(swapped)) < own)  # one without a value is as far

    if n_clusters <= EXACT:
        return float(as_far(np.arange(2**n_clusters)[:, None] >> np.arange(n_clusters) & 1).mean())
    far = 0
    for part in range(draws // PART):
        hits = np.flatnonzero(as_far(_drawn(n_clusters, part, seed)))
        if far + len(hits) >= ENOUGH:
            return ENOUGH / float(part * PART + hits[ENOUGH - far - 1] + 1)
        far += len(hits)
    return (far + 1) / (draws + 1)


@functools.lru_cache(maxsize=256)
def _drawn(n_clusters: int, part: int, seed: int) -> np.ndarray:
    """(times, clusters) int64: which are swapped."""
    return np.random.default_rng([seed, part]).integers(0, 2, (PART, n_clusters))


def _effective_size(values: np.ndarray, number: np.ndarray, bounds: Interval = (0.0, 1.0)) -> float:
    """How many independent answers of 0 or 1 would be as sure as this mean; infinite where all
    values are alike. Clusters are taken to make no mean surer than single answers would."""
    span = bounds[1] - bounds[0]
    apart = (values - values.mean()) / span
    sums = np.bincount(number, weights=apart)
    n, n_clusters = len(values), len(sums)
    alone = (apart @ apart) / (n * (n - 1))
    variance = max(alone, n_clusters / (n_clusters - 1) * (sums @ sums) / n**2)
    share = (values.mean() - bounds[0]) / span
    return share * (1 - share) / variance if variance > ROUNDING**2 else math.inf


def _wilson(
    value: float,
    size: float,
    n_clusters: int,
    bounds: Interval,
    confidence: float,
    degrees: float | None = None,
) -> Interval:
    """The interval of a value that is as sure as a share of ``size`` answers. Where nothing varies
    (infinite) each cluster counts as one answer, and one that was not seen may be anywhere.
    ``degrees``: of freedom; None: one less than there are clusters."""
    t = float(special.stdtrit(degrees or n_clusters - 1, (1 + confidence) / 2))
    lowest, highest = bounds
    if math.isinf(size):
        unseen = t * t / (n_clusters + t * t)
        return float(value - unseen * (value - lowest)), float(value + unseen * (highest - value))
    share = (value - lowest) / (highest - lowest)
    size = max(size, 1.0)
    middle = (share + t * t / (2 * size)) / (1 + t * t / size)
    spread = share * (1 - share) / size + t * t / (4 * size * size)
    half = t / (1 + t * t / size) * math.sqrt(max(spread, 0.0))
    low, high = (lowest + (highest - lowest) * end for end in (middle - half, middle + half))
    return float(max(min(low, value), lowest)), float(min(max(high, value), highest))


def _numbers(clusters: Sequence[Hashable]) -> np.ndarray:
    """The clusters as 0, 1, ..., in an order that does not depend on that of the records."""
    number = {cluster: n for n, cluster in enumerate(sorted(set(clusters), key=repr))}
    return np.array([number[cluster] for cluster in clusters])
