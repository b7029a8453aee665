"""Corrections for many comparisons: a page that looks at a hundred differences finds some.

Holm 1979 keeps the chance that any difference of a family is called real by mistake; Benjamini and
Hochberg 1995 (doi 10.1111/j.2517-6161.1995.tb02031.x) the share of mistakes among those that are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FALSE_ALARMS = 0.05
FAMILIES = ("primary", "other")


def adjust(p_values: Sequence[float], families: Sequence[str | None]) -> list[float | None]:
    """p-values to be held against ``FALSE_ALARMS``, which the two families share in halves:
    Holm's in the primary one, Benjamini and Hochberg's in the other, each twice. None for what is
    of no family.

    >>> adjust([0.01, 0.2, 0.01, 0.02, 0.5], ["primary", "primary", "other", "other", None])
    [0.04, 0.4, 0.04, 0.04, None]
    """
    adjusted: list[float | None] = [None] * len(p_values)
    for family, rule in zip(FAMILIES, (holm, benjamini_hochberg), strict=True):
        places = [n for n, one in enumerate(families) if one == family]
        found = rule([p_values[place] for place in places])
        for place, p_value in zip(places, found, strict=True):
            adjusted[place] = min(1.0, len(FAMILIES) * p_value)
    return adjusted


def holm(p_values: Sequence[float]) -> list[float]:
    """
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(order), 0, -1)
    return _in_place(np.maximum.accumulate(steps), order)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """
    >>> benjamini_hochberg([0.01, 0.04, 0.03])
    [0.03, 0.04, 0.04]
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values, dtype=np.float64)[order] * len(order)
    steps /= np.arange(1, len(order) + 1)
    return _in_place(np.minimum.accumulate(steps[::-1])[::-1], order)


def _in_place(steps: np.ndarray, order: np.ndarray) -> list[float]:
    found = np.empty(len(order))
    found[order] = np.minimum(steps, 1.0)
    return found.tolist()
