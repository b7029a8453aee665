"""Evaluations side by side: ``report.html`` for people, ``report.txt`` for a terminal, and
``report.json`` for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from kit.data import slake
from kit.data.phantom.layout import are_phantoms
from kit.errors import RecordError, UserError
from kit.files import atomic_write, iter_json_lines, require_folder, write_json
from kit.prompting.messages import MODES
from kit.report.cases import KINDS, Pictures, gallery
from kit.report.comparison import Comparison, compare, correction
from kit.report.config import ReportConfig
from kit.report.page import CAN_PLOT, render
from kit.report.page_tables import beside_published, headlines, strata, summary
from kit.report.statistics import cluster_of
from kit.report.table import metrics_table
from kit.report.verdict import best_model, verdict

Rows = Sequence[Mapping]
NEEDED = {"mode", "dataset", "image", "qid", "question", "scores", "evidence", "confidences"}


def report(config: ReportConfig) -> int:
    """Compare evaluations and write what came of it; returns the exit code.

    ``report.json`` holds ``metrics`` (by model) and ``differences`` (a list, one for each metric,
    mode and pair of models).

    Raises:
        UserError: an evaluation is not there.
    """
    require_folder(config.output)
    metrics = {name: _metrics(folder) for name, folder in config.folders.items()}
    models = {name: rows_of(folder) for name, folder in config.folders.items()}
    comparisons = compare(models, config.seed)
    output = Path(config.output)
    text = "\n".join([metrics_table(metrics), *_in_words(metrics, comparisons)]) + "\n"
    differences = [one.to_json() for one in comparisons]
    write_json(output / "report.json", {"metrics": metrics, "differences": differences})
    with atomic_write(output / "report.txt") as stream:
        stream.write(text)
    write_page(output / "report.html", metrics, models, comparisons, config.cases_per_kind)
    print(text, end="")
    print(f"open {output / 'report.html'} in a browser", flush=True)
    return 0


def write_page(
    path: Path,
    metrics: Mapping[str, Mapping[str, float]],
    models: Mapping[str, Rows],
    comparisons: Sequence[Comparison] = (),
    cases_per_kind: int = 6,
) -> None:
    """Write ``report.html`` of one or several evaluations.

    Args:
        metrics: flat metrics by model.
        models: the rows of ``predictions.jsonl`` by model.
    """
    every = [row for rows in models.values() for row in rows]
    there = [mode for mode in reversed(MODES) if any(row["mode"] == mode for row in every)]
    methods = {row["inpainting"] for row in every if "inpainting" in row}
    pictures = Pictures(next(iter(methods), "telea"))
    cards = gallery(models, pictures, cases_per_kind)
    datasets = _datasets(models)
    modes = [
        {
            "name": mode,
            "verdict": verdict(metrics, comparisons, mode),
            "headlines": headlines(metrics, comparisons, mode),
            "table": [*summary(metrics, comparisons, mode)],
            "published": [*beside_published(metrics, datasets, mode)],
            "strata": [*strata(metrics, mode)],
            "figures": _figures(metrics, models, mode),
        }
        for mode in there
    ]
    page = render(
        "report.html.j2",
        can_plot=CAN_PLOT,
        models=list(models),
        modes=modes,
        datasets=datasets,
        drawn=are_phantoms(
            (row["qid"], row["image"]) for row in every if row["dataset"] == slake.DATASET
        ),
        images=len({row["image"] for row in every}),
        clusters=len({cluster_of(row) for row in every}),
        correction=correction(comparisons),
        inpainting=sorted(methods),
        kind_words={k.name: {"words": k.words, "meaning": k.meaning} for k in KINDS},
        cards=cards,
        pictures=pictures.uris,
        missing_pictures=sum(view["picture"] is None for card in cards for view in card["views"]),
        best={mode["name"]: best_model(metrics, mode["name"]) for mode in modes},
        figures={mode["name"]: mode["figures"] for mode in modes},
    )
    with atomic_write(path) as stream:
        stream.write(page)


def _figures(metrics: dict, models: dict, mode: str) -> dict:
    if not CAN_PLOT:
        return {}
    from kit.report.figures import figures

    rows = {name: [row for row in own if row["mode"] == mode] for name, own in models.items()}
    return figures(metrics, rows, mode)


def _metrics(folder: Path) -> dict[str, float]:
    try:
        return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fix = "give the folder that evaluate wrote"
        raise UserError("no metrics.json to read", where=folder, fix=fix) from error


def rows_of(folder: Path) -> list[dict]:
    """What evaluate wrote.

    Raises:
        UserError: nothing is there, or another version wrote it.
    """
    path = folder / "predictions.jsonl"
    if not path.is_file():
        fix = "give the folder that evaluate wrote"
        raise UserError("no predictions.jsonl to read", where=folder, fix=fix)
    rows = []
    for where, row in iter_json_lines(path):
        if isinstance(row, RecordError):
            raise row
        if not (isinstance(row, dict) and row.keys() >= NEEDED):
            what = "not a line that evaluate wrote, or one of an older version"
            raise UserError(what, where=where, fix="evaluate again")
        rows.append(row)
    return rows


def _in_words(metrics, comparisons) -> list[str]:
    lines = []
    for mode in MODES:
        found = verdict(metrics, comparisons, mode)
        if found.lead:
            lines += ["", f"{mode}:", *(f"  {sentence}" for sentence in found.lead + found.rest)]
    return [*lines, "", correction(comparisons)] if comparisons else lines


def _datasets(models: Mapping[str, Rows]) -> dict[str, int]:
    """The number of questions of each dataset that the first model was asked in one mode."""
    rows = next(iter(models.values()))
    counts = Counter((row["mode"], row["dataset"]) for row in rows)
    found: dict[str, int] = {}
    for (_, dataset), n in counts.items():
        found[dataset] = max(n, found.get(dataset, 0))
    return found
