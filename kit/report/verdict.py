"""The report in a few sentences: which model is best, by how much, how sure, and does it look."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kit.report.comparison import Comparison
from kit.report.statistics import FEWEST
from kit.report.table import ROWS

SOURCES = {"": "the evidence (gold boxes)", "claimed_": "the boxes that it claims"}
HALF = 0.5

Metrics = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Verdict:
    """``lead``: the model that answers best, what it has above the others, and whether it looks
    where it says; ``rest``: what else matters."""

    lead: tuple[str, ...]
    rest: tuple[str, ...]


def verdict(metrics: Metrics, comparisons: Sequence[Comparison], mode: str) -> Verdict:
    """What the numbers of one mode come to."""
    best = best_model(metrics, mode)
    if best is None:
        return Verdict((), ())
    lead = [*_accuracy(best, metrics, comparisons, mode), *_looking(best, metrics, mode)]
    rest = [
        *_floor(metrics, mode),
        *_gaps(metrics, comparisons, mode),
        *_image(metrics, mode),
        *_confidence(metrics, mode),
    ]
    return Verdict(tuple(lead), tuple(rest))


def best_model(metrics: Metrics, mode: str) -> str | None:
    """The model with the highest exact match; of equal ones the first."""
    values = {
        m: own[f"{mode}/exact/all"] for m, own in metrics.items() if f"{mode}/exact/all" in own
    }
    return max(values, key=values.get, default=None)


def _accuracy(
    best: str, metrics: Metrics, comparisons: Sequence[Comparison], mode: str
) -> Iterator[str]:
    own, name = metrics[best], f"{mode}/exact/all"
    found = {
        other: _between(best, other, comparisons, mode)
        for other, values in metrics.items()
        if other != best and name in values
    }
    beaten = [other for other, one in found.items() if one and one.better == best]
    tied = [other for other, one in found.items() if one and one.better is None]
    lead = "answers best" if found and len(beaten) == len(found) else "has the highest exact match"
    if tied:
        lead += f", not distinguishable from {' and '.join(tied)}"
    if not found:
        lead = "answers"
    row, n = ROWS["exact/all"], int(own[f"{name}/n"])
    value = row.with_bounds(own, mode)
    few = (
        "" if row.bounds(own, mode) else f" of fewer than {FEWEST} independent images: no interval"
    )
    yield f"{best} {lead}: {value} exact match on {n} questions{few}."
    for other, one in found.items():
        if one is None:
            yield f"Against {other} nothing can be said: they were not asked the same questions."
            continue
        told = {
            best: "",
            None: ", which may be chance",
            other: f": of the questions that both answered {other} surely has more right",
        }[one.better]
        p_values = f"{_p(one.difference.p_value)}, corrected {_p(one.p_adjusted)}"
        yield f"{best} against {other}: {_apart(one, best)}{told}; {p_values}."


def _between(a: str, b: str, comparisons: Sequence[Comparison], mode: str) -> Comparison | None:
    """The two models in exact match."""
    of_mode = (one for one in comparisons if (one.mode, one.metric) == (mode, "exact/all"))
    return next((one for one in of_mode if {one.a, one.b} == {a, b}), None)


def _apart(one: Comparison, model: str) -> str:
    """What a model has above the other, in points."""
    found, sign = one.difference, 1 if one.b == model else -1
    ends = [] if found.low is None else sorted((sign * found.low, sign * found.high))
    return _with_ends(f"{_points(sign * found.mean)} points", ends)


def _with_ends(text: str, ends: Sequence[float]) -> str:
    """
    >>> _with_ends("+3.0 points", [0.01, 0.05]), _with_ends("+3.0 points", [])
    ('+3.0 points [+1.0, +5.0]', '+3.0 points')
    """
    return f"{text} [{', '.join(map(_points, ends))}]" if ends else text


def _looking(best: str, metrics: Metrics, mode: str) -> Iterator[str]:
    """Does the best model look where the evidence is, and where it says it looks?"""
    own = metrics[best]
    for prefix, what in SOURCES.items():
        name = f"{mode}/{prefix}flip_gap"
        if name not in own:
            continue
        gap, n = own[name], int(own[f"{name}/n"])
        ends = [own[f"{name}/{end}"] for end in ("low", "high") if f"{name}/{end}" in own]
        if not ends:
            yield (
                f"Whether {best}'s answers rest on {what} cannot be said: "
                f"only {n} could be tested, of fewer than {FEWEST} independent images."
            )
            continue
        roi, random = (own[f"{mode}/{prefix}{kind}_flip_rate"] for kind in ("roi", "random"))
        answers = f"{best}'s answers do not measurably rest on"
        if ends[0] > 0:
            answers = f"{'Some of ' if roi < HALF else ''}{best}'s answers rest on"
        yield (
            f"{answers} {what}: {_percent(roi)} change when that is painted over, "
            f"{_percent(random)} when controls like it elsewhere are; "
            f"{_with_ends(f'gap {_points(gap)} points', ends)} on {n} answers."
        )


def _floor(metrics: Metrics, mode: str) -> Iterator[str]:
    floors = [own.get(f"{mode}/floor/question_only") for own in metrics.values()]
    floor = next((value for value in floors if value is not None), None)
    if floor is None:
        return
    above = [
        f"{model} {ROWS['above_floor'].with_bounds(own, mode)}"
        for model, own in metrics.items()
        if f"{mode}/above_floor" in own
    ]
    yield (
        f"Someone who sees no image and gives the most frequent training answer to each question "
        f"is right in {_percent(floor)}."
        + (f" Above that, in points: {', '.join(above)}." if above else "")
    )


def _gaps(metrics: Metrics, comparisons: Sequence[Comparison], mode: str) -> Iterator[str]:
    """How the gaps of the models compare, over the answers that both have such regions for."""
    for prefix, what in SOURCES.items():
        metric = f"{prefix}flip_gap"
        gaps = [
            f"{model} {ROWS[metric].with_bounds(own, mode)}"
            for model, own in metrics.items()
            if f"{mode}/{metric}/low" in own
        ]
        if len(gaps) < 2:
            continue
        apart = [
            f"{one.b} has {_apart(one, one.b).replace(' points', '')} above {one.a}"
            f"{'' if one.better else ', maybe by chance'}"
            for one in comparisons
            if (one.mode, one.metric) == (mode, metric) and one.difference.low is not None
        ]
        yield (
            f"Gap for {what}, in points: {', '.join(gaps)}."
            + (
                f" Over the answers that both can be tested on, {'; '.join(apart)}."
                if apart
                else ""
            )
        )


def _image(metrics: Metrics, mode: str) -> Iterator[str]:
    if parts := _of_each(metrics, f"{mode}/exact/question_only", _percent):
        yield f"Asked without any image, they are right in: {parts}."


def _confidence(metrics: Metrics, mode: str) -> Iterator[str]:
    if parts := _of_each(metrics, f"{mode}/excess_aurc", "{:.3f}".format):
        yield (
            f"How well they know when they are wrong (excess AURC by answer probability; 0 is "
            f"best): {parts}."
        )


def _of_each(metrics: Metrics, name: str, text: Callable[[float], str]) -> str:
    """The value of each model that has one.

    >>> _of_each({"a": {"x": 0.5}, "b": {}, "c": {"x": 0.25}}, "x", _percent)
    'a 50.0%, c 25.0%'
    """
    return ", ".join(f"{model} {text(own[name])}" for model, own in metrics.items() if name in own)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _p(value: float | None) -> str:
    """
    >>> _p(0.0004), _p(0.001), _p(0.25)
    ('p <= 0.001', 'p <= 0.001', 'p = 0.25')
    """
    if value is None:
        return "p unknown"
    return "p <= 0.001" if value <= 0.001 else f"p = {value:.2g}"
