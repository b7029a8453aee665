"""The report in a few sentences: which model is best, by how much, how sure, and does it look."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kit.report.comparison import Comparison
from kit.report.table import ROWS

SOURCES = {"": "the evidence (gold boxes)", "claimed_": "the boxes that it claims"}
HALF = 0.5
FEWEST = 10  # answers that anything is said of

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


def _accuracy(best: str, metrics: Metrics, comparisons: Sequence[Comparison], mode: str):
    name = f"{mode}/exact/all"
    values = {model: own[name] for model, own in metrics.items() if name in own}
    own = metrics[best]
    others = [model for model in values if model != best]
    sure = {other: _between(other, best, "exact/all", comparisons, mode) for other in others}
    tied = [other for other, found in sure.items() if found and found[1] <= 0]
    lead = "answers best" if others else "answers"
    if None in sure.values():
        lead = "has the highest exact match"
    if tied:
        lead = "has the highest exact match, not distinguishable from " + " and ".join(tied)
    yield (
        f"{best} {lead}: {_percent(own[name])} exact match "
        f"[{_percent(own[f'{name}/low'])}, {_percent(own[f'{name}/high'])}] "
        f"on {int(own[f'{name}/n'])} questions."
    )
    for other, found in sure.items():
        if found is None:
            yield f"Against {other} nothing can be said: they were not asked the same questions."
            continue
        mean, low, high, p_value, exact_p = found
        tests = f"bootstrap over images {_p(p_value)}, McNemar {_p(exact_p)}"
        span = f"{_points(mean)} points [{_points(low)}, {_points(high)}]"
        if low > 0:
            yield f"{best} against {other}: {span}; {tests}."
        else:
            yield f"{best} against {other}: {span}, which may be chance; {tests}."


def _between(a: str, b: str, metric: str, comparisons: Sequence[Comparison], mode: str):
    """``b`` above ``a``: difference, bounds, p-value and that of McNemar's test."""
    for one in comparisons:
        if one.mode != mode or one.metric != metric or {one.a, one.b} != {a, b}:
            continue
        found = one.difference
        exact = one.mcnemar.p_value if one.mcnemar else None
        if one.a == a:
            return found.mean, found.low, found.high, found.p_value, exact
        return 0 - found.mean, 0 - found.high, 0 - found.low, found.p_value, exact
    return None


def _looking(best: str, metrics: Metrics, mode: str):
    """Does the best model look where the evidence is, and where it says it looks?"""
    own = metrics[best]
    for prefix, what in SOURCES.items():
        name = f"{mode}/{prefix}flip_gap"
        if name not in own:
            continue
        gap, low, high, n = (own[f"{name}{end}"] for end in ("", "/low", "/high", "/n"))
        if n < FEWEST:
            yield (
                f"Whether {best}'s answers rest on {what} cannot be said: "
                f"only {int(n)} could be tested."
            )
            continue
        roi, random = (own[f"{mode}/{prefix}{kind}_flip_rate"] for kind in ("roi", "random"))
        answers = f"{best}'s answers do not measurably rest on"
        if low > 0:
            answers = f"{'Some of ' if roi < HALF else ''}{best}'s answers rest on"
        yield (
            f"{answers} {what}: {_percent(roi)} change when that is painted over, "
            f"{_percent(random)} when random parts of its size are; gap {_points(gap)} points "
            f"[{_points(low)}, {_points(high)}] on {int(n)} answers."
        )


def _floor(metrics: Metrics, mode: str):
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


def _gaps(metrics: Metrics, comparisons: Sequence[Comparison], mode: str):
    """How the gaps of the models compare, over the answers that both have such regions for."""
    for prefix, what in SOURCES.items():
        metric = f"{prefix}flip_gap"
        gaps = [
            f"{model} {ROWS[metric].with_bounds(own, mode)}"
            for model, own in metrics.items()
            if own.get(f"{mode}/{metric}/n", 0) >= FEWEST
        ]
        if len(gaps) < 2:
            continue
        apart = [
            f"{one.b} has {_points(found.mean)} [{_points(found.low)}, {_points(found.high)}] "
            f"above {one.a}{'' if found.low > 0 or found.high < 0 else ', maybe by chance'}"
            for one in comparisons
            if (one.mode, one.metric) == (mode, metric)
            for found in [one.difference]
            if found.n >= FEWEST
        ]
        yield (
            f"Gap for {what}, in points: {', '.join(gaps)}."
            + (
                f" Over the answers that both can be tested on, {'; '.join(apart)}."
                if apart
                else ""
            )
        )


def _image(metrics: Metrics, mode: str):
    if parts := _of_each(metrics, f"{mode}/exact/question_only", _percent):
        yield f"Asked without any image, they are right in: {parts}."


def _confidence(metrics: Metrics, mode: str):
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
    >>> _p(0.0004), _p(0.25)
    ('p < 0.001', 'p = 0.25')
    """
    if value is None:
        return "p unknown"
    if value < 0.001:
        return "p < 0.001"
    return f"p = {value:.2g}"
