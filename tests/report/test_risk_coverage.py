"""Risk-coverage curves and calibration against naive definitions, scikit-learn and torchmetrics."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.calibration import calibration_curve
from statsmodels.stats.proportion import proportion_confint
from torchmetrics.classification import BinaryCalibrationError

from kit.report.risk_coverage import (
    BINS,
    THRESHOLDS,
    Resampled,
    at_threshold,
    aurc,
    calibration_error,
    calibration_noise,
    excess_aurc,
    oracle_aurc,
    reliability,
    risk_coverage_curve,
)
from kit.report.statistics import statistic_interval

SEEDS = st.integers(0, 2**32 - 1)
DEGREES = st.sampled_from([0.0, 1.0]) | st.floats(0, 1)  # right, wrong, or right to a degree
LEVELS = st.integers(0, 4).map(lambda level: level / 4)  # few, so that many confidences are equal


def records(confidences, *, min_size=1, max_size=30, distinct=False):
    return st.lists(
        st.tuples(confidences, DEGREES),
        min_size=min_size,
        max_size=max_size,
        unique_by=(lambda record: record[0]) if distinct else None,
    )


def sides(pairs):
    confidence, correct = zip(*pairs, strict=True)
    return list(confidence), list(correct)


def naive_risks(pairs):
    """For each i, the mean error of the i most confident; equals stay in the order given."""
    ranked = sorted(pairs, key=lambda record: -record[0])
    return [sum(1 - right for _, right in ranked[:i]) / i for i in range(1, len(ranked) + 1)]


def naive_aurc(pairs):
    risks = naive_risks(pairs)
    return sum(risks) / len(risks)


def by_dice(seed, n, levels=None):
    """Confidences in 0..1, all distinct or at so many levels, and rights and wrongs that follow
    them."""
    rng = np.random.default_rng(seed)
    confidence = rng.permutation(n * 10)[:n] / (n * 10 - 1)
    if levels:
        confidence = rng.integers(0, levels, n) / levels
    return rng, confidence, (rng.random(n) < confidence).astype(float)


# The area under the curve


@given(pairs=records(st.floats(0, 1), distinct=True))
@settings(max_examples=80, deadline=None)
def test_distinct_confidences_against_the_naive_definition(pairs):
    curve = risk_coverage_curve(*sides(pairs))
    n = len(pairs)
    assert curve.coverage == pytest.approx([i / n for i in range(1, n + 1)])
    assert curve.risk == pytest.approx(naive_risks(pairs), abs=1e-12)
    assert aurc(*sides(pairs)) == pytest.approx(naive_aurc(pairs), abs=1e-12)


@given(pairs=records(LEVELS, max_size=5))
@settings(max_examples=40, deadline=None)
def test_equal_confidences_against_the_mean_over_all_orders(pairs):
    orders = [naive_risks(order) for order in itertools.permutations(pairs)]
    curve = risk_coverage_curve(*sides(pairs))
    assert curve.risk == pytest.approx(np.mean(orders, axis=0), abs=1e-12)
    assert aurc(*sides(pairs)) == pytest.approx(np.mean(orders), abs=1e-12)


@given(pairs=records(LEVELS | st.floats(0, 1)))
@settings(max_examples=80, deadline=None)
def test_areas_lie_between_the_oracle_and_one(pairs):
    confidence, correct = sides(pairs)
    assert 0 <= oracle_aurc(correct) <= aurc(confidence, correct) + 1e-12 <= 1 + 2e-12
    assert aurc(confidence, correct) <= aurc([-right for right in correct], correct) + 1e-12
    assert excess_aurc(confidence, correct) == pytest.approx(
        aurc(confidence, correct) - naive_aurc([(right, right) for right in correct]), abs=1e-12
    )
    ends = risk_coverage_curve(confidence, correct)
    assert ends.coverage[-1] == 1
    assert ends.risk[-1] == pytest.approx(1 - np.mean(correct), abs=1e-12)


@given(correct=st.lists(DEGREES, min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_oracle_is_the_best_of_all_orders(correct):
    orders = [naive_aurc(list(enumerate(order))) for order in itertools.permutations(correct)]
    assert oracle_aurc(correct) == pytest.approx(min(orders), abs=1e-12)


@given(n=st.integers(1, 300), share=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_oracle_of_rights_and_wrongs_in_closed_form(n, share):
    wrong = round(share * n)
    correct = [0.0] * wrong + [1.0] * (n - wrong)
    exact = sum(Fraction(k, n - wrong + k) for k in range(1, wrong + 1)) / n
    assert oracle_aurc(correct) == pytest.approx(float(exact), abs=1e-12)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.9])
def test_oracle_of_many_answers_is_near_its_limit(rate):
    n = 20_000
    correct = np.arange(n) >= rate * n
    limit = rate + (1 - rate) * math.log(1 - rate)
    assert oracle_aurc(correct.astype(float)) == pytest.approx(limit, abs=1e-4)


@given(correct=st.lists(DEGREES, min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_areas_whose_value_is_known(correct):
    n = len(correct)
    rising = np.linspace(0.1, 0.9, n)
    assert excess_aurc(correct, correct) == 0
    assert excess_aurc(stats.rankdata(correct, method="ordinal"), correct) == pytest.approx(
        0, abs=1e-12
    )
    assert aurc([0.5] * n, correct) == pytest.approx(1 - np.mean(correct), abs=1e-12)
    assert aurc(rising, [1.0] * n) == excess_aurc(rising, [1.0] * n) == 0
    assert aurc(rising, [0.0] * n) == pytest.approx(1)
    assert excess_aurc(rising, [0.0] * n) == pytest.approx(0)


def test_areas_of_four_answers_by_hand():
    """The most confident is wrong: risks of 1, 1/2, 1/3, 1/2; an oracle has 0, 0, 1/3, 1/2."""
    confidence, correct = [0.9, 0.8, 0.7, 0.1], [0, 1, 1, 0]
    curve = risk_coverage_curve(confidence, correct)
    assert curve.risk.tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 2])
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert aurc(confidence, correct) == pytest.approx(7 / 12)
    assert oracle_aurc(correct) == pytest.approx(5 / 24)
    assert excess_aurc(confidence, correct) == pytest.approx(9 / 24)


@given(levels=st.lists(st.integers(1, 40), min_size=1, max_size=30), seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_areas_know_the_order_of_confidences_only(levels, seed):
    correct = np.random.default_rng(seed).random(len(levels)).round(1)
    confidence = np.array(levels) / 40
    alike = [np.exp(9 * confidence), confidence**3, np.log(confidence), 7 * confidence - 2]
    for other in [*alike, stats.rankdata(confidence, method="dense")]:
        assert aurc(other, correct) == aurc(confidence, correct)
        assert excess_aurc(other, correct) == excess_aurc(confidence, correct)


# Many resamples at once


@given(pairs=records(LEVELS | st.floats(0, 1)), seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_resampled_areas_against_repeated_records(pairs, seed):
    confidence, correct = sides(pairs)
    drawn = draws_of(pairs, seed)
    again = Resampled(confidence, correct)
    repeated = [(np.repeat(confidence, row), np.repeat(correct, row)) for row in drawn]
    assert again.aurc(drawn) == pytest.approx([aurc(*r) for r in repeated], abs=1e-10)
    excess = [excess_aurc(*r) for r in repeated]
    assert again.excess_aurc(drawn) == pytest.approx(excess, abs=1e-10)


def draws_of(pairs, seed):
    """Each record once; a single record; and rows of various sums with many zeros."""
    rng, n = np.random.default_rng(seed), len(pairs)
    drawn = rng.integers(0, 5, (7, n)) * rng.integers(0, 2, (7, n))
    drawn[:, rng.integers(n)] += 1
    drawn[0] = 1
    drawn[1] = np.arange(n) == rng.integers(n)
    return drawn


@given(pairs=records(LEVELS, max_size=3), seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_resampled_areas_against_all_orders_of_repeated_records(pairs, seed):
    drawn = np.random.default_rng(seed).integers(0, 3, (3, len(pairs)))
    drawn[:, 0] += drawn.sum(axis=1) == 0
    found = Resampled(*sides(pairs)).aurc(drawn)
    for row, area in zip(drawn, found, strict=True):
        repeated = [pair for pair, times in zip(pairs, row, strict=True) for _ in range(times)]
        orders = [naive_aurc(order) for order in itertools.permutations(repeated)]
        assert area == pytest.approx(np.mean(orders), abs=1e-12)


@given(pairs=records(LEVELS | st.floats(0, 1), max_size=60), seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_resampled_calibration_error_against_repeated_records_of_the_same_bins(pairs, seed):
    confidence, correct = map(np.array, sides(pairs))
    drawn = draws_of(pairs, seed)
    found = Resampled(confidence, correct).calibration_error(drawn)
    assert found[0] == pytest.approx(calibration_error(confidence, correct), abs=1e-12)
    ends = np.cumsum([b.n for b in reliability(confidence, correct)])
    bins = np.split(np.argsort(confidence, kind="stable"), ends[:-1])
    for row, error in zip(drawn, found, strict=True):
        apart = 0.0
        for part in bins:
            members = np.repeat(part, row[part])
            if len(members):
                off = abs(correct[members].mean() - confidence[members].mean())
                apart += len(members) / row.sum() * off
        assert error == pytest.approx(apart, abs=1e-12)


def test_jackknife_of_an_area_against_a_plain_loop():
    """Images of uneven size, with many equal confidences."""
    _, confidence, correct = by_dice(21, 45, levels=8)
    images = np.sort(np.random.default_rng(3).integers(0, 15, 45))
    again = Resampled(confidence, correct)
    for counted, area in ((again.aurc, aurc), (again.excess_aurc, excess_aurc)):
        names = np.unique(images)
        plain = [area(confidence[images != n], correct[images != n]) for n in names]
        error = np.sqrt((len(names) - 1) * np.var(plain))
        value = area(confidence, correct)
        size, t = value * (1 - value) / error**2, stats.t.ppf(0.975, len(names) - 1)
        wilson = proportion_confint(value * size, size, alpha=2 * stats.norm.sf(t), method="wilson")
        assert statistic_interval(value, counted, images) == pytest.approx(wilson)


@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_noise_of_calibration_is_what_a_calibrated_model_shows_on_average(seed):
    """Against answers that are drawn anew by the confidences themselves, one an image."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.1, 0.9, 200)
    errors, noises = [], []
    for _ in range(60):
        correct = (rng.random(200) < confidence).astype(float)
        errors.append(calibration_error(confidence, correct))
        noises.append(calibration_noise(confidence, correct, range(200)))
    assert np.mean(noises) == pytest.approx(np.mean(errors), rel=0.15)


# Answering only above a threshold


@given(
    pairs=records(st.integers(0, 10).map(lambda tenth: tenth / 10)),
    threshold=st.sampled_from(THRESHOLDS) | st.floats(0, 1.2),
)
@settings(max_examples=80, deadline=None)
def test_at_threshold_against_a_plain_loop(pairs, threshold):
    kept = [right for confidence, right in pairs if confidence >= threshold]
    coverage, accuracy = at_threshold(*sides(pairs), threshold)
    assert coverage == pytest.approx(len(kept) / len(pairs))
    if kept:
        assert accuracy == pytest.approx(sum(kept) / len(kept), abs=1e-12)
    else:
        assert accuracy is None


def test_at_threshold_keeps_what_is_just_as_sure():
    assert at_threshold([0.3, 0.6, 0.9], [0, 1, 1], 0.6) == (pytest.approx(2 / 3), 1.0)
    assert at_threshold([0.3, 0.6, 0.9], [0, 1, 1], 0.0) == (1.0, pytest.approx(2 / 3))
    assert at_threshold([0.3, 0.6, 0.9], [0, 1, 1], 0.91) == (0.0, None)


# Calibration


@given(n_bins=st.integers(1, 12), size=st.integers(1, 9), seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_bins_of_distinct_confidences_against_scikit_learn(n_bins, size, seed):
    _, confidence, correct = by_dice(seed, n_bins * size)
    accuracy, mean = calibration_curve(correct, confidence, n_bins=n_bins, strategy="quantile")
    ours = reliability(confidence, correct, n_bins)
    assert [b.n for b in ours] == [size] * n_bins
    assert [b.confidence for b in ours] == pytest.approx(mean, abs=1e-12)
    assert [b.accuracy for b in ours] == pytest.approx(accuracy, abs=1e-12)
    by_hand = np.mean(np.abs(accuracy - mean))  # bins of one size weigh the same
    assert calibration_error(confidence, correct, n_bins) == pytest.approx(by_hand, abs=1e-12)


@given(pairs=records(st.floats(0, 1), max_size=60, distinct=True), n_bins=st.integers(1, 15))
@settings(max_examples=40, deadline=None)
def test_bins_of_distinct_confidences_have_one_size_give_or_take_one(pairs, n_bins):
    ours = reliability(*sides(pairs), n_bins)
    assert len(ours) == min(n_bins, len(pairs))
    assert {b.n for b in ours} <= {len(pairs) // len(ours), -(-len(pairs) // len(ours))}
    assert_bins_are_runs_of_records(ours, pairs)


@given(pairs=records(LEVELS | st.floats(0, 1), max_size=60), n_bins=st.integers(1, 15))
@settings(max_examples=40, deadline=None)
def test_bins_part_no_equal_confidences(pairs, n_bins):
    confidence, correct = sides(pairs)
    ours = reliability(confidence, correct, n_bins)
    assert 1 <= len(ours) <= n_bins
    assert_bins_are_runs_of_records(ours, pairs)
    ranked = sorted(confidence)
    for end in itertools.accumulate(b.n for b in ours[:-1]):
        assert ranked[end - 1] < ranked[end]
    # Only its last level makes a bin larger than its share.
    for b, end in zip(ours, itertools.accumulate(b.n for b in ours), strict=True):
        assert b.n - ranked.count(ranked[end - 1]) < -(-len(pairs) // n_bins)


def assert_bins_are_runs_of_records(bins, pairs):
    """Each record is in one bin, and bins follow each other from the least confident on."""
    assert sum(b.n for b in bins) == len(pairs)
    ranked, start = np.array(sorted(pairs)), 0
    for b in bins:
        part = ranked[start : start + b.n]
        assert (b.confidence, b.accuracy) == pytest.approx(tuple(part.mean(axis=0)), abs=1e-12)
        start += b.n


@given(pairs=records(LEVELS | st.floats(0, 1), max_size=60), n_bins=st.integers(1, 15))
@settings(max_examples=40, deadline=None)
def test_calibration_error_is_the_mean_distance_of_the_bins(pairs, n_bins):
    confidence, correct = sides(pairs)
    by_record = [
        abs(b.accuracy - b.confidence)
        for b in reliability(confidence, correct, n_bins)
        for _ in range(b.n)
    ]
    error = calibration_error(confidence, correct, n_bins)
    assert error == pytest.approx(sum(by_record) / len(pairs), abs=1e-12)
    assert 0 <= error <= 1


@given(size=st.integers(1, 20), seed=SEEDS, follows=st.booleans())
@settings(max_examples=40, deadline=None)
def test_calibration_error_of_evenly_spread_confidences_against_torchmetrics(size, seed, follows):
    """As many in each tenth of 0..1, so that bins of equal width are those of equal mass."""
    rng, n = np.random.default_rng(seed), BINS * size
    confidence = rng.permutation((np.arange(n) + rng.uniform(0.05, 0.95, n)) / n)
    correct = rng.random(n) < (confidence if follows else rng.random())
    theirs = BinaryCalibrationError(n_bins=BINS, norm="l1")(
        torch.from_numpy(confidence), torch.from_numpy(correct.astype(np.int64))
    )
    ours = calibration_error(confidence, correct.astype(float))
    assert ours == pytest.approx(theirs.item(), abs=1e-9)


@given(counts=st.lists(st.integers(0, 10), min_size=1, max_size=12), n_bins=st.integers(1, 15))
@settings(max_examples=40, deadline=None)
def test_a_confidence_that_comes_true_as_often_as_it_says_has_no_error(counts, n_bins):
    """Ten answers of confidence k / 10 of which k are right."""
    confidence = np.repeat(counts, 10) / 10
    correct = [float(turn < k) for k in counts for turn in range(10)]
    assert calibration_error(confidence, correct, n_bins) == pytest.approx(0, abs=1e-12)
    once = np.ones((1, len(correct)), dtype=np.int64)
    assert Resampled(confidence, correct).calibration_error(once) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("confidence", "correct", "error"),
    [
        ([1.0] * 7, [0.0] * 7, 1.0),
        ([1.0] * 7, [1.0] * 7, 0.0),
        ([0.0] * 7, [1.0] * 7, 1.0),
        ([0.5] * 8, [1.0, 0.0] * 4, 0.0),
        ([0.8] * 5, [1.0] * 5, 0.2),
        ([0.25] * 4 + [0.75] * 4, [0, 0, 0, 0, 1, 1, 1, 0], 0.125),
    ],
)
def test_calibration_error_whose_value_is_known(confidence, correct, error):
    assert calibration_error(confidence, correct) == pytest.approx(error, abs=1e-12)


def test_equal_confidences_make_one_bin():
    (only,) = reliability([0.7] * 25, [1.0] * 20 + [0.0] * 5)
    assert (only.n, only.confidence, only.accuracy) == pytest.approx((25, 0.7, 0.8))


def test_equal_confidences_on_a_border_go_to_the_less_confident_bin():
    found = reliability([0.9, 0.5, 0.1, 0.5], [1, 1, 0, 0], 2)
    assert [b.n for b in found] == [3, 1]
    assert [b.confidence for b in found] == pytest.approx([1.1 / 3, 0.9])
    assert [b.accuracy for b in found] == pytest.approx([1 / 3, 1])


# All of them


@given(pairs=records(LEVELS | st.floats(0, 1), max_size=40), seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_the_order_of_records_changes_nothing(pairs, seed):
    order = np.random.default_rng(seed).permutation(len(pairs))
    confidence, correct = map(np.array, sides(pairs))
    drawn = draws_of(pairs, seed)

    def everything(confidence, correct, drawn):
        again = Resampled(confidence, correct)
        coverage, accuracy = at_threshold(confidence, correct, 0.5)
        bins = reliability(confidence, correct)
        return np.concatenate(
            [
                risk_coverage_curve(confidence, correct).risk,
                [aurc(confidence, correct), oracle_aurc(correct), excess_aurc(confidence, correct)],
                [calibration_error(confidence, correct)],
                [coverage, -1 if accuracy is None else accuracy],
                *([b.n, b.confidence, b.accuracy] for b in bins),
                again.aurc(drawn),
                again.excess_aurc(drawn),
                again.calibration_error(drawn),
            ]
        )

    shuffled = everything(confidence[order], correct[order], drawn[:, order])
    assert shuffled == pytest.approx(everything(confidence, correct, drawn), abs=1e-10)
