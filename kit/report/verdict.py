"""The report in a few sentences: which model is best, by how much, how sure, and does it look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kit.report.comparison import Comparison

FEWEST = 10  # answers that anything is said of

Metrics = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Verdict:
    """``lead``: the best model and what it has above the others; ``rest``: what else matters."""

    lead: tuple[str, ...]
    rest: tuple[str, ...]


def verdict(metrics: Metrics, comparisons: Sequence[Comparison], mode: str) -> Verdict:
    """What the numbers of one mode come to."""
    rest = [
        *_floor(metrics, mode),
        *_flips(metrics, comparisons, mode),
        *_image(metrics, mode),
        *_confidence(metrics, mode),
    ]
    return Verdict(tuple(_accuracy(metrics, comparisons, mode)), tuple(rest))


def best_model(metrics: Metrics, mode: str) -> str | None:
    """The model with the highest exact match; of equal ones the first."""
    values = {
        m: own[f"{mode}/exact/all"] for m, own in metrics.items() if f"{mode}/exact/all" in own
    }
    return max(values, key=values.get, default=None)


def _accuracy(metrics: Metrics, comparisons: Sequence[Comparison], mode: str):
    name = f"{mode}/exact/all"
    values = {model: own[name] for model, own in metrics.items() if name in own}
    best = best_model(metrics, mode)
    if best is None:
        return
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


def _floor(metrics: Metrics, mode: str):
    floors = [own.get(f"{mode}/floor/question_only") for own in metrics.values()]
    floor = next((value for value in floors if value is not None), None)
    best = best_model(metrics, mode)
    if floor is None or best is None:
        return
    above = metrics[best][f"{mode}/exact/all"] > floor
    yield (
        f"Someone who sees no image and gives the most frequent training answer to each question "
        f"is right in {_percent(floor)}"
        + (": only what is above that was seen." if above else ", more often than any model here.")
    )


def _flips(metrics: Metrics, comparisons: Sequence[Comparison], mode: str):
    for prefix, what in (("", "the evidence"), ("claimed_", "its own boxes")):
        name = f"{mode}/{prefix}flip_gap"
        gaps = {model: own[name] for model, own in metrics.items() if name in own}
        if not gaps:
            continue
        best = max(gaps, key=gaps.get)
        own = metrics[best]
        low, high, n = (own[f"{name}/{end}"] for end in ("low", "high", "n"))
        if n < FEWEST:
            yield f"Whether answers rest on {what} cannot be said: only {int(n)} could be tested."
            continue
        rests = "rest most on" if len(gaps) > 1 else "rest on"
        if low <= 0:
            rests = "do not measurably rest on"
        roi, random = (own[f"{mode}/{prefix}{k}_flip_rate"] for k in ("roi", "random"))
        others = [
            f"{_points(found[0])} [{_points(found[1])}, {_points(found[2])}] above {model}"
            for model in gaps
            if model != best
            for found in [_between(model, best, f"{prefix}flip_gap", comparisons, mode)]
            if found
        ]
        yield (
            f"{best}'s answers {rests} {what}: {_percent(roi)} change when that is taken away, "
            f"{_percent(random)} with random regions of that size, a gap of "
            f"{_points(gaps[best])} points [{_points(low)}, {_points(high)}] on {int(n)} answers"
            + (f" ({'; '.join(others)})." if others else ".")
        )


def _image(metrics: Metrics, mode: str):
    parts = [
        f"{model} {_percent(own[f'{mode}/accuracy_survival/question_only'])}"
        for model, own in metrics.items()
        if f"{mode}/accuracy_survival/question_only" in own
    ]
    if parts:
        yield f"Of the accuracy, this much survives without any image: {', '.join(parts)}."


def _confidence(metrics: Metrics, mode: str):
    parts = [
        f"{model} {own[f'{mode}/excess_aurc']:.3f}"
        for model, own in metrics.items()
        if f"{mode}/excess_aurc" in own
    ]
    if parts:
        yield (
            f"Left the choice which questions to answer, by answer probability, their risk lies "
            f"above the best possible by (excess AURC, lower is better): {', '.join(parts)}."
        )


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
