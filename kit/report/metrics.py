"""From the rows of ``predictions.jsonl`` to flat metrics, each with its bounds and its n.

A metric is the mean of a value that some rows have: :func:`values_of` says which, under which
name, and so what two models are compared by too. What is no mean (areas, calibration) is in
:func:`statistics_of`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kit.data.evidence import is_lesion
from kit.prompting.messages import MODES
from kit.report.causal import shares_of_causes, values_of_causes
from kit.report.published import PUBLISHED
from kit.report.risk_coverage import (
    THRESHOLDS,
    Resampled,
    aurc,
    calibration_error,
    calibration_noise,
    excess_aurc,
)
from kit.report.statistics import Counted, Interval, cluster_of, mean_interval, statistic_interval

SOURCES = {"gold": "", "claimed": "claimed_", "both": "both_"}
BY_DEFAULT = "answer_probability"  # the confidence that unnamed metrics go by
PROBABILITIES = ("answer_probability", "self_consistency")  # the confidences that can be calibrated
IN_STRATA = {"exact/all", "iou/mean", "iou/acc@0.5", "pointing", "flip_gap", "claimed_flip_gap"}
IN_TYPES = IN_STRATA | {"relaxed/all"}  # these by open and closed
IN_DATASETS = {figure.metric for figure in PUBLISHED}  # these by dataset, to stand beside ours
FAINT, STRONG = 10.0, 40.0  # grey levels: below, and above, a change is called so


def summarise(rows: Sequence[Mapping]) -> dict[str, float]:
    """Flat metrics of prediction rows, prefixed by the mode, each with the number of rows it is
    over as ``<name>/n`` and, if these are of ten clusters (``cluster_of``) or more, 95% bounds as
    ``<name>/low`` and ``<name>/high``."""
    metrics: dict[str, float] = {}
    for mode in MODES:
        part = [row for row in rows if row["mode"] == mode]
        metrics |= {f"{mode}/{k}": v for k, v in summarise_mode(part).items()}
    return metrics


def summarise_mode(rows: Sequence[Mapping]) -> dict[str, float]:
    """The same for rows of one mode, without a prefix. A metric that no row has is absent.

    >>> row = {"image": "a", "answer_type": "OPEN", "scores": {"exact": 1.0}}
    >>> summarise_mode([row, {**row, "scores": {"exact": 0.0}}])["exact/open"]
    0.5
    """
    columns: dict[str, tuple[list[float], list[str]]] = {}
    for row in rows:
        for name, value in values_of(row).items():
            values, clusters = columns.setdefault(name, ([], []))
            values.append(value)
            clusters.append(cluster_of(row))
    metrics: dict[str, float] = {}
    for name in sorted(columns):
        values, clusters = columns[name]
        interval = mean_interval(values, clusters, bounds_of(name))
        metrics |= _with_bounds(name, sum(values) / len(values), interval, len(values))
    for name, found in statistics_of(rows).items():
        interval = statistic_interval(
            found.value,
            found.counted,
            found.clusters,
            correct=found.correct,
            bounds=bounds_of(name),
            lean=found.lean,
        )
        metrics |= _with_bounds(name, found.value, interval, len(found.clusters))
    return metrics


def _with_bounds(name: str, value: float, interval: Interval | None, n: int) -> dict[str, float]:
    ends = {f"{name}/low": interval[0], f"{name}/high": interval[1]} if interval else {}
    return {name: value, **ends, f"{name}/n": n}


def bounds_of(metric: str) -> Interval:
    """Between what the values of a mean lie.

    >>> bounds_of("exact/all"), bounds_of("claimed_flip_gap/open"), bounds_of("region_change")
    ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
    """
    stem, *rest = metric.split("/")
    if stem.endswith(("gap", "drop")) or stem in ("above_floor", "vrs") or rest[:1] == ["gap"]:
        return -1.0, 1.0
    return (0.0, 255.0) if stem.endswith("_change") else (0.0, 1.0)


def values_of(row: Mapping) -> dict[str, float]:
    """The metrics to which a row counts, and its value in each."""
    found = {name: v for name, v in _plain_values(row).items() if v is not None}
    for stratum in strata_of(row):
        names = {"open": IN_TYPES, "closed": IN_TYPES}.get(stratum, IN_STRATA)
        if stratum.startswith("dataset/"):
            names = IN_STRATA | IN_DATASETS
        for name in names & found.keys():
            found[f"{name.removesuffix('/all')}/{stratum}"] = found[name]
    for prefix in SOURCES.values():
        if (change := found.get(f"{prefix}region_change")) is not None:
            stratum = "faint" if change < FAINT else "strong" if change > STRONG else "middle"
            for name in {f"{prefix}flip_gap", f"{prefix}drop_gap"} & found.keys():
                found[f"{name}/change/{stratum}"] = found[name]
    return found


def _plain_values(row: Mapping) -> dict[str, float | None]:
    values: dict[str, float | None] = dict(row["scores"])
    for name in {"exact", "relaxed"} & values.keys():
        values[f"{name}/all"] = values.pop(name)
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
    values |= _of_interventions(row) | _of_ablations(row) | values_of_causes(row)
    agreement = row.get("confidences", {}).get("consistency")
    if agreement is not None:
        for threshold in THRESHOLDS:
            kept = agreement >= threshold
            values[f"consistency@{threshold}/coverage"] = float(kept)
            values[f"consistency@{threshold}/accuracy"] = row["scores"]["exact"] if kept else None
    return values


def _of_interventions(row: Mapping) -> dict[str, float]:
    """What a region that is taken out does, by whose region it is."""
    values: dict[str, float] = {}
    for source, prefix in SOURCES.items():
        unmatched = source in row.get("unmatched", ())
        flips = row.get("flips", {}).get(source)
        if "unmatched" in row and (flips or unmatched):
            values[f"{prefix}unmatched_rate"] = float(unmatched)
        if not flips:
            continue
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
        for name in {"region_change", "control_change"} & flips.keys():
            values[f"{prefix}{name}"] = flips[name]
    return values


def _of_ablations(row: Mapping) -> dict[str, float]:
    """What becomes of the answer without the image. ``vrs`` and ``hvrr`` are the visual reliance
    score and the hallucinated visual reasoning rate of Zafar et al. 2026 (arXiv 2603.03437)."""
    values: dict[str, float] = {}
    exact, ablations = row["scores"]["exact"], row.get("ablations", {})
    for name, ablation in ablations.items():
        values |= {f"exact/{name}": ablation["exact"], f"changed/{name}": ablation["changed"]}
        if exact:
            values[f"accuracy_survival/{name}"] = ablation["exact"]
    looked = [ablations[name]["changed"] for name in ("blank", "shuffled") if name in ablations]
    if looked:
        values["image_sensitivity"] = sum(looked) / len(looked)
    if shuffled := ablations.get("shuffled"):
        values["vrs"] = exact - shuffled["exact"]
        values["hvrr"] = float(_claims_to_see(row) and not shuffled["changed"])
    return values


def _claims_to_see(row: Mapping) -> bool:
    """Whether an answer says something of the image beside itself: boxes or a caption that does
    more than repeat the question (whose consistency is above -1); in the mode without these, a
    step of reasoning."""
    if row["mode"] == "think_answer":
        return any(step.strip() for step in row.get("reasoning", ()))
    says = row.get("caption", "").strip() and row.get("confidences", {}).get("consistency", 0) > -1
    return bool(says or row.get("boxes"))


def strata_of(row: Mapping) -> list[str]:
    """The strata of a row, as parts of a metric's name: ``open`` or ``closed``, ``choice`` (it had
    several to choose from), ``modality/<name>``, ``location/<name>``, ``content/<name>``,
    ``dataset/<name>``, ``evidence/<kind>`` and ``guessable/<yes or no>``.

    A VQA-RAD question of several content types ("PRES, ABN") is in each. The evidence is
    ``xray_lesion``, ``lesion`` or ``organ``, what it holds first of these: an X-ray's lesions are
    boxes drawn by hand around what is faint, organs the bounds of masks. ``guessable`` says
    whether a guesser who sees no image gets it right (needs the floor).

    >>> strata_of({"answer_type": "CLOSED", "modality": "CT", "content_type": "PRES, ABN"})
    ['closed', 'modality/CT', 'content/PRES', 'content/ABN']
    """
    strata = [row["answer_type"].lower()] if row["answer_type"] in ("OPEN", "CLOSED") else []
    strata += ["choice"] if row.get("choices") else []
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

    ``value``: that of all rows. ``counted``: takes how often each row counts, ``(times, rows)``,
    and gives the value of each time. ``clusters`` and ``correct`` (0 or 1, None where that says
    nothing of it): of the rows that it is over. ``lean``: how far chance alone lifts it.
    """

    value: float
    counted: Counted
    clusters: Sequence[str]
    correct: Sequence[float] | None = None
    lean: float = 0.0


def statistics_of(rows: Sequence[Mapping]) -> dict[str, Statistic]:
    """Areas under risk-coverage curves and calibration errors by name, and causal recall. A name
    without a confidence goes by ``BY_DEFAULT``."""
    found: dict[str, Statistic] = {}
    names = dict.fromkeys(name for row in rows for name in row.get("confidences", {}))
    for name in names:
        sides = confident(rows, name)
        confidence, correct, clusters = sides
        end = "" if name == BY_DEFAULT else f"/{name}"
        again = Resampled(confidence, correct)
        for stem, value, counted, lean in (
            ("aurc", aurc(confidence, correct), again.aurc, 0.0),
            ("excess_aurc", excess_aurc(confidence, correct), again.excess_aurc, 0.0),
            (
                "ece",
                calibration_error(confidence, correct),
                again.calibration_error,
                calibration_noise(*sides),
            ),
        ):
            if stem != "ece" or name in PROBABILITIES:
                found[f"{stem}{end}"] = Statistic(value, counted, clusters, correct, lean)
    for name, share in shares_of_causes(rows).items():
        clusters = [cluster_of(rows[place]) for place in share.places]
        found[name] = Statistic(share.value, share.counted, clusters)
    return found


def confident(rows: Sequence[Mapping], name: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Of the rows that have this confidence: that, whether they are right, and their cluster."""
    part = [row for row in rows if name in row.get("confidences", {})]
    confidence = np.array([row["confidences"][name] for row in part])
    correct = np.array([row["scores"]["exact"] for row in part])
    return confidence, correct, [cluster_of(row) for row in part]
