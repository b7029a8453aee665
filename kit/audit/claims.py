"""A figure that somebody claims, and whether predictions bear it out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from kit.errors import ConfigError

# The figures of the conventions (``kit.audit.conventions``, which takes longer to import).
NAMES = (
    "exact/all", "exact/open", "exact/closed", "exact/choice",
    "relaxed/all", "relaxed/open", "relaxed/closed", "laterality_error",
    "vqa_challenge/accuracy", "llava_med/open_recall", "llava_med/closed_accuracy",
    "medevalkit/total", "medevalkit/closed", "medevalkit/open_exact", "medevalkit/recall",
    "medevalkit/precision", "medevalkit/f1", "medevalkit/bleu1", "medevalkit/bleu2",
    "medevalkit/bleu3", "medevalkit/bleu4", "medevalkit/rouge1", "medevalkit/rouge2",
    "medevalkit/rougeL",
)  # fmt: skip
STRATA = ("dataset", "modality", "location", "content", "evidence", "guessable")
_ALSO = {
    "exact": "exact/all", "exact_match": "exact/all", "em": "exact/all", "relaxed": "relaxed/all",
    "vqa_challenge": "vqa_challenge/accuracy", "vqa": "vqa_challenge/accuracy",
    "medevalkit": "medevalkit/total", "medevalkit/accuracy": "medevalkit/total",
}  # fmt: skip
_FIGURE = re.compile(r"(?P<number>\d+(?:\.(?P<decimals>\d+))?)\s*(?P<percent>%)?")
_SLACK = 1e-9
COARSEST = 0.005  # half a point, to which "0.5" and "1" are taken to be rounded too

REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
CANNOT_BE_TOLD = "cannot be told"


@dataclass(frozen=True)
class Claim:
    """``value`` in 0..1 of a ``metric``, rounded to ``half`` a unit of its last digit either way;
    ``system``: whose, or empty for every one."""

    written: str
    metric: str
    value: float
    half: float
    system: str = ""


@dataclass(frozen=True)
class Verdict:
    """What came of a claim: ``measured`` (None: there is no such figure) with its bounds and n,
    and which other figures of the same predictions round to the claimed one."""

    system: str
    claim: Claim
    verdict: str
    why: str
    measured: float | None
    low: float | None
    high: float | None
    n: int
    others: tuple[str, ...]


def parse_claim(text: str) -> Claim:
    """``name=figure`` or ``system:name=figure``; a figure above 1 or with "%" is in percent.

    Raises:
        ConfigError: no figure, or none of a known convention.

    >>> claim = parse_claim("open recall = 61.5%")
    >>> claim.metric, round(claim.value, 4), round(claim.half, 6)
    ('llava_med/open_recall', 0.615, 0.0005)
    >>> claim = parse_claim("a:exact=0.85")
    >>> claim.system, claim.metric, claim.value, claim.half
    ('a', 'exact/all', 0.85, 0.005)
    """
    where = f"--claim {text}"
    name, _, figure = text.rpartition("=") if "=" in text else text.rpartition(" ")
    found = _FIGURE.fullmatch(figure.strip())
    if not name.strip() or not found:
        fix = "write name=figure, as in exact/all=0.85 or 'open recall=61.5%'"
        raise ConfigError("is not a name and a figure", where=where, fix=fix)
    scale = 100.0 if found["percent"] or float(found["number"]) > 1 else 1.0
    value = float(found["number"]) / scale
    if value > 1:
        raise ConfigError("is more than 100%", where=where, fix="give a share or a percentage")
    half = min(COARSEST, 0.5 * 10.0 ** -len(found["decimals"] or "") / scale)
    system, _, metric = name.rpartition(":")
    return Claim(text, _metric(metric, where), value, half, system.strip())


def _metric(name: str, where: str) -> str:
    """The metric of a name as people write it: in words, or by its end where that is one's own."""
    plain = re.sub(r"[\s-]+", "_", name.strip().lower()).replace("rougel", "rougeL")
    plain = _ALSO.get(plain, plain)
    if plain in NAMES:
        return plain
    stem, _, rest = name.strip().partition("/")
    if rest.split("/")[0] in STRATA and any(known.startswith(f"{stem}/") for known in NAMES):
        return name.strip()
    ends = [known for known in NAMES if known.split("/")[-1] == plain]
    if plain in ("open", "closed"):
        ends = [f"llava_med/{'open_recall' if plain == 'open' else 'closed_accuracy'}"]
    if len(ends) == 1 and plain != "accuracy":
        return ends[0]
    close = difflib.get_close_matches(plain, NAMES, n=1)
    if plain in ("accuracy", "acc", "overall"):
        fix = "by whose rule? exact/all, relaxed/all, vqa_challenge/accuracy or medevalkit/total"
    else:
        meant = f"did you mean {close[0]!r}? " if close else ""
        fix = f"{meant}the figures are {', '.join(NAMES)}"
    raise ConfigError(f"{name.strip()!r} is no figure of a known convention", where=where, fix=fix)


def judge_claim(
    claim: Claim,
    system: str,
    metrics: Mapping[str, float],
    answered: Mapping[str, float],
    margin: float,
) -> Verdict:
    """Whether a system's figures bear a claim out.

    Reproduced: the figure rounds to the claimed one, or its interval lies within ``margin`` of it.
    Not reproduced: the interval leaves the claimed figure out. Else, and where there are too few
    images for an interval, it cannot be told.

    Args:
        metrics: of the system, each with ``/low``, ``/high`` (none of too few images) and ``/n``.
        answered: the same of the records alone that it answered.
    """
    value = metrics.get(claim.metric)
    n = int(metrics.get(f"{claim.metric}/n", 0))
    low, high = (metrics.get(f"{claim.metric}/{end}") for end in ("low", "high"))
    verdict, why = _verdict(claim, value, low, high, margin)
    others = [] if _rounds(value, claim) else _others(claim, metrics, answered)
    return Verdict(system, claim, verdict, why, value, low, high, n, tuple(others))


def _verdict(
    claim: Claim, value: float | None, low: float | None, high: float | None, margin: float
) -> tuple[str, str]:
    if value is None:
        return CANNOT_BE_TOLD, "no record has this figure"
    if low is None or high is None:
        same = "it rounds to the claim, but " if _rounds(value, claim) else ""
        return CANNOT_BE_TOLD, f"{same}fewer than ten independent images: no interval"
    if _rounds(value, claim):
        return REPRODUCED, "it rounds to the claim"
    least, most = claim.value - claim.half - _SLACK, claim.value + claim.half + _SLACK
    if low >= least - margin and high <= most + margin:
        return REPRODUCED, f"its interval lies within {100 * margin:g} points of the claim"
    if high < least or low > most:
        return NOT_REPRODUCED, "its interval leaves the claim out"
    return CANNOT_BE_TOLD, "it differs, but not by more than chance among so few images may do"


def _rounds(value: float | None, claim: Claim) -> bool:
    return value is not None and abs(value - claim.value) <= claim.half + _SLACK


def _others(claim: Claim, metrics: Mapping[str, float], answered: Mapping[str, float]) -> list[str]:
    """Which other figures round to the claim: of other conventions, or of what was answered."""
    names = (*NAMES, "judge/all", "judge/open", "judge/closed")
    found = [name for name in names if name != claim.metric and _rounds(metrics.get(name), claim)]
    if answered.get(claim.metric) != metrics.get(claim.metric):
        found += [f"{n} (answered only)" for n in NAMES if _rounds(answered.get(n), claim)]
    return found
