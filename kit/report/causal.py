"""Causal recall: of the probability that an image gives an answer, the share that the pixels which
decide the question carry (rows with ``causal``, of ``kit.evaluate.causal``).

An image gives what the probability has above that for a blank image, and taking something away can
take as much at most: an answer that is less likely without it than to a blank image has lost what
the image gave, and one that is more likely has lost nothing. Sums over questions are divided, not
quotients averaged, so that a question to which the image gives next to nothing counts for next to
nothing; where it gives nothing on the whole (:data:`LEAST`), to a model that does not look, there
is nothing to have a share of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kit.report.statistics import Counted

LEAST = 0.01  # of probability a question, that the images must give on average


@dataclass(frozen=True)
class Share:
    """A quotient of sums over rows: its ``value``, the same for rows counted so many times
    (``kit.report.statistics``), and the rows by their place."""

    value: float
    counted: Counted
    places: tuple[int, ...]


def values_of_causes(row: Mapping) -> dict[str, float]:
    """The plain means to which a row counts: ``causal/placed``, whether a place of the image
    decides its question; of those ``causal/unmatched_rate``, whether that has no control; and
    where the truth of its twin is known ``twin/right``, and ``twin/both_right``, of the image and
    its twin (all, of lesions or organs, and by kind)."""
    causal = row.get("causal")
    if causal is None:
        return {}
    values = {"causal/placed": float(bool(causal["things"]))}
    if causal["things"]:
        values["causal/unmatched_rate"] = float(not causal["probability"]["controls"])
    if twin := causal.get("twin"):
        values["twin/right"] = twin["exact"]
        both = twin["exact"] * row["scores"]["exact"]
        values |= {f"twin/both_right{end}": both for end in ("", *_strata_of(causal))}
    return values


def shares_of_causes(rows: Sequence[Mapping]) -> dict[str, Share]:
    """``causal/recall``, the share of what the image gives that is lost without what decides the
    question, ``causal/control``, that which is lost without the controls instead (their mean), and
    ``causal/gap``, their difference, over the questions that have controls; and
    ``causal/recall_all``, over those without one too. Of lesions and organs too, as
    ``causal/recall/evidence/lesion``, and by kind of question, as ``causal/recall/asked/<kind>``.

    >>> likely = {"whole": 0.9, "blank": 0.5, "without": 0.1, "controls": [0.8, 0.9]}
    >>> row = {"causal": {"kind": "disease", "things": ["lesion 1"], "probability": likely}}
    >>> found = shares_of_causes([row])
    >>> [round(found[f"causal/{name}"].value, 3) for name in ("recall", "control", "gap")]
    [1.0, 0.125, 0.875]
    """
    placed = [n for n, row in enumerate(rows) if row.get("causal", {}).get("things")]
    lost = np.array([_lost(rows[n]["causal"]["probability"]) for n in placed]).reshape(-1, 3)
    strata = [("", *_strata_of(rows[n]["causal"])) for n in placed]
    given, without, controls = lost.T
    matched = ~np.isnan(controls)
    found: dict[str, Share] = {}
    for end in sorted({end for ends in strata for end in ends}):
        part = np.array([end in ends for ends in strata])
        for stem, carried, own in (
            ("recall", without, part & matched),
            ("control", controls, part & matched),
            ("gap", without - controls, part & matched),
            ("recall_all", without, part),
        ):
            if own.any() and given[own].mean() >= LEAST:
                places = tuple(np.array(placed)[own].tolist())
                found[f"causal/{stem}{end}"] = _share(carried[own], given[own], places)
    return found


def _strata_of(causal: Mapping) -> tuple[str, str]:
    of = "lesion" if causal["things"][0].startswith("lesion ") else "organ"
    return f"/evidence/{of}", f"/asked/{causal['kind']}"


def _share(carried: np.ndarray, given: np.ndarray, places: tuple[int, ...]) -> Share:
    def counted(times: np.ndarray) -> np.ndarray:
        below = times @ given
        return np.divide(times @ carried, below, out=np.full(len(below), np.nan), where=below > 0)

    return Share(float(carried.sum() / given.sum()), counted, places)


def _lost(likely: Mapping) -> tuple[float, float, float]:
    """What the image gives, what of it is lost without its cause, and without a control on average
    (NaN where there is none)."""
    gives = max(0.0, likely["whole"] - likely["blank"])
    losses = likely["whole"] - np.array([likely["without"], *likely["controls"]])
    first, *others = np.clip(losses, 0.0, gives).tolist()
    return gives, first, sum(others) / len(others) if others else np.nan
