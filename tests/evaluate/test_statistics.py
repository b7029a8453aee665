"""The bootstrap interval against a plain loop, scipy, and its own promise."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kit.evaluate.statistics import bootstrap_interval


def by_a_plain_loop(values, groups, *, confidence=0.95, n_resamples=20_000, seed=1):
    """Draw as many groups as there are, with replacement; the mean over all their values."""
    dice = random.Random(seed)
    members = {}
    for value, group in zip(values, groups, strict=True):
        members.setdefault(group, []).append(value)
    names = list(members)
    means = []
    for _ in range(n_resamples):
        drawn = [v for name in dice.choices(names, k=len(names)) for v in members[name]]
        means.append(sum(drawn) / len(drawn))
    return tuple(np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2]))


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_groups_of_uneven_size_against_a_plain_loop(confidence):
    dice = np.random.default_rng(5)
    groups = [f"image{n}" for n in range(25) for _ in range(1 + n % 6)]
    levels = {group: dice.normal() for group in set(groups)}
    values = [levels[group] + 0.3 * dice.normal() for group in groups]
    ours = bootstrap_interval(values, groups, confidence=confidence, n_resamples=20_000)
    plain = by_a_plain_loop(values, groups, confidence=confidence)
    assert ours == pytest.approx(plain, abs=0.02)
    one_by_one = bootstrap_interval(values, range(len(values)), confidence=confidence)
    assert ours[1] - ours[0] > 1.3 * (one_by_one[1] - one_by_one[0])


@pytest.mark.parametrize("kind", ["zeros and ones", "skewed"])
def test_single_members_against_scipy(kind):
    dice = np.random.default_rng(7)
    values = dice.integers(0, 2, 120) if kind == "zeros and ones" else dice.exponential(size=120)
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(3)
    ).confidence_interval
    ours = bootstrap_interval(list(values), range(120), n_resamples=20_000)
    assert ours == pytest.approx(tuple(theirs), abs=0.01)


@given(
    pairs=st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abcdefg")), min_size=1, max_size=30),
    seed=st.integers(0, 9),
)
def test_bounds_lie_among_the_means_of_groups(pairs, seed):
    values, groups = zip(*pairs, strict=True)
    low, high = bootstrap_interval(values, groups, n_resamples=200, seed=seed)
    means = [np.mean([v for v, g in pairs if g == group]) for group in set(groups)]
    assert min(means) - 1e-9 <= low <= high <= max(means) + 1e-9
    assert (low, high) == bootstrap_interval(values, groups, n_resamples=200, seed=seed)
    shuffled = pairs[::-1]
    again = bootstrap_interval(*zip(*shuffled, strict=True), n_resamples=200, seed=seed)
    assert again == pytest.approx((low, high))


def test_asking_the_same_of_an_image_thrice_adds_no_certainty():
    dice = np.random.default_rng(0)
    values = list(dice.integers(0, 2, 40).astype(float))
    once = bootstrap_interval(values, range(40))
    thrice = bootstrap_interval(values * 3, list(range(40)) * 3)
    assert thrice == pytest.approx(once)


def test_interval_holds_the_truth_as_often_as_it_says():
    """Over many data sets of 60 images of 1 to 6 questions that share their image's level: about
    95 in 100 with images drawn, far fewer with questions drawn."""
    dice = np.random.default_rng(11)
    trials, hits = 300, {"images": 0, "questions": 0}
    for trial in range(trials):
        groups = np.repeat(np.arange(60), dice.integers(1, 7, 60))
        values = dice.normal(size=60)[groups] + 0.3 * dice.normal(size=len(groups))
        for name, drawn in (("images", groups), ("questions", np.arange(len(groups)))):
            low, high = bootstrap_interval(values, drawn, n_resamples=400, seed=trial)
            hits[name] += low <= 0 <= high
    assert 0.90 <= hits["images"] / trials <= 0.98
    assert hits["questions"] / trials < 0.8


def test_one_group_knows_nothing_of_others():
    assert bootstrap_interval([0.0, 1.0, 1.0], ["a", "a", "a"]) == pytest.approx((2 / 3, 2 / 3))
