"""The page of a study, with the same as JSON and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kit.files import atomic_write, log_rows, write_json
from kit.report.comparison import PRIMARY
from kit.report.page import CAN_PLOT, render
from kit.report.table import GROUPS, ROWS, Row
from kit.study.crossed import Estimate
from kit.study.plan import plan
from kit.study.records import Record, wanted
from kit.study.results import Difference, View, views_of
from kit.study.study_file import START, Study

COLUMNS = {
    "exact/all": "exact match", "flip_gap": "evidence gap, points",
    "claimed_flip_gap": "own-box gap, points", "iou/mean": "IoU with gold boxes",
    "accuracy_survival/question_only": "right answers that survive without image",
    "causal/recall": "causal recall", "causal/gap": "causal gap, points",
    "vrs": "VRS, points", "hvrr": "HVRR", "ece": "calibration error",
    "excess_aurc": "excess AURC", "json_valid_rate": "valid JSON",
}  # fmt: skip
TRAINING = {"reward": "reward", "kl": "KL", "frac_reward_zero_std": "groups without spread"}
BETTER = {1: "more is better", -1: "less is better", 0: ""}
WORDS = {"exact/all": "exact match", "flip_gap": "evidence gap", "iou/mean": "IoU with gold boxes"}


def write_page(study: Study, folder: Path) -> Path | None:
    """Write ``study.html``, ``study.json`` and ``study.md``; returns the first. None if nothing of
    the study is evaluated yet."""
    records = [Record(study.folder, run) for run in plan(study)]
    views = views_of(study, records)
    if not views:
        return None
    ran = what_ran(study, records)
    write_json(folder / "study.json", as_json(study, views, ran))
    with atomic_write(folder / "study.md") as stream:
        stream.write(as_markdown(study, views, ran))
    page = render(
        "study.html.j2",
        name=study.path.stem,
        study=study.file,
        ran=ran,
        drawn=are_drawn(views),
        there=study.file.reference in views[0].metrics,
        training=TRAINING,
        short=in_short(views[0], study.file.reference),
        views=[_shown(view, study) for view in views],
        figures=_figures(views[0]),
        can_plot=CAN_PLOT,
    )
    with atomic_write(folder / "study.html") as stream:
        stream.write(page)
    return folder / "study.html"


def are_drawn(views: Sequence[View]) -> bool:
    """Whether some of the images are phantoms."""
    return any(view.facts["drawn"] for view in views)


def what_ran(study: Study, records: Sequence[Record]) -> dict:
    """The systems with the keys in which they differ, the keys that all share, how many runs are
    done, the hours that they took, and how training ended, by system."""
    hours: dict[str, float] = {}
    for record in records:
        system = record.run.system or "data"
        hours[system] = hours.get(system, 0.0) + record.seconds / 3600
    systems = {}
    for name, system in study.systems.items():
        own = {f"train_sft.{key}": value for key, value in system.sft.items()}
        if system.grpo is None and name != START:
            own |= {"train_grpo": "false"}
        systems[name] = own | dict(system.grpo or {})
    stages = (
        "phantoms", "data", "choose_prompts", "train_sft", "cf_proxy", "train_grpo",
        "evaluate", "evaluations",
    )  # fmt: skip
    return {
        "systems": systems,
        "budget": {key: found for key in stages if (found := getattr(study.file, key))},
        "runs": len(records),
        "done": sum(record.state == "done" for record in records),
        "hours": {name: round(value, 3) for name, value in hours.items()},
        "hours_in_all": round(sum(hours.values()), 2),
        "training": {name: told for name in systems if (told := _training(name, records))},
        "not_done": wanted({record.run.name: record for record in records}),
    }


def _training(system: str, records: Sequence[Record]) -> dict[str, float]:
    """The mean over the last quarter of what GRPO logged, and over seeds."""
    found: dict[str, list[float]] = {}
    for record in records:
        if record.run.system == system and record.run.command == "train_grpo":
            rows, _ = log_rows(record.run.output / "metrics.jsonl")
            for row in rows[-max(1, len(rows) // 4) :]:
                for name in TRAINING.keys() & row.keys():
                    found.setdefault(name, []).append(row[name])
    return {name: sum(found[name]) / len(found[name]) for name in TRAINING if name in found}


# ------------------------------------------------------------------------ in words
def in_short(view: View, reference: str) -> list[str]:
    """What is sure of the primary metrics, a sentence each."""
    systems = [name for name in view.metrics if name != reference]
    sentences = []
    for metric in PRIMARY:
        found = [d for name in systems if (d := view.difference(name, metric))]
        if not found:
            continue
        words, row = WORDS[metric], ROWS[metric]
        parts = []
        for better, verb in ((True, "more"), (False, "less")):
            sure = sorted(
                (d for d in found if d.better is better), key=lambda d: -abs(d.found.mean)
            )
            if sure:
                listed = ", ".join(f"{d.system} {change(row, d.found)}" for d in sure)
                parts.append(f"surely {verb} than {reference}: {listed}")
        if not parts:
            best = max(found, key=lambda d: d.found.mean * row.better)
            parts = [
                f"no system is surely apart from {reference}; most has {best.system}, "
                f"{change(row, best.found)} (p = {best.p_adjusted:.2g})"
            ]
        sentences.append(f"{words[0].upper()}{words[1:]}: {'; '.join(parts)}.")
    return sentences


def change(row: Row, found: Estimate) -> str:
    """A difference with its bounds, in points where its metric is a share.

    >>> change(ROWS["exact/all"], Estimate(0.1, 0.05, 0.15, 0.01, 100, 50, (0.1,)))
    '+10.0 [+5.0, +15.0]'
    """
    scale, digits = (1, 3) if row.unit == "" else (100, 1)
    mean, *ends = (
        None if value is None else f"{scale * value:+.{digits}f}"
        for value in (found.mean, found.low, found.high)
    )
    return f"{mean} [{', '.join(ends)}]" if None not in ends else str(mean)


def value(row: Row, found: Estimate | None) -> dict[str, str]:
    """A figure as it is shown, with its bounds."""
    if found is None:
        return {"text": "-", "range": ""}
    ends = [row.text(one).removesuffix("%") for one in (found.low, found.high) if one is not None]
    return {"text": row.text(found.mean), "range": f"[{', '.join(ends)}]" if ends else ""}


def _by_seed(row: Row, found: Estimate | None, seeds: Sequence[int]) -> str:
    there = dict(zip(found.seeds, found.by_seed, strict=True)) if found else {}
    return ", ".join(row.text(there[s]).removesuffix("%") if s in there else "-" for s in seeds)


# ------------------------------------------------------------------------ tables
def _columns(view: View) -> dict[str, str]:
    there = {metric for own in view.metrics.values() for metric in own}
    return {name: words for name, words in COLUMNS.items() if name in there}


def _shown(view: View, study: Study) -> dict:
    """A view as its tables show it."""
    columns = _columns(view)
    systems = [name for name in study.systems if name in view.metrics]
    return {
        "evaluation": view.evaluation,
        "main": view.main,
        "mode": view.mode.replace("_", " → "),
        "questions": view.questions,
        "images": view.images,
        "facts": view.facts,
        "columns": [
            {"words": words, "better": BETTER[ROWS[name].better]} for name, words in columns.items()
        ],
        "systems": [
            {
                "name": name,
                "seeds": list(view.seeds[name]),
                "cells": [value(ROWS[m], view.metrics[name].get(m)) for m in columns],
                "by_seed": [
                    _by_seed(ROWS[m], view.metrics[name].get(m), view.seeds[name]) for m in columns
                ],
                "changes": [_change(view.difference(name, m)) for m in columns],
            }
            for name in systems
        ],
        "every": [*_every(view, systems)],
    }  # fmt: skip


def _change(found: Difference | None) -> dict[str, str]:
    if found is None:
        return {"text": "", "range": "", "p": "", "kind": "soft"}
    text, _, ends = change(ROWS[found.metric], found.found).partition(" ")
    kind = {True: "good", False: "bad", None: "soft"}[found.better]
    p = "" if found.p_adjusted is None else f"p = {found.p_adjusted:.2g}"
    return {"text": text, "range": ends, "p": p, "kind": kind}


def _every(view: View, systems: Sequence[str]) -> Iterator[dict]:
    """All metrics, a line each."""
    for group, rows in GROUPS.items():
        for row in rows:
            cells = [value(row, view.metrics[name].get(row.name)) for name in systems]
            if any(cell["text"] != "-" for cell in cells):
                yield {"group": group, "words": row.words, "cells": cells}


def _figures(view: View) -> dict[str, dict]:
    if not CAN_PLOT:
        return {}
    from kit.study.figures import intervals

    there = {
        metric: {name: own[metric] for name, own in view.metrics.items() if metric in own}
        for metric in PRIMARY
    }
    return {m: intervals(there[m], ROWS[m], WORDS[m], n) for n, m in enumerate(PRIMARY) if there[m]}


# ------------------------------------------------------------------------ for programs, and text
def as_json(study: Study, views: Sequence[View], ran: Mapping) -> dict:
    """All numbers. ``better``: whether the system is surely better than the reference; null where
    that is not sure."""
    return {
        "study": study.path.stem,
        "reference": study.file.reference,
        "seeds": study.file.seeds,
        **ran,
        "views": [
            {
                "evaluation": view.evaluation, "mode": view.mode, **view.facts,
                "questions": view.questions, "images": view.images,
                "metrics": {
                    system: {metric: _flat(one) for metric, one in own.items()}
                    for system, own in view.metrics.items()
                },
                "differences": [
                    {
                        "system": d.system, "metric": d.metric, **_flat(d.found),
                        "p_value": d.found.p_value, "p_adjusted": d.p_adjusted,
                        "family": d.family, "better": d.better,
                    }
                    for d in view.differences
                ],
            }
            for view in views
        ],
    }  # fmt: skip


def _flat(found: Estimate) -> dict:
    return {
        "mean": found.mean, "low": found.low, "high": found.high, "n": found.n,
        "images": found.n_images,
        "seeds": dict(zip(map(str, found.seeds), found.by_seed, strict=True)),
    }  # fmt: skip


def as_markdown(study: Study, views: Sequence[View], ran: Mapping) -> str:
    """The tables of ``study.md``."""
    lines = [
        f"# {study.path.stem}", "",
        f"{ran['done']} of {ran['runs']} runs, {ran['hours_in_all']} hours of computing. Brackets "
        "are 95% intervals over images and seeds."
        + " Drawn phantoms: they say nothing about patients." * are_drawn(views), "",
        *(f"- {sentence}" for sentence in in_short(views[0], study.file.reference)),
    ]  # fmt: skip
    for view in views:
        columns = _columns(view)
        lines += [
            "",
            f"## {view.evaluation}, {view.mode}: {view.questions} questions, {view.images} images",
            "",
        ]
        lines += [
            f"| | seeds | {' | '.join(columns.values())} |",
            "|---" * (2 + len(columns)) + "|",
        ]
        for name, own in view.metrics.items():
            cells = (value(ROWS[m], own.get(m)) for m in columns)
            told = " | ".join(f"{c['text']} {c['range']}".strip() for c in cells)
            lines.append(f"| {name} | {len(view.seeds[name])} | {told} |")
        lines += ["", f"| above {study.file.reference} | seeds | {' | '.join(columns.values())} |"]
        lines += ["|---" * (2 + len(columns)) + "|"]
        for name in view.metrics:
            apart = [view.difference(name, m) for m in columns]
            if any(apart):
                mark = {"good": " **better**", "bad": " **worse**", "soft": ""}
                found = [_change(one) for one in apart]
                told = (f"{c['text']} {c['range']}{mark[c['kind']]}".strip() for c in found)
                seeds = max(len(one.found.seeds) for one in apart if one)
                lines.append(f"| {name} | {seeds} | {' | '.join(told)} |")
    return "\n".join(lines) + "\n"
