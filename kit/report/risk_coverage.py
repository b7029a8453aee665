"""What a model knows when it is unsure: if it may leave the least sure questions unanswered, how
much better is it on the rest? And does its confidence say how often it is right?

The risk at coverage i/n is the share of wrong answers among the i most confident ones; AURC is
its mean over all i (Geifman and El-Yaniv 2017, arXiv 1705.08500), and its excess is what is above
the AURC of an oracle that answers as well but puts all its wrong answers last (Geifman et al.
2019, arXiv 1805.08206). Equal confidences are in no order: a risk among them is the expected one
over all orders, so that no result hangs on the order of a file.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

THRESHOLDS = (0.3, 0.4, 0.5, 0.6)
BINS = 10


@dataclass(frozen=True)
class Curve:
    """``coverage`` (n,), from 1/n to 1, and the ``risk`` (n,) there, both in 0..1."""

    coverage: np.ndarray
    risk: np.ndarray


def risk_coverage_curve(confidence: ArrayLike, correct: ArrayLike) -> Curve:
    """The risk-coverage curve of answers that are right (1) or wrong (0), or right to a degree.

    >>> risk_coverage_curve([0.9, 0.1, 0.5], [1, 0, 1]).risk.round(3).tolist()
    [0.0, 0.0, 0.333]
    """
    size, wrong = _levels(confidence, correct)
    expected = np.repeat(wrong / size, size)
    ranks = np.arange(1, len(expected) + 1)
    return Curve(ranks / len(expected), np.cumsum(expected) / ranks)


def aurc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Area under the risk-coverage curve, 0 (best) to 1.

    >>> round(aurc([0.9, 0.1, 0.5], [1, 0, 1]), 3)
    0.111
    """
    return float(risk_coverage_curve(confidence, correct).risk.mean())


def oracle_aurc(correct: ArrayLike) -> float:
    """AURC if every right answer were more confident than every wrong one.

    >>> oracle_aurc([0, 1, 1]) == aurc([0.1, 0.5, 0.9], [0, 1, 1])
    True
    """
    return aurc(correct, correct)


def excess_aurc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """AURC above that of the oracle; 0 where the confidence parts right from wrong."""
    return aurc(confidence, correct) - oracle_aurc(correct)


class Resampled:
    """AURC, its excess and the calibration error for many ways to count the records at once.

    A record that was drawn k times counts as k records of equal confidence. The sum of the risks
    over one level of confidence is ``e W + (E0 - e W0) (H(W0 + W) - H(W0))``: W0 and E0 are the
    records and errors before it, W the records in it, e its rate of errors, H harmonic numbers.
    """

    def __init__(self, confidence: ArrayLike, correct: ArrayLike):
        self.confidence = np.asarray(confidence, dtype=np.float64)
        self.wrong = 1 - np.asarray(correct, dtype=np.float64)
        self._by_confidence = _order_and_levels(self.confidence)
        self._by_truth = _order_and_levels(-self.wrong)

    def aurc(self, drawn: np.ndarray) -> np.ndarray:
        """``drawn`` (resamples, records) int: how often each was drawn; (resamples,)."""
        return self._area(drawn, *self._by_confidence)

    def excess_aurc(self, drawn: np.ndarray) -> np.ndarray:
        """The same for the excess over each resample's own oracle."""
        return self.aurc(drawn) - self._area(drawn, *self._by_truth)

    def calibration_error(self, drawn: np.ndarray) -> np.ndarray:
        """The same for the calibration error; bins are those of the records themselves."""
        apart = [
            np.abs(drawn[:, part] @ (1 - self.wrong[part] - self.confidence[part]))
            for part in _equal_mass(self.confidence, BINS)
        ]
        return sum(apart) / drawn.sum(axis=1)

    def _area(self, drawn: np.ndarray, order: np.ndarray, starts: np.ndarray) -> np.ndarray:
        size = drawn[:, order]
        wrong = size * self.wrong[order]
        if len(starts) < len(order):
            size, wrong = (np.add.reduceat(each, starts, axis=1) for each in (size, wrong))
        rate = np.divide(wrong, size, out=np.zeros_like(wrong), where=size > 0)
        size_before = np.cumsum(size, axis=1) - size
        wrong_before = np.cumsum(wrong, axis=1) - wrong
        total = size.sum(axis=1)
        harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, total.max() + 1))])
        spread = harmonic[size_before + size] - harmonic[size_before]
        return (rate * size + (wrong_before - rate * size_before) * spread).sum(axis=1) / total


def at_threshold(
    confidence: ArrayLike, correct: ArrayLike, threshold: float
) -> tuple[float, float | None]:
    """The share of questions whose confidence is at least ``threshold`` (coverage), and the
    accuracy on them, None where there are none.

    >>> at_threshold([0.2, 0.6, 0.7], [0, 1, 0], 0.5)
    (0.6666666666666666, 0.5)
    """
    kept = np.asarray(confidence, dtype=np.float64) >= threshold
    right = np.asarray(correct, dtype=np.float64)[kept]
    return float(kept.mean()), float(right.mean()) if len(right) else None


@dataclass(frozen=True)
class Bin:
    """Answers of like confidence: how many, their mean confidence and their accuracy."""

    n: int
    confidence: float
    accuracy: float


def reliability(confidence: ArrayLike, correct: ArrayLike, n_bins: int = BINS) -> list[Bin]:
    """Answers by confidence in bins of equal mass, least confident first.

    Bins hold as many answers each, give or take one; answers of equal confidence stay together,
    so there may be fewer bins.

    >>> [(b.n, b.accuracy) for b in reliability([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 2)]
    [(2, 0.0), (2, 1.0)]
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    right = np.asarray(correct, dtype=np.float64)
    return [
        Bin(len(part), float(confidence[part].mean()), float(right[part].mean()))
        for part in _equal_mass(confidence, n_bins)
    ]


def _equal_mass(confidence: np.ndarray, n_bins: int) -> list[np.ndarray]:
    """The records of each bin."""
    order = np.argsort(confidence, kind="stable")
    n, bounds = len(order), [0]
    for number in range(1, n_bins):
        place = round(number * n / n_bins)
        while 0 < place < n and confidence[order[place]] == confidence[order[place - 1]]:
            place += 1
        if bounds[-1] < place < n:
            bounds.append(place)
    return [order[a:b] for a, b in zip(bounds, [*bounds[1:], n], strict=True)]


def calibration_error(confidence: ArrayLike, correct: ArrayLike, n_bins: int = BINS) -> float:
    """Expected calibration error with bins of equal mass: the mean over answers of how far the
    accuracy of their bin is from its confidence (Naeini et al. 2015; equal mass as in Nixon et
    al. 2019, arXiv 1904.01685).

    >>> round(calibration_error([0.75, 0.75, 0.75, 0.75], [1, 1, 1, 0]), 6)
    0.0
    """
    bins = reliability(confidence, correct, n_bins)
    return sum(b.n * abs(b.accuracy - b.confidence) for b in bins) / sum(b.n for b in bins)


def calibration_noise(
    confidence: ArrayLike, correct: ArrayLike, clusters: Sequence[Hashable]
) -> float:
    """What calibration error answers of this many clusters would show on average if confidence
    and accuracy were equal in every bin: the error is a sum of absolute values, and so leans up.

    Each bin's own is ``sqrt(2 / pi)`` of the standard error of its share, over clusters.

    >>> calibration_noise([0.5, 0.5], [1, 0], ["a", "b"]).__round__(3)
    0.399
    """
    _, number = np.unique([repr(cluster) for cluster in clusters], return_inverse=True)
    apart = np.asarray(correct, dtype=np.float64) - np.asarray(confidence, dtype=np.float64)
    n, n_clusters = len(apart), number.max() + 1
    noise = 0.0
    for part in _equal_mass(np.asarray(confidence, dtype=np.float64), BINS):
        sums = np.bincount(number[part], weights=apart[part], minlength=n_clusters)
        variance = n_clusters / max(1, n_clusters - 1) * ((sums - sums.mean()) ** 2).sum()
        noise += math.sqrt(2 / math.pi * variance) / n
    return noise


def _order_and_levels(confidence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Records from most to least confident, and where each level of equal ones starts."""
    order = np.argsort(-confidence, kind="stable")
    falling = np.flatnonzero(np.diff(confidence[order]) != 0) + 1
    return order, np.concatenate([[0], falling])


def _levels(confidence: ArrayLike, correct: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The size and the sum of errors of each level of confidence, from high to low."""
    confidence = np.asarray(confidence, dtype=np.float64)
    order, starts = _order_and_levels(confidence)
    wrong = np.add.reduceat((1 - np.asarray(correct, dtype=np.float64))[order], starts)
    return np.diff([*starts, len(order)]), wrong
