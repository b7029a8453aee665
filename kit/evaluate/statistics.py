"""How sure a number is."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def bootstrap_interval(
    values: Sequence[float],
    groups: Sequence[Hashable],
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean, resampling whole groups.

    Questions about one image are not independent, so images are what is drawn (cluster
    bootstrap, Field and Welsh 2007).

    >>> bootstrap_interval([1.0, 1.0, 1.0], ["a", "a", "b"])
    (1.0, 1.0)
    """
    _, number = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    sums = np.bincount(number, weights=np.asarray(values, dtype=np.float64))
    counts = np.bincount(number).astype(np.float64)
    dice = np.random.default_rng(seed)
    drawn = dice.integers(0, len(sums), size=(n_resamples, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
