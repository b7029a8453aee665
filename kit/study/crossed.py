"""How sure a figure is that was measured on several images with several seeds.

All models answer about the same images, so an answer shares its image with those of the other
seeds and its seed with those to the other images: image and seed are crossed random effects, and
to count images times seeds as so many independent answers makes a figure look two to five times
surer than it is. With the mean squares of images, seeds and their interaction the variance of a
mean over both is (Searle, Casella and McCulloch 1992; the quasi-F of Clark 1973, doi
10.1016/S0022-5371(73)80014-3)::

    V = V_images + V_seeds - V_interaction,    at least V_images and V_seeds

with the degrees of freedom of Satterthwaite 1946 (doi 10.2307/3002019), at least those of the
seeds, or of the images where these are fewer. Images are of unequal numbers of questions and some
have none, so the parts are of the influence of each image on the figure of each seed, as of
cluster-robust variances (Cameron, Gelbach and Miller 2011, doi 10.1198/jbes.2010.07136, whose two-
way one is too small with few seeds). Of a mean the influence of an image is what its answers add to
it; of any other statistic it is the jackknife's. ``tests/study/test_crossed.py`` measures how often
the intervals hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from kit.report.statistics import ROUNDING, Counted, Interval, interval_of_error


@dataclass(frozen=True)
class Measured:
    """A figure of one seed: its ``value``, the influence of each image on it, ``influence_C``,
    which sums to 0, and on how many answers to each it rests, ``answers_C``."""

    value: float
    influence_C: np.ndarray
    answers_C: np.ndarray

    def minus(self, other: Measured) -> Measured:
        """How much more this is than another figure of the same answers' records."""
        apart_C = self.influence_C - other.influence_C
        return Measured(self.value - other.value, apart_C, self.answers_C)


@dataclass(frozen=True)
class Estimate:
    """The mean of a figure over seeds, its bounds over images and seeds (None of fewer than ten
    images), and the p-value of its being 0. ``n``: answers; ``by_seed``: the figure of each of the
    ``seeds``, which who measured them knows."""

    mean: float
    low: float | None
    high: float | None
    p_value: float
    n: int
    n_images: int
    by_seed: tuple[float, ...]
    seeds: tuple[int, ...] = ()


def measured_mean(values: Sequence[float], number: np.ndarray, n_images: int) -> Measured:
    """The mean of ``values`` of answers to images of a ``number`` in 0..``n_images``-1.

    >>> measured_mean([1.0, 0.0, 0.5], np.array([0, 0, 2]), 3).influence_C.tolist()
    [0.0, 0.0, 0.0]
    >>> measured_mean([1.0, 1.0, 0.25], np.array([0, 0, 2]), 3).influence_C.round(2).tolist()
    [0.17, 0.0, -0.17]
    """
    values = np.asarray(values, dtype=np.float64)
    mean = float(values.mean())
    sums_C = np.bincount(number, weights=values - mean, minlength=n_images)
    return Measured(mean, sums_C / len(values), np.bincount(number, minlength=n_images))


def measured_statistic(
    value: float, counted: Counted, number: np.ndarray, n_images: int
) -> Measured:
    """The same of a statistic that is no mean. ``counted`` takes how often each answer counts,
    ``(times, answers)``, and gives the value of each time."""
    answers_C = np.bincount(number, minlength=n_images)
    there = np.flatnonzero(answers_C)
    if len(there) < 2:
        return Measured(value, np.zeros(n_images), answers_C)
    without = counted((number != there[:, None]).astype(np.int64))
    middle = float(np.nanmean(without))
    influence_C = np.zeros(n_images)
    influence_C[there] = middle - np.nan_to_num(without, nan=middle)
    return Measured(value, influence_C * (len(there) - 1) / len(there), answers_C)


def estimate(
    by_seed: Sequence[Measured],
    bounds: Interval = (0.0, 1.0),
    correct: Sequence[Measured] = (),
) -> Estimate:
    """The mean over seeds of a figure that was measured on the same images with each. With one
    seed it is over images alone.

    Args:
        correct: with each seed the share of right answers, where the bounds are to be no closer
            than those of that: a few errors say little of the area under a curve, and the jackknife
            does not know.

    >>> alike = [measured_mean([1.0, 0.0] * 20, np.arange(40), 40)] * 3
    >>> found = estimate(alike)  # no surer than one seed: they agree in each answer
    >>> found.mean, round(found.low, 2), round(found.high, 2)
    (0.5, 0.35, 0.65)
    """
    values_S = np.array([one.value for one in by_seed])
    there_C = sum(one.answers_C for one in by_seed) > 0
    n_images = int(there_C.sum())
    influence_SC = np.array([one.influence_C[there_C] for one in by_seed])
    mean = float(values_S.mean())
    variance, degrees = variance_of(values_S, influence_SC)
    error = math.sqrt(variance)
    widest = max(error, _error_of_share(mean, bounds, correct)) if correct else error
    low, high = interval_of_error(mean, widest, n_images, degrees, bounds) or (None, None)
    if error > ROUNDING:
        p_value = 2 * float(special.stdtr(degrees, -abs(mean) / error))
    else:  # nothing varies: the signs of the seeds or of the images, whichever are fewer
        units = min(len(values_S), n_images) if len(values_S) > 1 else n_images
        p_value = 1.0 if abs(mean) <= ROUNDING else 2.0 ** (1 - units)
    n = int(sum(one.answers_C.sum() for one in by_seed))
    return Estimate(mean, low, high, min(1.0, p_value), n, n_images, tuple(values_S.tolist()))


def variance_of(values_S: np.ndarray, influence_SC: np.ndarray) -> tuple[float, float]:
    """The variance of the mean over seeds and images, and its degrees of freedom."""
    n_seeds, n_images = influence_SC.shape
    if n_images < 2:  # which says nothing of others
        return 0.0, 1.0
    scale = n_images / (n_images - 1)
    of_images = scale * float((influence_SC.mean(axis=0) ** 2).sum())
    if n_seeds == 1:
        return of_images, n_images - 1.0
    of_seeds = float(values_S.var(ddof=1)) / n_seeds
    rest_SC = influence_SC - influence_SC.mean(axis=0)
    of_both = scale / (n_seeds * (n_seeds - 1)) * float((rest_SC**2).sum())
    variance = max(of_images + of_seeds - of_both, of_images, of_seeds)
    if variance <= ROUNDING**2:
        return 0.0, n_images - 1.0
    parts = (
        of_images**2 / (n_images - 1)
        + of_seeds**2 / (n_seeds - 1)
        + of_both**2 / ((n_images - 1) * (n_seeds - 1))
    )
    return variance, max(min(n_seeds, n_images) - 1.0, variance**2 / parts)


def _error_of_share(mean: float, bounds: Interval, correct: Sequence[Measured]) -> float:
    """The standard error of a mean within ``bounds`` that is as sure as a share of right answers;
    where all are alike each image is one answer."""
    there_C = sum(one.answers_C for one in correct) > 0
    values_S = np.array([one.value for one in correct])
    variance, _ = variance_of(values_S, np.array([one.influence_C[there_C] for one in correct]))
    share, span = float(values_S.mean()), bounds[1] - bounds[0]
    size = share * (1 - share) / variance if variance else float(there_C.sum())
    scaled = (mean - bounds[0]) / span
    return span * math.sqrt(max(0.0, scaled * (1 - scaled)) / size) if size > 0 else 0.0
