"""Which answers may be given, so that at most a chosen share of them is bad: the statistics.

An answer is given if its score, known without the gold answer, reaches a threshold that a
calibration split has set. What is promised, at a confidence of ``1 - delta``:

- of a population (``batch`` None): the share of bad answers among all that will ever be given is
  at most ``alpha``;
- of a batch: so is the share among those given of the next images, ``batch`` times as many as the
  calibration split has. This asks for more, since the batch has its own luck.

Both are for whoever asks about images as those of the calibration split: the images are what is
exchangeable, not the questions, and near-duplicate slices count as one image
(``kit.report.statistics.cluster_of``).

How: at :data:`LEVELS` shares of the calibration answers, by falling score, the bad ones are
counted (learn then test: Angelopoulos et al. 2021, arXiv 2110.01052). The p-value of a count is
exact for answers of different images: binomial for a population (Geifman and El-Yaniv 2017, arXiv
1705.08500), and for a batch that of a Polya urn, as in transductive conformal inference (Gazin,
Blanchard and Roquain 2024, arXiv 2310.18108). Answers of one image are taken to be all alike, the
worst that they can be as long as large images are no worse than others: n answers then say as
much as Kish's (sum g)^2 / sum g^2 images of one answer, g being the answers of each. The levels are
nested, so that trying all of them costs less than Bonferroni's factor: what it costs is the chance
that a walk whose share is ``alpha`` throughout passes at any of them (:func:`passing_probability`).

Conformal risk control (Angelopoulos et al. 2022, arXiv 2208.02814) and conformal selection (Jin and
Candes 2023, arXiv 2210.01408) bound the *expected* share: they would let it be exceeded every
other time.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

LEVELS = 10
MOST = 100_000  # answers: where the search for the fewest ends
SPREAD = (-1.0, -0.5, 0.0, 0.5, 1.0)  # standard deviations of how many answers a batch gives
STEPS = 40  # between the level of one test and Bonferroni's
ROUNDING = 1e-9  # of a share of a count


@dataclass(frozen=True)
class Rule:
    """From which score on answers are given; None: no answer may be, and ``why``."""

    threshold: float | None
    why: str = ""


@dataclass(frozen=True)
class Counts:
    """Of some answers: ``asked``, and of these the ``candidates`` (with a score), those ``given``
    and the ``bad`` ones among them; over how many images (clusters) they are, and how many have
    an answer that is given; ``effective``: how many answers of different images those given are
    worth."""

    asked: int
    candidates: int
    given: int
    bad: int
    images: int
    images_given: int
    effective: float

    @property
    def coverage(self) -> float:
        """The share of answers that are given."""
        return self.given / self.asked if self.asked else 0.0

    @property
    def risk(self) -> float | None:
        """The share of bad answers among those given."""
        return self.bad / self.given if self.given else None

    def to_json(self) -> dict:
        """As plain JSON values."""
        return asdict(self) | {"coverage": self.coverage, "risk": self.risk}


def certify(
    scores: ArrayLike,
    bad: ArrayLike,
    clusters: ArrayLike,
    *,
    alpha: float,
    delta: float,
    batch: float | None,
) -> Rule:
    """The loosest threshold of the calibration answers that holds.

    Args:
        scores: of each answer, higher for better; NaN of one that is never given.
        bad: 0 or 1 of each.
        clusters: the image of each.
        batch: as many times the images of this split as the promise is for; None: a population.

    >>> found = certify([0.9] * 60, [0] * 60, range(60), alpha=0.1, delta=0.05, batch=None)
    >>> found.threshold
    0.9
    >>> certify([0.9] * 20, [0] * 20, range(20), alpha=0.1, delta=0.05, batch=None).why
    'the 20 calibration answers that could be given are worth 20 of different images; 29 are needed'
    """
    scores, bad = np.asarray(scores, dtype=np.float64), np.asarray(bad, dtype=np.float64)
    number = np.unique(clusters, return_inverse=True)[1]
    there = ~np.isnan(scores)
    order = np.flatnonzero(there)[np.argsort(-scores[there], kind="stable")]
    if not len(order):
        return Rule(None, "no calibration answer could be given")
    thresholds = _thresholds(scores[order])
    sizes, counts = [], []
    for threshold in thresholds:
        part = order[scores[order] >= threshold]
        sizes.append(effective_size(number[part]))
        counts.append(bad[part].mean() * sizes[-1])
    own = tuple(np.floor(np.maximum.accumulate(sizes) + ROUNDING).astype(int))
    level = corrected_level(own, alpha, delta)
    values = p_values(counts, sizes, alpha, batch)
    holding = np.flatnonzero(values <= level)
    if len(holding):
        return Rule(float(thresholds[holding[-1]]))
    n, best = len(order), max(sizes)
    if (p_values(np.zeros(len(sizes)), sizes, alpha, batch) > level).all():
        why = f"the {n} calibration answers that could be given are worth {best:.0f} of different "
        return Rule(None, why + f"images; {fewest_answers(alpha, level, batch)} are needed")
    why = f"too many of the {n} calibration answers that could be given are bad, the surest too"
    return Rule(None, f"{why} (of all {bad[order].mean():.1%})")


def count(rule: Rule, scores: ArrayLike, bad: ArrayLike, clusters: ArrayLike) -> Counts:
    """What a rule gives of some answers, as for :func:`certify`.

    >>> count(Rule(0.5), [0.4, 0.6, float("nan")], [0, 1, 1], [1, 1, 2]).coverage.__round__(2)
    0.33
    """
    scores, bad = np.asarray(scores, dtype=np.float64), np.asarray(bad, dtype=np.float64)
    number = np.unique(clusters, return_inverse=True)[1]
    given = np.zeros(len(scores), dtype=bool)
    if rule.threshold is not None:
        given = scores >= rule.threshold  # NaN is not
    return Counts(
        asked=len(scores),
        candidates=int((~np.isnan(scores)).sum()),
        given=int(given.sum()),
        bad=int(bad[given].sum()),
        images=len(set(number)),
        images_given=len(set(number[given])),
        effective=effective_size(number[given]),
    )


def upper_bound(counts: Counts, delta: float) -> float | None:
    """The highest share of bad answers, in the population, that what was counted leaves open at a
    confidence of ``1 - delta`` (Clopper and Pearson, of the effective size); None of no answer.

    >>> round(upper_bound(Counts(29, 29, 29, 0, 29, 29, 29.0), 0.05), 3)
    0.098
    """
    if not counts.given:
        return None
    bad = counts.risk * counts.effective
    if counts.effective - bad < ROUNDING:
        return 1.0
    return float(special.betaincinv(bad + 1, counts.effective - bad, 1 - delta))


def effective_size(number: np.ndarray) -> float:
    """Kish's: as many answers of different images say as much, if those of one are all alike.

    >>> [effective_size(np.array(images, int)) for images in ([0, 1, 2], [0, 0, 0], [])]
    [3.0, 1.0, 0.0]
    """
    if not len(number):
        return 0.0
    of_image = np.bincount(number).astype(np.float64)
    return float(len(number) ** 2 / (of_image @ of_image))


def p_values(counts: ArrayLike, sizes: ArrayLike, alpha: float, batch: float | None) -> np.ndarray:
    """How likely so few bad answers, ``counts`` of ``sizes`` (either may be fractions), are at most
    beside a share above ``alpha``: in the population, or of the answers given of a batch.

    How many a batch gives is not known; the mean is over :data:`SPREAD`.

    >>> p_values([0], [29], 0.1, None).round(4).tolist()
    [0.0471]
    """
    counts, sizes = np.asarray(counts, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    right = np.maximum(sizes - counts, ROUNDING)
    if batch is None:
        return special.betainc(right, counts + 1, 1 - alpha)
    expected, spread = sizes * batch, np.sqrt(sizes * batch)
    numbers = [np.maximum(np.round(expected + part * spread), 1.0) for part in SPREAD]
    return np.mean([_polya_tail(n, counts + 1, right, alpha) for n in numbers], axis=0)


def _polya_tail(n: np.ndarray, bad: np.ndarray, good: np.ndarray, alpha: float) -> np.ndarray:
    """That more than ``alpha n`` of ``n`` draws are bad, from an urn of ``bad`` and ``good`` balls
    to which each draw adds one more of its kind."""
    allowed = np.floor(alpha * n + ROUNDING)
    k = np.arange(allowed.max() + 1)[:, None]
    inside = np.minimum(k, n)
    log_chance = (
        special.betaln(inside + bad, n - inside + good)
        - special.betaln(bad, good)
        - special.betaln(inside + 1, n - inside + 1)
        - np.log(n + 1)
    )
    return np.maximum(1 - np.where(k <= allowed, np.exp(log_chance), 0.0).sum(axis=0), 0.0)


@functools.lru_cache(maxsize=4096)
def corrected_level(sizes: tuple[int, ...], alpha: float, delta: float) -> float:
    """The p-value that counts as ``delta`` where nested ``sizes``, from few to many, are tried.

    >>> 0.02 < corrected_level((30, 60, 90, 120), 0.1, 0.05) < 0.05
    True
    """
    falling = np.geomspace(delta, delta / len(sizes), STEPS)  # Bonferroni's always holds
    steps = _steps(sizes, alpha)

    chances = [np.cumsum(_binomial(size, alpha)) for size in sizes]  # p-values in a population

    def holds(level: float) -> bool:
        limits = [int(np.searchsorted(own, level, side="right")) - 1 for own in chances]
        return _passing(steps, limits) <= delta

    return float(falling[bisect.bisect_left(falling[:-1], True, key=holds)])


def passing_probability(sizes: Sequence[int], limits: Sequence[int], share: float) -> float:
    """That at any of nested ``sizes`` at most its limit is bad (-1: never), where each is bad with
    a chance of ``share``.

    >>> passing_probability([1, 2], [0, 0], 0.25)
    0.75
    >>> round(passing_probability([1, 2], [-1, 0], 0.5), 6)
    0.25
    """
    return _passing(_steps(sizes, share), limits)


def _steps(sizes: Sequence[int], share: float) -> list[np.ndarray]:
    """How likely each number of bad answers is among those that each size adds."""
    return [_binomial(n, share) for n in np.diff([0, *sizes])]


def _binomial(n: int, share: float) -> np.ndarray:
    """How likely 0 to n are."""
    k = np.arange(n + 1)
    ways = -special.betaln(k + 1, n - k + 1) - np.log(n + 1)
    return np.exp(ways + k * np.log(share) + (n - k) * np.log1p(-share))


def _passing(steps: Sequence[np.ndarray], limits: Sequence[int]) -> float:
    going, passed = np.ones(1), 0.0
    for step, limit in zip(steps, limits, strict=True):
        going = np.convolve(going, step)
        passed += going[: limit + 1].sum()
        going[: limit + 1] = 0.0
    return float(passed)


def fewest_answers(alpha: float, level: float, batch: float | None = None) -> int:
    """How many answers of different images, none of them bad, have a p-value of at most ``level``.

    >>> fewest_answers(0.1, 0.05), fewest_answers(0.05, 0.05)
    (29, 59)
    """
    return bisect.bisect_left(
        range(MOST), True, key=lambda n: n > 0 and p_values([0], [n], alpha, batch)[0] <= level
    )


def _thresholds(falling: np.ndarray) -> np.ndarray:
    """The scores at which levels end, from strict to loose, each once."""
    ends = np.ceil(np.arange(1, LEVELS + 1) / LEVELS * len(falling) - ROUNDING).astype(int)
    return np.unique(falling[ends - 1])[::-1]
