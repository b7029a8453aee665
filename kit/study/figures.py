"""The plots of a study's page, as Plotly data and layout."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from kit.report.figures import colour, plain
from kit.report.table import Row
from kit.study.crossed import Estimate


def intervals(systems: Mapping[str, Estimate], row: Row, words: str, number: int) -> dict:
    """A metric of each system with its bounds, and each seed's beside."""
    scale, unit = {"": (1, ""), "points": (100, ", points")}.get(row.unit, (100, ", %"))
    found = list(systems.values())
    highs = [one.mean if one.high is None else one.high for one in found]
    lows = [one.mean if one.low is None else one.low for one in found]
    figure = go.Figure()
    figure.add_scatter(
        x=[scale * value for one in found for value in one.by_seed],
        y=[name for name, one in systems.items() for _ in one.by_seed],
        mode="markers",
        name="a seed",
        marker={"color": "#888888", "size": 6, "opacity": 0.6},
        hovertemplate="%{y}: %{x:.3f}",
    )
    figure.add_scatter(
        x=[scale * one.mean for one in found],
        y=list(systems),
        mode="markers",
        name="mean, 95%",
        marker={"color": colour(number), "size": 10},
        error_x={
            "array": [scale * (high - one.mean) for high, one in zip(highs, found, strict=True)],
            "arrayminus": [scale * (one.mean - low) for low, one in zip(lows, found, strict=True)],
            "thickness": 1.6,
            "width": 4,
            "color": colour(number),
        },
        hovertemplate="%{y}: %{x:.3f}",
    )
    figure.update_layout(
        xaxis={"title": words + unit}, yaxis={"autorange": "reversed", "type": "category"}
    )
    return plain(figure)
