"""The plots of the report, as Plotly data and layout; the page gives them its colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from kit.report.metrics import PROBABILITIES, confident
from kit.report.risk_coverage import reliability, risk_coverage_curve

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")  # Okabe-Ito
MOST_POINTS = 400  # of a curve

FLIPS = {
    "roi_flip_rate": "evidence",
    "random_flip_rate": "random<br>(evidence)",
    "claimed_roi_flip_rate": "own boxes",
    "claimed_random_flip_rate": "random<br>(own boxes)",
}
IMAGES = {
    "exact/all": "the image",
    "exact/shuffled": "another<br>image",
    "exact/blank": "blank<br>image",
    "exact/question_only": "no image",
    "floor/question_only": "guess from<br>question",
}
EVIDENCE = {
    "iou/mean": "all",
    "iou/mean/evidence/organ": "organs",
    "iou/mean/evidence/lesion": "lesions<br>(CT, MRI)",
    "iou/mean/evidence/xray_lesion": "X-ray<br>lesions",
}


def figures(
    metrics: Mapping[str, Mapping[str, float]],
    models: Mapping[str, Sequence[Mapping]],
    mode: str,
) -> dict[str, dict]:
    """The plots of one mode by name; one that has nothing to show is left out.

    Args:
        metrics: flat metrics by model.
        models: prediction rows of that mode by model.
    """
    found = {
        "flips": _bars(metrics, mode, FLIPS, "share that changes"),
        "images": _bars(metrics, mode, IMAGES, "exact match"),
        "boxes": _bars(metrics, mode, EVIDENCE, "mean IoU"),
    }
    names = dict.fromkeys(
        name for rows in models.values() for row in rows for name in row.get("confidences", {})
    )
    for name in names:
        found[f"risk_{name}"] = _risk(models, name)
        if name in PROBABILITIES:
            found[f"reliability_{name}"] = _reliability(models, name)
    return {name: figure for name, figure in found.items() if figure["data"]}


def _bars(metrics, mode: str, names: Mapping[str, str], title: str) -> dict:
    figure = go.Figure()
    for number, (model, own) in enumerate(metrics.items()):
        there = [name for name in names if f"{mode}/{name}" in own]
        values = [own[f"{mode}/{name}"] for name in there]
        if not there:
            continue
        above = [own.get(f"{mode}/{n}/high", v) - v for n, v in zip(there, values, strict=True)]
        below = [v - own.get(f"{mode}/{n}/low", v) for n, v in zip(there, values, strict=True)]
        figure.add_bar(
            name=model,
            x=[names[name] for name in there],
            y=values,
            error_y={
                "array": above,
                "arrayminus": below,
                "thickness": 1.4,
                "width": 3,
                "color": "#888888",
            },
            marker_color=colour(number),
            customdata=[own[f"{mode}/{name}/n"] for name in there],
            hovertemplate="%{x}: %{y:.3f}, n = %{customdata}",
        )
    low = min((min(trace.y) for trace in figure.data), default=0)
    figure.update_layout(
        barmode="group", xaxis_tickangle=0, yaxis={"title": title, "range": [min(0, low), None]}
    )
    return plain(figure)


def _with_confidence(models, name: str):
    """The number and name of each model that has a confidence, that and what is right."""
    for number, (model, rows) in enumerate(models.items()):
        confidence, correct, _ = confident(rows, name)
        if len(correct):
            yield number, model, confidence, correct


def _risk(models, name: str) -> dict:
    figure = go.Figure()
    for number, model, confidence, correct in _with_confidence(models, name):
        for kind, by, dash in (("", confidence, "solid"), (" (oracle)", correct, "dot")):
            curve = risk_coverage_curve(by, correct)
            figure.add_scatter(
                name=model + kind,
                x=_thinned(curve.coverage),
                y=_thinned(curve.risk),
                mode="lines",
                line={"color": colour(number), "dash": dash, "width": 1.2 if kind else 2.2},
                hovertemplate="coverage %{x:.2f}: risk %{y:.3f}",
            )
    figure.update_layout(
        xaxis={"title": "coverage: share of questions answered", "range": [0, 1]},
        yaxis={"title": "risk: share of wrong answers", "rangemode": "tozero"},
    )
    return plain(figure)


def _reliability(models, name: str) -> dict:
    figure = go.Figure()
    for number, model, confidence, correct in _with_confidence(models, name):
        bins = reliability(confidence, correct)
        figure.add_scatter(
            name=model,
            x=[b.confidence for b in bins],
            y=[b.accuracy for b in bins],
            mode="lines+markers",
            marker_color=colour(number),
            customdata=[b.n for b in bins],
            hovertemplate="confidence %{x:.2f}: accuracy %{y:.2f}, n = %{customdata}",
        )
    if figure.data:
        figure.add_scatter(
            name="calibrated",
            x=[0, 1],
            y=[0, 1],
            mode="lines",
            line={"color": "#888888", "dash": "dot", "width": 1},
            hoverinfo="skip",
        )
    figure.update_layout(
        xaxis={"title": "mean confidence of a bin", "range": [0, 1]},
        yaxis={"title": "exact match in it", "range": [0, 1]},
    )
    return plain(figure)


def _thinned(values) -> list[float]:
    """At most about ``MOST_POINTS`` of the values, first and last among them."""
    step = max(1, len(values) // MOST_POINTS)
    kept = [*values[:-1:step], values[-1]]
    return [round(float(value), 5) for value in kept]


def colour(number: int) -> str:
    """The colour of the model, run or metric of a number."""
    return COLOURS[number % len(COLOURS)]


def plain(figure: go.Figure) -> dict:
    """Data and layout as plain values, without Plotly's own template."""
    figure.update_layout(template="none")
    plain = figure.to_plotly_json()
    plain["layout"].pop("template", None)
    return {"data": list(plain["data"]), "layout": plain["layout"]}
