"""Training curves: ``metrics.jsonl`` of one or several runs as one HTML page, once or live."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kit.errors import UserError, need_extra
from kit.files import atomic_write, log_rows, read_json, require_folder
from kit.report.config import CurvesConfig
from kit.report.page import render

# Plots that hold several metrics, in their order on the page; each other metric has one of its own.
TOGETHER = {
    "reward parts": ("rewards/", "/mean"),
    "time a step (s)": ("time/", ""),
}
SECTIONS = {
    "Reward": ("reward", "rewards/", "frac_reward_zero_std"),
    "Loss": (
        "loss", "eval_", "token_accuracy", "kl", "objectives/", "entropy", "clip_ratio/",
        "grad_norm",
    ),
    "Lengths": ("completions/",),
    "Speed": ("time/", "tokens_per_second", "num_tokens", "epoch", "samples"),
    "Other": ("",),
}  # fmt: skip
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
MOST_POINTS = 2000  # of a curve


def curves(config: CurvesConfig) -> int:
    """Write the page; returns the exit code. With ``watch`` the page looks for a newer one by
    itself as long as a run has not ended.

    Raises:
        UserError: a run folder is not there, or holds no log and is not watched; no plotly.
    """
    need_extra("plotly", "report")
    require_folder(config.page.parent)
    for folder in config.folders.values():
        if not folder.is_dir():
            raise UserError("no such run folder", where=folder, fix="check --runs")
        if not config.watch and not _log(folder).exists():
            fix = "give a folder that train_sft or train_grpo wrote, or wait with --watch true"
            raise UserError("no metrics.jsonl to draw", where=folder, fix=fix)
    drawn = None
    while True:
        state = {name: _stamp(folder) for name, folder in config.folders.items()}
        live = config.watch and not all(_ended(folder) for folder in config.folders.values())
        if (state, live) != drawn:
            write_curves(config, live)
            drawn = state, live
        if not live:
            break
        try:
            time.sleep(config.interval)
        except KeyboardInterrupt:
            write_curves(config, live=False)
            break
    print(f"open {config.page} in a browser", flush=True)
    return 0


def write_curves(config: CurvesConfig, live: bool) -> None:
    """Write the page as the runs stand now. ``live``: it is to load itself again."""
    runs = {name: read_log(_log(folder)) for name, folder in config.folders.items()}
    sections = [
        {"name": name, "figures": list(figures)} for name, figures in _sections(runs).items()
    ]
    page = render(
        "curves.html.j2",
        names=list(runs),
        runs=[_facts(name, folder, runs[name]) for name, folder in config.folders.items()],
        sections=sections,
        figures={f["name"]: f["figure"] for one in sections for f in one["figures"]},
        reload_after=config.interval if live else 0,
    )
    with atomic_write(config.page) as stream:
        stream.write(page)
    if live:
        steps = ", ".join(f"{name} step {_last(rows, 'step')}" for name, rows in runs.items())
        print(f"{config.page}: {steps}", flush=True)


def read_log(path: Path) -> list[dict]:
    """The rows of a log that may be written at this moment: a last line that is not whole yet is
    left out; none if there is no file."""
    rows, broken = log_rows(path)
    if broken:
        raise broken[0]
    return rows


def _log(folder: Path) -> Path:
    return folder / "metrics.jsonl"


def _stamp(folder: Path) -> tuple[int, bool]:
    path = _log(folder)
    return (path.stat().st_size if path.exists() else 0), _ended(folder)


def _ended(folder: Path) -> bool:
    return bool(read_json(folder / "summary.json").get("finished"))


def _facts(name: str, folder: Path, rows: Sequence[Mapping]) -> dict:
    """A line of the table of runs."""
    summary = read_json(folder / "summary.json")
    total = read_json(folder / "environment.json").get("total_steps")
    step = _last(rows, "step")
    ended = bool(summary.get("finished"))
    shown = ("loss", "eval_loss", "reward", "kl")
    return {
        "name": name,
        "state": "finished" if ended else "not finished",
        "steps": f"{step} of {total}" if total else str(step),
        "seconds": f"{summary['seconds']:.0f} s" if "seconds" in summary else "",
        "values": [
            f"{key} {value:.4g}" for key in shown if (value := _last(rows, key)) not in (None, 0)
        ],
    }


def _last(rows: Sequence[Mapping], key: str):
    return next((row[key] for row in reversed(rows) if key in row), 0 if key == "step" else None)


def _sections(runs: Mapping[str, Sequence[Mapping]]) -> dict[str, list[dict]]:
    """The plots of each section that has any: name, title and figure."""
    names = dict.fromkeys(key for rows in runs.values() for row in rows for key in row)
    names.pop("step", None)
    sections: dict[str, list[dict]] = {name: [] for name in SECTIONS}
    for title, metrics in _plots(list(names)):
        section = next(
            name
            for name, starts in SECTIONS.items()
            if any(metrics[0] == start or metrics[0].startswith(start) for start in starts)
        )
        figure = _figure(runs, metrics)
        if figure["data"]:
            sections[section].append({"name": title, "figure": figure})
    return {name: figures for name, figures in sections.items() if figures}


def _plots(names: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The title of each plot and the metrics in it."""
    left = list(names)
    for title, (start, end) in TOGETHER.items():
        part = [name for name in names if name.startswith(start) and name.endswith(end)]
        if part:
            yield title, part
            left = [name for name in left if name not in part]
    for name in sorted(left, key=lambda name: (name.count("/"), names.index(name))):
        yield name, [name]


def _figure(runs: Mapping[str, Sequence[Mapping]], metrics: Sequence[str]) -> dict:
    import plotly.graph_objects as go

    from kit.report.figures import colour, plain

    figure = go.Figure()
    together = len(metrics) > 1
    if together:  # runs differ by their dashes
        runs = {
            n: rows for n, rows in runs.items() if any(m in row for row in rows for m in metrics)
        }
    for r, (run, rows) in enumerate(runs.items()):
        for m, metric in enumerate(metrics):
            points = [
                (row["step"], row[metric])
                for row in rows
                if isinstance(row.get(metric), (int, float)) and math.isfinite(row[metric])
            ]
            points = points[:: max(1, len(points) // MOST_POINTS)]
            if not points:
                continue
            words = _short(metric) if together else ""
            figure.add_scatter(
                name=" ".join(filter(None, [run if len(runs) > 1 else "", words])) or run,
                x=[step for step, _ in points],
                y=[value for _, value in points],
                mode="lines+markers" if len(points) < 3 else "lines",
                line={
                    "color": colour(m if together else r),
                    "dash": DASHES[r % len(DASHES)] if together else "solid",
                },
                hovertemplate="step %{x}: %{y:.4g}",
            )
    figure.update_layout(xaxis={"title": "step"}, yaxis={"title": ""})
    figure.update_layout(showlegend=len(runs) > 1 or together)
    return plain(figure)


def _short(metric: str) -> str:
    """
    >>> _short("rewards/format/mean"), _short("time/rollout")
    ('format', 'rollout')
    """
    return metric.split("/")[1]
