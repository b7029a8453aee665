"""The certificate as a page: what it promises, what it gave of the part that was held out, by
modality, its curve of risk and coverage, and answers that it gives and withholds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from kit.files import atomic_write
from kit.report.cases import Pictures, card
from kit.report.certificate_file import Certificate, Seen
from kit.report.page import CAN_PLOT, render

KINDS = {
    "given": "certified",
    "bad": "certified, and wrong",
    "unsure": "withheld: not sure enough",
    "unmoved": "withheld: does not need its boxes",
    "unmatched": "withheld: no region matches its boxes",
    "boxless": "withheld: claims no boxes",
}


def write_page(
    path: Path,
    certificate: Certificate,
    held_out: Sequence[Mapping],
    again: Mapping | None,
    each: int,
) -> None:
    """
    Args:
        held_out: the lines of ``predictions.jsonl`` that were not calibrated on.
        again: what other splits of the same answers showed, if any were tried.
        each: answers of each kind that are shown.
    """
    method = next((row["inpainting"] for row in held_out if "inpainting" in row), "telea")
    pictures = Pictures(method)
    cards = list(_cards(certificate, held_out, pictures, each))
    whole = {"calibration": certificate.calibration, "held_out": certificate.held_out}
    page = render(
        "certificate.html.j2",
        can_plot=CAN_PLOT,
        certificate=certificate,
        lines={"all": whole, **certificate.modalities},
        again=again,
        cards=cards,
        kinds=KINDS,
        pictures=pictures.uris,
        figures={"risk": _risk(certificate, held_out)} if CAN_PLOT and held_out else {},
    )
    with atomic_write(path) as stream:
        stream.write(page)


def kind_of(certificate: Certificate, row: Mapping) -> str:
    """Which of :data:`KINDS` an answer is."""
    seen = Seen.of_row(row)
    if not seen.claims_boxes:
        return "boxless"
    if seen.drop is None:
        return "unmatched"
    if seen.lack(certificate.need):
        return "unmoved"
    if certificate.withheld(seen):
        return "unsure"
    return "given" if row["scores"]["exact"] == 1 else "bad"


def _cards(
    certificate: Certificate, rows: Sequence[Mapping], pictures: Pictures, each: int
) -> Iterator[dict]:
    """The first ``each`` of a kind, of different images as far as there are."""
    of_kind: dict[str, list[Mapping]] = {kind: [] for kind in KINDS}
    for row in rows:
        of_kind[kind_of(certificate, row)].append(row)
    for kind, own in of_kind.items():
        images = [row["image"] for row in own]
        earlier = [images[:n].count(image) for n, image in enumerate(images)]
        for n in sorted(range(len(own)), key=earlier.__getitem__)[:each]:
            row = own[n]
            why = certificate.withheld(Seen.of_row(row))
            found = card("", row, [kind], pictures)
            views = [view for view in found["views"] if view["first"]]
            yield found | {"why": why, "views": views}


def _risk(certificate: Certificate, rows: Sequence[Mapping]) -> dict:
    """The share of bad answers among those given, by how many are: by falling probability those
    that need their boxes, and beside them all answers whether they need them or not."""
    import plotly.graph_objects as go

    from kit.report.figures import colour, plain
    from kit.report.risk_coverage import risk_coverage_curve

    seen = [Seen.of_row(row) for row in rows]
    sure = np.array([one.probability for one in seen])
    needs = np.array([not one.lack(certificate.need) for one in seen])
    right = np.array([row["scores"]["exact"] == 1 for row in rows])
    figure = go.Figure()
    for number, (name, chosen) in enumerate(
        {"that need their boxes": needs, "needing them or not": np.ones(len(rows), bool)}.items()
    ):
        if not chosen.any():
            continue
        curve = risk_coverage_curve(sure[chosen], (right & needs)[chosen])
        figure.add_scatter(
            name=name,
            x=(curve.coverage * chosen.mean()).round(5).tolist(),
            y=curve.risk.round(5).tolist(),
            mode="lines",
            line={"color": colour(number), "width": 2.2},
            hovertemplate="%{x:.3f} given: %{y:.3f} bad",
        )
    given = certificate.held_out["coverage"]
    if given:
        figure.add_scatter(
            name="certified",
            x=[given],
            y=[certificate.held_out["risk"]],
            mode="markers",
            marker={"color": "#888888", "size": 11, "symbol": "diamond"},
            hovertemplate="%{x:.3f} given: %{y:.3f} bad",
        )
    figure.add_hline(y=certificate.alpha, line={"color": "#888888", "dash": "dot"})
    figure.update_layout(
        xaxis={"title": "share of answers given", "rangemode": "tozero"},
        yaxis={"title": "bad among them", "range": [0, 1.02]},
    )
    return plain(figure)
