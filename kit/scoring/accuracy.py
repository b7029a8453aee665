"""An answer under the three conventions at once, and the metrics of many.

The conventions, each a module of its own: ``exact`` (ours), ``llava_med``, ``medevalkit``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kit.scoring import llava_med, medevalkit
from kit.scoring.exact import exact_match

Scores = dict[str, float | None]

# fmt: off
MEDEVALKIT_OPEN = (
    "open_exact", "bleu1", "bleu2", "bleu3", "bleu4", "rouge1", "rouge2", "rougeL",
    "precision", "recall", "f1",
)
# fmt: on
KEYS = (
    "exact",
    "llava_med/open_recall",
    "llava_med/closed_accuracy",
    "medevalkit/total",
    "medevalkit/closed",
    *(f"medevalkit/{name}" for name in MEDEVALKIT_OPEN),
)

_GROUPS = {
    "modality": "modality",
    "location": "location",
    "content": "content_type",
    "dataset": "dataset",
}


def score_answer(prediction: str, gold: str, *, answer_type: str) -> Scores:
    """All values of one record, in 0..1, under the names in ``KEYS``.

    ``answer_type`` is ``"OPEN"`` or ``"CLOSED"``. None where a convention has no value for that
    type; for any other type only ``exact`` has one.

    >>> scores = score_answer("Yes.", "yes", answer_type="CLOSED")
    >>> scores["exact"], scores["llava_med/closed_accuracy"], scores["llava_med/open_recall"]
    (1.0, 1.0, None)
    """
    scores: Scores = dict.fromkeys(KEYS)
    scores["exact"] = exact_match(prediction, gold)
    if answer_type == "CLOSED":
        scores["llava_med/closed_accuracy"] = llava_med.closed_hit(prediction, gold)
        scores["medevalkit/closed"] = medevalkit.closed_hit(prediction, gold)
        scores["medevalkit/total"] = scores["medevalkit/closed"]
    elif answer_type == "OPEN":
        scores["llava_med/open_recall"] = llava_med.open_recall(prediction, gold)
        for name, value in medevalkit.open_scores(prediction, gold).items():
            scores[f"medevalkit/{name}"] = value
        scores["medevalkit/total"] = scores["medevalkit/open_exact"]
    return scores


def aggregate(
    scores: Sequence[Mapping[str, float | None]], rows: Sequence[Mapping]
) -> dict[str, float]:
    """Flat metrics in 0..1, each the mean over the records that it applies to.

    ``rows`` gives the ``answer_type``, ``modality``, ``location``, ``content_type`` and
    ``dataset`` of each score (missing or empty: in no such group). ``exact`` comes as
    ``exact/all``, ``exact/open``, ``exact/closed`` and ``exact/<group>/<name>`` with the groups
    modality, location, content and dataset; a VQA-RAD question of several content types
    ("PRES, ABN") counts in each. A metric that applies to no record is absent.

    Raises:
        ValueError: the two are not of one length.

    >>> rows = [{"answer_type": "OPEN", "modality": "CT"}, {"answer_type": "OPEN"}]
    >>> aggregate([{"exact": 1.0}, {"exact": 0.0}], rows)
    {'exact/all': 0.5, 'exact/modality/CT': 1.0, 'exact/open': 0.5}
    """
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for values, row in zip(scores, rows, strict=True):
        for key, value in values.items():
            for name in _names(key, row) if value is not None else ():
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + 1
    return {name: sums[name] / counts[name] for name in sorted(sums)}


def _names(key: str, row: Mapping) -> list[str]:
    """The metrics to which a record's value under ``key`` counts."""
    if key != "exact":
        return [key]
    names = ["exact/all"]
    answer_type = row.get("answer_type") or ""
    if answer_type in ("OPEN", "CLOSED"):
        names.append(f"exact/{answer_type.lower()}")
    for group, field in _GROUPS.items():
        value = row.get(field) or ""
        parts = value.split(",") if group == "content" else [value]
        names += dict.fromkeys(f"exact/{group}/{p.strip()}" for p in parts if p.strip())
    return names
