"""What came of a study: each metric of each system over images and seeds, and how much more or
less it is than the reference's, question by question and seed by seed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kit.data import slake
from kit.data.phantom.layout import are_phantoms
from kit.prompting.messages import MODES
from kit.report.comparison import PRIMARY, REPEATED, contents_of, keyed
from kit.report.families import FALSE_ALARMS, benjamini_hochberg, holm
from kit.report.metrics import Statistic, bounds_of, statistics_of, values_of
from kit.report.report import rows_of
from kit.report.statistics import cluster_of
from kit.report.table import ROWS
from kit.study.crossed import Estimate, Measured, estimate, measured_mean, measured_statistic
from kit.study.records import Record
from kit.study.study_file import Study


@dataclass(frozen=True)
class Difference:
    """How much more ``system`` has of a metric than the reference with the same seeds, and the
    p-value of that, alone and corrected for how many differences there are; None of a metric of
    which neither more nor less is better."""

    system: str
    metric: str
    found: Estimate
    family: str | None = None
    p_adjusted: float | None = None

    @property
    def better(self) -> bool | None:
        """Whether the system is surely better; None if it is not sure."""
        if self.p_adjusted is None or self.p_adjusted > FALSE_ALARMS:
            return None
        return self.found.mean * ROWS[self.metric].better > 0


@dataclass(frozen=True)
class View:
    """An evaluation in one mode: ``metrics[system][metric]``, with which seeds each system is
    there, and the differences to the reference. ``main``: it is the one that was named before
    looking: the file's first evaluation in its last mode."""

    evaluation: str
    mode: str
    seeds: Mapping[str, tuple[int, ...]]
    metrics: Mapping[str, Mapping[str, Estimate]]
    differences: Sequence[Difference]
    questions: int
    images: int
    facts: Mapping[str, object] = field(default_factory=dict)
    main: bool = False

    def difference(self, system: str, metric: str) -> Difference | None:
        wanted = (system, metric)
        return next((d for d in self.differences if (d.system, d.metric) == wanted), None)


def views_of(study: Study, records: Sequence[Record]) -> list[View]:
    """What is there of each evaluation and mode of a study with these runs.

    The main one's differences of ``PRIMARY`` metrics are corrected by Holm over the systems, each
    metric by itself; all other differences together by Benjamini and Hochberg."""
    found = [view for name in study.evaluations for view in _views(study, records, name)]
    if found and found[0].evaluation == next(iter(study.evaluations)):
        found[0] = replace(found[0], main=True)
    return _corrected(found)


@dataclass
class _Answers:
    """The answers of a system with one seed in one mode."""

    rows: dict[tuple, dict[str, float]]  # of each question its values by metric
    cluster: dict[tuple, str]
    statistics: dict[str, Statistic]


def _views(study: Study, records: Sequence[Record], evaluation: str) -> Iterator[View]:
    by_mode: dict[str, dict[str, dict[int, _Answers]]] = {}
    facts: dict[str, object] = {}
    done = [r.run for r in records if r.run.evaluation == evaluation and r.state == "done"]
    answered = [rows_of(run.output) for run in done]
    contents = contents_of(itertools.chain(*answered))
    called_slake = [row for row in itertools.chain(*answered) if row["dataset"] == slake.DATASET]
    facts["drawn"] = are_phantoms((row["qid"], row["image"]) for row in called_slake)
    for run, rows in zip(done, answered, strict=True):
        facts |= {key: rows[0][key] for key in ("inpainting", "dataset") if rows and key in rows[0]}
        for mode in MODES:
            part = [row for row in rows if row["mode"] == mode]
            if part:
                there = by_mode.setdefault(mode, {}).setdefault(run.system, {})
                there[run.seed] = _answers(part, contents)
    for mode in reversed(MODES):
        if mode in by_mode:
            yield _view(evaluation, mode, by_mode[mode], study.file.reference, facts)


def _answers(rows: Sequence[Mapping], contents: Mapping[str, str]) -> _Answers:
    by_key = keyed(rows, contents)
    values = {
        key: {name: value for name, value in values_of(row).items() if name in ROWS}
        for key, row in by_key.items()
    }
    clusters = {key: cluster_of(row) for key, row in by_key.items()}
    statistics = {name: s for name, s in statistics_of(rows).items() if name in ROWS}
    return _Answers(values, clusters, statistics)


def _view(
    evaluation: str, mode: str, answers: dict[str, dict[int, _Answers]], reference: str, facts: dict
) -> View:
    every = [one for by_seed in answers.values() for one in by_seed.values()]
    names = sorted({cluster for one in every for cluster in one.cluster.values()})
    number = {cluster: place for place, cluster in enumerate(names)}
    metrics = {system: _metrics(by_seed, number) for system, by_seed in answers.items()}
    differences = [
        one
        for system, by_seed in answers.items()
        if system != reference and reference in answers
        for one in _differences(system, by_seed, answers[reference], number)
    ]
    seeds = {system: tuple(by_seed) for system, by_seed in answers.items()}
    keys = {key for one in every for key in one.rows}
    return View(evaluation, mode, seeds, metrics, differences, len(keys), len(names), facts)


def _metrics(by_seed: dict[int, _Answers], number: dict[str, int]) -> dict[str, Estimate]:
    found = {}
    for metric in ROWS:
        bounds = bounds_of(metric)
        means = {seed: _mean_of(one, metric, number) for seed, one in by_seed.items()}
        if means := {seed: one for seed, one in means.items() if one}:
            found[metric] = replace(estimate([*means.values()], bounds), seeds=tuple(means))
            continue
        there = {
            s: one.statistics[metric] for s, one in by_seed.items() if metric in one.statistics
        }
        if there:
            right = [_right(one, number) for one in there.values() if one.correct is not None]
            one = estimate([_statistic(s, number) for s in there.values()], bounds, right)
            lean = float(np.mean([s.lean for s in there.values()]))
            low = None if one.low is None else max(bounds[0], one.low - lean)
            found[metric] = replace(one, low=low, seeds=tuple(there))
    return found


def _differences(
    system: str, by_seed: dict[int, _Answers], reference: dict[int, _Answers], number: dict
) -> Iterator[Difference]:
    shared = [seed for seed in by_seed if seed in reference]
    for metric in ROWS:
        apart = [(s, _apart(by_seed[s], reference[s], metric, number)) for s in shared]
        if apart := [(seed, one) for seed, one in apart if one]:
            low, high = bounds_of(metric)
            found = estimate([one for _, one in apart], (low - high, high - low))
            seeds = tuple(seed for seed, _ in apart)
            yield Difference(system, metric, replace(found, seeds=seeds))


def _mean_of(answers: _Answers, metric: str, number: dict[str, int]) -> Measured | None:
    keys = [key for key, values in answers.rows.items() if metric in values]
    return _measured([answers.rows[key][metric] for key in keys], keys, answers, number)


def _apart(one: _Answers, other: _Answers, metric: str, number: dict) -> Measured | None:
    """Of the questions that both answered, and to which the metric applies in both."""
    if metric in one.statistics and metric in other.statistics:
        mine, theirs = one.statistics[metric], other.statistics[metric]
        if list(mine.clusters) != list(theirs.clusters):
            return None
        return _statistic(mine, number).minus(_statistic(theirs, number))
    if metric in REPEATED:
        return None
    keys = [k for k, v in one.rows.items() if metric in v and metric in other.rows.get(k, {})]
    apart = [one.rows[key][metric] - other.rows[key][metric] for key in keys]
    return _measured(apart, keys, one, number)


def _measured(values, keys, answers: _Answers, number: dict[str, int]) -> Measured | None:
    if not values:
        return None
    numbers = np.array([number[answers.cluster[key]] for key in keys])
    return measured_mean(values, numbers, len(number))


def _statistic(found: Statistic, number: dict[str, int]) -> Measured:
    numbers = np.array([number[cluster] for cluster in found.clusters])
    return measured_statistic(found.value, found.counted, numbers, len(number))


def _right(found: Statistic, number: dict[str, int]) -> Measured:
    numbers = np.array([number[cluster] for cluster in found.clusters])
    return measured_mean(found.correct, numbers, len(number))


def _corrected(views: Sequence[View]) -> list[View]:
    placed = [(v, d) for v, view in enumerate(views) for d in range(len(view.differences))]
    families: dict[str, list[tuple[int, int]]] = {}
    for v, d in placed:
        metric = views[v].differences[d].metric
        if ROWS[metric].better:
            name = metric if views[v].main and metric in PRIMARY else "other"
            families.setdefault(name, []).append((v, d))
    adjusted = {}
    for name, places in families.items():
        rule = benjamini_hochberg if name == "other" else holm
        p_values = rule([views[v].differences[d].found.p_value for v, d in places])
        adjusted |= {place: (name, p) for place, p in zip(places, p_values, strict=True)}
    result = []
    for v, view in enumerate(views):
        differences = [
            replace(one, family=adjusted[v, d][0], p_adjusted=adjusted[v, d][1])
            if (v, d) in adjusted
            else one
            for d, one in enumerate(view.differences)
        ]
        result.append(replace(view, differences=differences))
    return result
