"""From the rows of ``predictions.jsonl`` to flat metrics, each with its bounds and its n.

A metric is the mean of a value that some rows have: :func:`values_of` says which, under which
name, and so what two models are compared by too. What is no mean (areas, calibration, ratios) is
in :data:`STATISTICS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kit.data.evidence import is_lesion
from kit.prompting.messages import MODES
from kit.report.published import PUBLISHED
from kit.report.risk_coverage import (
    THRESHOLDS,
    Resampled,
    aurc,
    calibration_error,
    excess_aurc,
)
from kit.report.statistics import bootstrap_interval, bootstrap_statistic

SOURCES = {"gold": "", "claimed": "claimed_", "both": "both_"}
BY_DEFAULT = "answer_probability"  # the confidence that unnamed metrics go by
PROBABILITIES = ("answer_probability", "self_consistency")  # the confidences that can be calibrated
IN_STRATA = {"exact/all", "iou/mean", "iou/acc@0.5", "pointing", "flip_gap", "claimed_flip_gap"}
IN_DATASETS = {figure.metric for figure in PUBLISHED}  # these by dataset, to stand beside ours


def summarise(rows: Sequence[Mapping], seed: int = 0) -> dict[str, float]:
    """Flat metrics of prediction rows, prefixed by the mode, each with 95% bounds over images as
    ``<name>/low`` and ``<name>/high`` and the number of rows it is over as ``<name>/n``."""
    metrics: dict[str, float] = {}
    for mode in MODES:
        part = [row for row in rows if row["mode"] == mode]
        metrics |= {f"{mode}/{k}": v for k, v in summarise_mode(part, seed).items()}
    return metrics


def summarise_mode(rows: Sequence[Mapping], seed: int = 0) -> dict[str, float]:
    """The same for rows of one mode, without a prefix. A metric that no row has is absent.

    >>> row = {"image": "a", "answer_type": "OPEN", "scores": {"exact": 1.0}}
    >>> summarise_mode([row, {**row, "scores": {"exact": 0.0}}])["exact/open"]
    0.5
    """
    columns: dict[str, tuple[list[float], list[str]]] = {}
    for row in rows:
        for name, value in values_of(row).items():
            values, images = columns.setdefault(name, ([], []))
            values.append(value)
            images.append(row["image"])
    metrics: dict[str, float] = {}
    for name in sorted(columns):
        values, images = columns[name]
        low, high = bootstrap_interval(values, images, seed=seed)
        metrics |= _with_bounds(name, sum(values) / len(values), low, high, len(values))
    for name, statistic in statistics_of(rows).items():
        low, high = bootstrap_statistic(statistic.resampled, statistic.images, seed=seed)
        metrics |= _with_bounds(name, statistic.value, low, high, len(statistic.images))
    return metrics


def _with_bounds(name: str, value: float, low: float, high: float, n: int) -> dict[str, float]:
    return {name: value, f"{name}/low": low, f"{name}/high": high, f"{name}/n": n}


def values_of(row: Mapping) -> dict[str, float]:
    """The metrics to which a row counts, and its value in each."""
    found = {name: v for name, v in _plain_values(row).items() if v is not None}
    for stratum in strata_of(row):
        names = IN_STRATA | IN_DATASETS if stratum.startswith("dataset/") else IN_STRATA
        for name in names & found.keys():
            found[f"{name.removesuffix('/all')}/{stratum}"] = found[name]
    return found


def _plain_values(row: Mapping) -> dict[str, float | None]:
    values: dict[str, float | None] = dict(row["scores"])
    values["exact/all"] = values.pop("exact")
    for name, key in (("json_valid_rate", "valid_json"), ("truncated_rate", "truncated")):
        values[name] = float(row[key]) if key in row else None
    values["box_rate"] = float(bool(row["boxes"])) if "boxes" in row else None
    if grounding := row.get("grounding"):
        values |= {
            "iou/mean": grounding["iou"],
            "iou/acc@0.5": grounding["acc@0.5"],
            "iou/best_box": grounding["box_iou"],
            "pointing": grounding["pointing"],
        }
    if floor := row.get("floor"):
        values["floor/question_only"] = floor["exact"]
        values["above_floor"] = row["scores"]["exact"] - floor["exact"]
    for source, prefix in SOURCES.items():
        if flips := row.get("flips", {}).get(source):
            values |= {
                f"{prefix}roi_flip_rate": flips["roi"],
                f"{prefix}random_flip_rate": flips["random"],
                f"{prefix}flip_gap": flips["roi"] - flips["random"],
            }
            if "drop_roi" in flips:
                values |= {
                    f"{prefix}roi_drop": flips["drop_roi"],
                    f"{prefix}random_drop": flips["drop_random"],
                    f"{prefix}drop_gap": flips["drop_roi"] - flips["drop_random"],
                }
    ablations = row.get("ablations", {})
    for name, ablation in ablations.items():
        values |= {f"exact/{name}": ablation["exact"], f"changed/{name}": ablation["changed"]}
    looked = [ablations[name]["changed"] for name in ("blank", "shuffled") if name in ablations]
    values["image_sensitivity"] = sum(looked) / len(looked) if looked else None
    agreement = row.get("confidences", {}).get("consistency")
    if agreement is not None:
        for threshold in THRESHOLDS:
            kept = agreement >= threshold
            values[f"consistency@{threshold}/coverage"] = float(kept)
            values[f"consistency@{threshold}/accuracy"] = row["scores"]["exact"] if kept else None
    return values


def strata_of(row: Mapping) -> list[str]:
    """The strata of a row, as parts of a metric's name: ``open`` or ``closed``,
    ``modality/<name>``, ``location/<name>``, ``content/<name>``, ``dataset/<name>``,
    ``evidence/<kind>`` and ``guessable/<yes or no>``.

    A VQA-RAD question of several content types ("PRES, ABN") is in each. The evidence is
    ``xray_lesion``, ``lesion`` or ``organ``, what it holds first of these: an X-ray's lesions are
    boxes drawn by hand around what is faint, organs the bounds of masks. ``guessable`` says
    whether a guesser who sees no image gets it right (needs the floor).

    >>> strata_of({"answer_type": "CLOSED", "modality": "CT", "content_type": "PRES, ABN"})
    ['closed', 'modality/CT', 'content/PRES', 'content/ABN']
    """
    strata = [row["answer_type"].lower()] if row["answer_type"] in ("OPEN", "CLOSED") else []
    for group, field in (
        ("modality", "modality"),
        ("location", "location"),
        ("content", "content_type"),
        ("dataset", "dataset"),
    ):
        value = row.get(field) or ""
        parts = value.split(",") if group == "content" else [value]
        strata += dict.fromkeys(f"{group}/{part.strip()}" for part in parts if part.strip())
    if evidence := row.get("evidence"):
        kind = "lesion" if any(is_lesion(region["label"]) for region in evidence) else "organ"
        on_xray = kind == "lesion" and row.get("modality") == "X-Ray"
        strata.append(f"evidence/{'xray_lesion' if on_xray else kind}")
    if floor := row.get("floor"):
        strata.append(f"guessable/{'yes' if floor['exact'] else 'no'}")
    return strata


@dataclass(frozen=True)
class Statistic:
    """A value that is no mean of values of rows.

    ``value``: that of all rows. ``resampled``: takes how often each row was drawn, ``(resamples,
    rows)``, and gives the value in each resample. ``images``: of the rows that it is over.
    """

    value: float
    resampled: Callable[[np.ndarray], np.ndarray]
    images: Sequence[str]


def statistics_of(rows: Sequence[Mapping]) -> dict[str, Statistic]:
    """Areas under risk-coverage curves, calibration errors, and the share of the accuracy that
    survives without the image, by name. A name without a confidence goes by ``BY_DEFAULT``."""
    found: dict[str, Statistic] = {}
    names = dict.fromkeys(name for row in rows for name in row.get("confidences", {}))
    for name in names:
        confidence, correct, images = confident(rows, name)
        end = "" if name == BY_DEFAULT else f"/{name}"
        again = Resampled(confidence, correct)
        found[f"aurc{end}"] = Statistic(aurc(confidence, correct), again.aurc, images)
        found[f"excess_aurc{end}"] = Statistic(
            excess_aurc(confidence, correct), again.excess_aurc, images
        )
        if name in PROBABILITIES:
            found[f"ece{end}"] = Statistic(
                calibration_error(confidence, correct), again.calibration_error, images
            )
    for name in dict.fromkeys(name for row in rows for name in row.get("ablations", {})):
        part = [row for row in rows if name in row["ablations"]]
        whole = np.array([row["scores"]["exact"] for row in part])
        without = np.array([row["ablations"][name]["exact"] for row in part])
        if whole.any():
            found[f"accuracy_survival/{name}"] = Statistic(
                float(without.sum() / whole.sum()),
                lambda drawn, a=without, b=whole: _ratio(drawn @ a, drawn @ b),
                [row["image"] for row in part],
            )
    return found


def confident(rows: Sequence[Mapping], name: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Of the rows that have this confidence: the confidence, whether they are right, the image."""
    part = [row for row in rows if name in row.get("confidences", {})]
    confidence = np.array([row["confidences"][name] for row in part])
    correct = np.array([row["scores"]["exact"] for row in part])
    return confidence, correct, [row["image"] for row in part]


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
