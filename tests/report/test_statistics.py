"""The bootstrap and McNemar's test against plain loops, scipy, statsmodels, and their promises."""

import itertools
import random
from statistics import fmean, pstdev

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats import contingency_tables

from kit.report.statistics import (
    Difference,
    bootstrap_interval,
    bootstrap_statistic,
    mcnemar,
    paired_difference,
)

SEEDS = st.integers(0, 2**32 - 1)


def few(max_examples):
    """So many seeds; none smaller is looked for when one fails, as it would be no simpler."""
    phases = [Phase.explicit, Phase.reuse, Phase.generate]
    return settings(max_examples=max_examples, deadline=None, phases=phases)


def by_a_plain_loop(
    values, groups, *, statistic=fmean, confidence=0.95, n_resamples=20_000, seed=1
):
    """Draw as many groups as there are, with replacement; the statistic of all their values."""
    rng = random.Random(seed)
    members = {}
    for value, group in zip(values, groups, strict=True):
        members.setdefault(group, []).append(value)
    names = list(members)
    found = []
    for _ in range(n_resamples):
        drawn = [v for name in rng.choices(names, k=len(names)) for v in members[name]]
        found.append(statistic(drawn))
    return tuple(np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2]))


def near(bounds, share=0.1):
    """The bounds, give or take a share of their distance: what the rng of two bootstraps make."""
    low, high = bounds
    return pytest.approx((low, high), abs=share * (high - low))


def two_models(rng, groups):
    """Values of two models that have most in common: the level of an image and of a question;
    the second has more in some images, less in others."""
    groups = np.asarray(groups)
    n_groups = groups.max() + 1
    a = 2 * rng.normal(size=n_groups)[groups] + rng.normal(size=len(groups))
    apart = 0.5 * rng.normal(size=n_groups)[groups] + 0.3 * rng.normal(size=len(groups))
    return a, a + apart


def spread_of(values):
    """The standard deviation over the records of a resample, by how often each was drawn."""
    values = np.asarray(values, dtype=np.float64)

    def spread(drawn):
        n = drawn.sum(axis=1)
        mean = (drawn @ values) / n
        return np.sqrt((drawn * (values - mean[:, None]) ** 2).sum(axis=1) / n)

    return spread


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_groups_of_uneven_size_against_a_plain_loop(confidence):
    rng = np.random.default_rng(5)
    groups = [f"image{n}" for n in range(25) for _ in range(1 + n % 6)]
    levels = {group: rng.normal() for group in set(groups)}
    values = [levels[group] + 0.3 * rng.normal() for group in groups]
    ours = bootstrap_interval(values, groups, confidence=confidence, n_resamples=20_000)
    plain = by_a_plain_loop(values, groups, confidence=confidence)
    assert ours == pytest.approx(plain, abs=0.02)
    one_by_one = bootstrap_interval(values, range(len(values)), confidence=confidence)
    assert ours[1] - ours[0] > 1.3 * (one_by_one[1] - one_by_one[0])


@pytest.mark.parametrize("kind", ["zeros and ones", "skewed"])
def test_single_members_against_scipy(kind):
    rng = np.random.default_rng(7)
    values = rng.integers(0, 2, 120) if kind == "zeros and ones" else rng.exponential(size=120)
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
    rng = np.random.default_rng(0)
    values = list(rng.integers(0, 2, 40).astype(float))
    once = bootstrap_interval(values, range(40))
    thrice = bootstrap_interval(values * 3, list(range(40)) * 3)
    assert thrice == pytest.approx(once)


@pytest.mark.parametrize(("n_images", "least"), [(12, 0.87), (20, 0.89), (60, 0.91)])
def test_interval_holds_the_truth_about_as_often_as_it_says(n_images, least):
    """Over many data sets of images of 1 to 6 questions that share their image's level: at 60
    images in about 95 of 100, at few somewhat less often (percentiles of few groups are narrow),
    far less often with questions drawn instead of images."""
    rng = np.random.default_rng(11)
    hits = {"images": [], "questions": []}
    for trial in range(500):
        groups = np.repeat(np.arange(n_images), rng.integers(1, 7, n_images))
        values = rng.normal(size=n_images)[groups] + 0.3 * rng.normal(size=len(groups))
        for name, drawn in (("images", groups), ("questions", np.arange(len(groups)))):
            if name == "images" or trial < 100:
                low, high = bootstrap_interval(values, drawn, n_resamples=300, seed=trial)
                hits[name].append(low <= 0 <= high)
    assert least <= np.mean(hits["images"]) <= 0.98
    assert np.mean(hits["questions"]) < 0.8


@given(
    pairs=st.lists(
        st.tuples(st.integers(-9, 9), st.sampled_from("abcdefg")), min_size=1, max_size=30
    ),
    n_resamples=st.sampled_from([1, 249, 250, 600]),
    seed=SEEDS,
)
@settings(max_examples=30, deadline=None)
def test_a_mean_as_a_statistic_has_the_interval_of_a_mean(pairs, n_resamples, seed):
    """Whole numbers add up without rounding, so the two agree to the last bit."""
    values, groups = zip(*pairs, strict=True)
    for confidence in (0.95, 0.5):
        how = {"confidence": confidence, "n_resamples": n_resamples, "seed": seed}
        as_statistic = bootstrap_statistic(
            lambda drawn: (drawn @ np.array(values)) / drawn.sum(axis=1), groups, **how
        )
        assert as_statistic == bootstrap_interval(values, groups, **how)


@given(seed=SEEDS)
@few(6)
def test_a_statistic_of_single_members_against_scipy(seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=80)
    theirs = stats.bootstrap(
        (values,), np.std, method="percentile", n_resamples=10_000, rng=rng
    ).confidence_interval
    ours = bootstrap_statistic(spread_of(values), range(80), n_resamples=10_000)
    assert ours == near(theirs)


@given(seed=SEEDS)
@few(3)
def test_a_statistic_of_groups_of_uneven_size_against_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(15), rng.integers(1, 5, 15))
    values = rng.normal(size=15)[groups] + 0.3 * rng.normal(size=len(groups))
    ours = bootstrap_statistic(
        spread_of(values), groups, confidence=0.8, n_resamples=6_000, seed=seed
    )
    plain = by_a_plain_loop(
        values.tolist(), groups.tolist(), statistic=pstdev, confidence=0.8, n_resamples=2_000
    )
    assert ours == near(plain, share=0.15)


@given(
    groups=st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=20),
    n_resamples=st.sampled_from([1, 2, 249, 251, 777]),
    seed=st.integers(0, 9),
)
@settings(max_examples=30, deadline=None)
def test_a_statistic_is_given_whole_groups_as_many_as_there_are(groups, n_resamples, seed):
    seen = []

    def watch(drawn):
        seen.append(drawn)
        return np.zeros(len(drawn))

    bootstrap_statistic(watch, groups, n_resamples=n_resamples, seed=seed)
    drawn = np.concatenate(seen)
    assert drawn.shape == (n_resamples, len(groups))
    assert drawn.dtype == np.int64
    first = {group: groups.index(group) for group in groups}
    assert (drawn == drawn[:, [first[group] for group in groups]]).all()
    assert (drawn[:, list(first.values())].sum(axis=1) == len(first)).all()


def test_resamples_without_a_value_are_left_out():
    """A mean over the records of a and b that has no value where a was not drawn."""
    values, groups = np.array([1.0, 2.0, 4.0, 8.0, 16.0]), list("aabcd")
    counted = np.array([1, 1, 1, 0, 0])
    kept, lacking = [], 0

    def mean_with_a(drawn):
        nonlocal lacking
        found = np.full(len(drawn), np.nan)
        for row, counts in enumerate(drawn):
            if counts[0]:
                found[row] = np.average(values, weights=counts * counted)
        kept.extend(found[~np.isnan(found)])
        lacking += np.isnan(found).sum()
        return found

    bounds = bootstrap_statistic(mean_with_a, groups, n_resamples=1_000, confidence=0.8)
    assert lacking / 1_000 == pytest.approx(0.75**4, abs=0.06)
    assert bounds == pytest.approx(tuple(np.quantile(kept, [0.1, 0.9])))


@given(seed=SEEDS)
@few(10)
def test_the_order_of_records_changes_no_bound(seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 8, 30)
    a, b = two_models(rng, groups)
    order = rng.permutation(30)
    how = {"n_resamples": 300, "seed": 4}
    assert bootstrap_statistic(spread_of(a[order]), groups[order], **how) == pytest.approx(
        bootstrap_statistic(spread_of(a), groups, **how)
    )
    found = paired_difference(a, b, groups, **how)
    again = paired_difference(a[order], b[order], groups[order], **how)
    assert (again.mean, again.low, again.high) == pytest.approx((found.mean, found.low, found.high))
    assert (again.p_value, again.n, again.n_groups) == (found.p_value, found.n, found.n_groups)


@pytest.mark.parametrize(
    "groups",
    [[("slake", 1), ("slake", 1), ("rad", 1)], [1, 1, "1"]],
    ids=["pairs", "a number and its name"],
)
def test_groups_are_apart_if_they_are_not_equal(groups):
    """Two groups, whatever they are made of: as good as the letters a, a, b."""
    values = [0.0, 0.0, 1.0]
    assert bootstrap_interval(values, groups) == bootstrap_interval(values, ["a", "a", "b"])
    assert paired_difference(values, values, groups).n_groups == 2


@given(seed=SEEDS, n=st.integers(40, 120), confidence=st.sampled_from([0.8, 0.95]))
@few(6)
def test_a_paired_difference_of_single_members_against_scipy(seed, n, confidence):
    rng = np.random.default_rng(seed)
    a, b = two_models(rng, np.arange(n))
    theirs = stats.bootstrap(
        (a, b),
        lambda a, b, axis: b.mean(axis=axis) - a.mean(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        confidence_level=confidence,
        n_resamples=10_000,
        rng=rng,
    ).confidence_interval
    ours = paired_difference(a, b, range(n), confidence=confidence, n_resamples=10_000, seed=seed)
    assert (ours.low, ours.high) == near(theirs)
    assert ours.mean == pytest.approx(b.mean() - a.mean())
    assert (ours.n, ours.n_groups) == (n, n)


@given(seed=SEEDS)
@few(3)
def test_a_paired_difference_of_groups_of_uneven_size_against_a_plain_loop(seed):
    """The loop draws images with what both models answered, and takes each model's own mean."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(20), rng.integers(1, 6, 20))
    a, b = two_models(rng, groups)
    plain = by_a_plain_loop(
        list(zip(a, b, strict=True)),
        groups.tolist(),
        statistic=lambda drawn: fmean(b for _, b in drawn) - fmean(a for a, _ in drawn),
        n_resamples=5_000,
    )
    ours = paired_difference(a, b, groups, n_resamples=20_000, seed=seed)
    assert (ours.low, ours.high) == near(plain)
    assert ours.mean == pytest.approx(b.mean() - a.mean())
    assert (ours.n, ours.n_groups) == (len(groups), 20)


@given(
    groups=st.lists(
        st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=3),
        min_size=1,
        max_size=4,
    ),
    seed=SEEDS,
)
@settings(max_examples=30, deadline=None)
def test_the_p_value_against_all_resamples_of_a_few_groups(groups, seed):
    """Up to four groups can be drawn in 256 ways; each is counted."""
    resamples = itertools.product(groups, repeat=len(groups))
    above = [sum(b - a for pairs in drawn for a, b in pairs) for drawn in resamples]
    tail = min(sum(d <= 0 for d in above), sum(d >= 0 for d in above)) / len(above)
    a, b = zip(*itertools.chain(*groups), strict=True)
    names = [name for name, pairs in enumerate(groups) for _ in pairs]
    found = paired_difference(a, b, names, n_resamples=10_000, seed=seed)
    assert found.p_value == pytest.approx(min(1, max(2 * tail, 1e-4)), abs=0.06)


@given(seed=SEEDS, effect=st.floats(-0.2, 0.2))
@few(10)
def test_the_p_value_is_near_that_of_a_paired_t_test(seed, effect):
    rng = np.random.default_rng(seed)
    a, b = two_models(rng, np.arange(200))
    ours = paired_difference(a, b + effect, range(200), n_resamples=10_000, seed=seed)
    assert ours.p_value == pytest.approx(stats.ttest_rel(b + effect, a).pvalue, abs=0.08)


@pytest.mark.parametrize(
    ("draws", "p_value"),
    [
        ([1.0, 2.0, 3.0, 4.0], 1 / 4),
        ([-1.0, -2.0, -3.0, -4.0], 1 / 4),
        ([-1.0, 1.0, 1.0, 1.0], 2 / 4),
        ([0.0, 1.0, 1.0, 1.0], 2 / 4),
        ([-1.0, 0.0, 0.0, 1.0], 1.0),
        ([0.0, 0.0, 0.0, 0.0], 1.0),
        ([-1.0] + [1.0] * 9, 2 / 10),
    ],
)
def test_the_p_value_of_known_draws(draws, p_value):
    assert Difference.of(0, 0, 0, np.array(draws), 1, 1).p_value == pytest.approx(p_value)


@given(
    pairs=st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1), st.sampled_from("abcde")),
        min_size=1,
        max_size=30,
    )
)
@settings(max_examples=30, deadline=None)
def test_a_model_does_not_differ_from_itself_and_turning_a_pair_turns_the_sign(pairs):
    a, b, groups = zip(*pairs, strict=True)
    how = {"n_resamples": 300}
    same = paired_difference(a, a, groups, **how)
    assert (same.mean, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    there, back = paired_difference(a, b, groups, **how), paired_difference(b, a, groups, **how)
    assert (back.mean, back.low, back.high) == pytest.approx(
        (-there.mean, -there.high, -there.low), abs=1e-12
    )
    assert back.p_value == there.p_value


@given(
    values=st.lists(st.integers(0, 8), min_size=1, max_size=20),
    gain=st.sampled_from([-0.5, 0.25, 1.0]),
)
@settings(max_examples=30, deadline=None)
def test_a_constant_gain_is_certain(values, gain):
    better = [value + gain for value in values]
    groups = [n // 2 for n in range(len(values))]
    found = paired_difference(values, better, groups, n_resamples=400)
    assert (found.mean, found.low, found.high, found.p_value) == (gain, gain, gain, 1 / 400)


def test_gains_and_losses_that_cancel_are_no_difference():
    """In decimals that no float holds exactly: 0.4 - 0.3 and 0.2 - 0.3 are opposite all the same,
    as are 1 and -1."""
    found = paired_difference([0.3, 0.3], [0.4, 0.2], ["x", "y"])
    assert found.p_value == paired_difference([0, 0], [1, -1], ["x", "y"]).p_value == 1


def test_asking_the_same_of_both_models_thrice_adds_no_certainty():
    rng = np.random.default_rng(2)
    a, b = (list(rng.integers(0, 2, 40).astype(float)) for _ in range(2))
    once = paired_difference(a, b, range(40))
    thrice = paired_difference(a * 3, b * 3, list(range(40)) * 3)
    assert (thrice.mean, thrice.low, thrice.high) == pytest.approx((once.mean, once.low, once.high))
    assert (thrice.p_value, thrice.n_groups) == (once.p_value, 40)
    assert (once.n, thrice.n) == (40, 120)


@given(seed=SEEDS)
@few(20)
def test_an_interval_and_its_p_value_say_the_same(seed):
    """0 lies outside of the 95% interval where the p-value is below 0.05, and only there."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(12), rng.integers(1, 4, 12))
    a, b = two_models(rng, groups)
    found = paired_difference(a, b + rng.normal(scale=0.3), groups, seed=seed)
    if found.p_value < 0.048:
        assert not found.low <= 0 <= found.high
    elif found.p_value > 0.052:
        assert found.low <= 0 <= found.high


def test_paired_interval_holds_the_truth_as_often_as_it_says():
    """Over many data sets of 60 images of 1 to 6 questions, with a true gain of 0.2: about 95 in
    100 with images drawn, far fewer with questions drawn, and the interval is far narrower than
    those of the models apart."""
    rng = np.random.default_rng(13)
    trials, hits, narrower = 300, {"images": 0, "questions": 0}, 0
    for trial in range(trials):
        groups = np.repeat(np.arange(60), rng.integers(1, 7, 60))
        a, b = two_models(rng, groups)
        how = {"n_resamples": 400, "seed": trial}
        for name, drawn in (("images", groups), ("questions", np.arange(len(groups)))):
            found = paired_difference(a, b + 0.2, drawn, **how)
            hits[name] += found.low <= 0.2 <= found.high
            if name == "images":
                low, high = bootstrap_interval(a, groups, **how)
                narrower += found.high - found.low < 0.5 * (high - low)
    assert 0.90 <= hits["images"] / trials <= 0.98
    assert hits["questions"] / trials < 0.85
    assert narrower / trials > 0.95


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], []), ([1.0, 0.0], [1.0])])
def test_what_cannot_be_paired_is_refused(a, b):
    with pytest.raises(ValueError, match=f"{len(a)} and {len(b)} values cannot be paired"):
        paired_difference(a, b, ["x"] * max(len(a), len(b)))


@given(pairs=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
@settings(max_examples=80, deadline=None)
def test_mcnemar_against_statsmodels_and_scipy(pairs):
    a, b = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    found = mcnemar(a, b)
    table = np.zeros((2, 2), dtype=int)
    for first, second in pairs:
        table[int(first), int(second)] += 1
    assert (found.only_a, found.only_b) == (table[1, 0], table[0, 1])
    theirs = contingency_tables.mcnemar(table, exact=True).pvalue
    assert found.p_value == pytest.approx(theirs, abs=1e-12)
    if found.only_a + found.only_b:
        binomial = stats.binomtest(found.only_b, found.only_a + found.only_b, 0.5).pvalue
        assert found.p_value == pytest.approx(binomial, abs=1e-12)
    turned = mcnemar(b, a)
    assert (turned.only_a, turned.only_b) == (found.only_b, found.only_a)
    assert turned.p_value == pytest.approx(found.p_value, abs=1e-12)


@pytest.mark.parametrize("only_a", [0, 3, 17, 480])
@pytest.mark.parametrize("only_b", [0, 4, 40, 520])
def test_mcnemar_of_given_counts_against_statsmodels(only_a, only_b):
    """Also where many differ; what both know or neither does not matter."""
    a = [1] * only_a + [0] * only_b + [1] * 30 + [0] * 20
    b = [0] * only_a + [1] * only_b + [1] * 30 + [0] * 20
    found = mcnemar(a, b)
    theirs = contingency_tables.mcnemar([[30, only_a], [only_b, 20]], exact=True).pvalue
    assert (found.only_a, found.only_b) == (only_a, only_b)
    assert found.p_value == pytest.approx(theirs, rel=1e-9)


def test_mcnemar_of_a_model_with_itself_finds_nothing():
    found = mcnemar([1, 0, 1], [1, 0, 1])
    assert (found.only_a, found.only_b, found.p_value) == (0, 0, 1)


def test_mcnemar_is_too_sure_where_questions_share_an_image_and_the_bootstrap_is_not():
    """Models that are equally good: each question is one that a single model answers, in each
    image the same one with odds of 9 to 1."""
    rng = np.random.default_rng(17)
    trials, cried = 200, {"mcnemar": 0, "independent": 0, "paired": 0}
    groups = np.repeat(np.arange(40), 5)
    for trial in range(trials):
        of_b = rng.integers(0, 2, 40)[groups]
        b = np.where(rng.random(200) < 0.9, of_b, 1 - of_b)
        alone = rng.integers(0, 2, 200)
        cried["mcnemar"] += mcnemar(1 - b, b).p_value < 0.05
        cried["independent"] += mcnemar(1 - alone, alone).p_value < 0.05
        found = paired_difference(1 - b, b, groups, n_resamples=400, seed=trial)
        cried["paired"] += found.p_value < 0.05
    assert cried["independent"] / trials <= 0.08
    assert cried["paired"] / trials <= 0.11
    assert cried["mcnemar"] / trials > 0.2
