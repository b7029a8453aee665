"""Intervals over images and seeds hold as often as they say, where others that one could think of
do not."""

import numpy as np
import pytest
from scipy import special

from kit.report.statistics import mean_interval
from kit.study.crossed import Measured, estimate, measured_mean, measured_statistic, variance_of

IMAGES, SEEDS, QUESTIONS, TIMES = 60, 5, 4, 600
# standard deviations of image, seed, image-by-seed and single answers
WORLDS = {
    "images": (1.0, 0.0, 0.0, 1.0),
    "interaction": (0.0, 0.0, 1.0, 1.0),
    "small seeds": (1.0, 0.05, 0.5, 1.0),
    "equal parts": (1.0, 0.2, 0.5, 1.0),
    "large seeds": (1.0, 1.0, 0.5, 1.0),
    "seeds alone": (0.0, 0.1, 0.0, 1.0),
}


def answers(world: str, times: int, seeds: int = SEEDS) -> np.ndarray:
    """Values around 0, (times, seeds, images, questions)."""
    of_image, of_seed, of_both, of_answer = WORLDS[world]
    draw = np.random.default_rng(list(WORLDS).index(world)).normal
    shape = (times, seeds, IMAGES, QUESTIONS)
    return (
        of_image * draw(size=(times, 1, IMAGES, 1))
        + of_seed * draw(size=(times, seeds, 1, 1))
        + of_both * draw(size=(times, seeds, IMAGES, 1))
        + of_answer * draw(size=shape)
    )


NUMBER = np.repeat(np.arange(IMAGES), QUESTIONS)


def measured(values_SIQ: np.ndarray) -> list[Measured]:
    return [measured_mean(values.ravel(), NUMBER, IMAGES) for values in values_SIQ]


def holds(low: float, high: float) -> bool:
    return low <= 0 <= high


def as_if_independent(values_SIQ: np.ndarray) -> bool:
    flat = values_SIQ.ravel()
    return abs(flat.mean()) <= 1.96 * flat.std(ddof=1) / np.sqrt(flat.size)


def over_images_alone(values_SIQ: np.ndarray) -> bool:
    clusters = np.tile(NUMBER, len(values_SIQ))
    return holds(*mean_interval(values_SIQ.ravel(), clusters.tolist(), (-50.0, 50.0)))


def two_way_cluster_robust(values_SIQ: np.ndarray) -> bool:
    """Cameron, Gelbach and Miller 2011, with quantiles of the normal distribution."""
    cells_SI = values_SIQ.mean(axis=2) - values_SIQ.mean()
    n_seeds, n_images = cells_SI.shape
    of_images = n_images / (n_images - 1) * (cells_SI.mean(axis=0) ** 2).sum() / n_images**2
    of_seeds = n_seeds / (n_seeds - 1) * (cells_SI.mean(axis=1) ** 2).sum() / n_seeds**2
    both = (cells_SI**2).sum() / cells_SI.size**2
    return abs(values_SIQ.mean()) <= 1.96 * np.sqrt(max(0.0, of_images + of_seeds - both))


def ours(values_SIQ: np.ndarray) -> bool:
    found = estimate(measured(values_SIQ), (-50.0, 50.0))
    return holds(found.low, found.high)


def coverage(rule, world: str) -> float:
    return float(np.mean([rule(values) for values in answers(world, TIMES)]))


@pytest.mark.parametrize("world", WORLDS)
def test_five_seeds_of_sixty_images_hold_as_often_as_they_say(world):
    """Of 600 studies; 2.5 standard errors of a share of 95% are 2.2%."""
    assert coverage(ours, world) > 0.95 - 0.022


@pytest.mark.parametrize("world", ["images", "equal parts", "large seeds"])
def test_seeds_times_images_are_no_independent_answers(world):
    assert coverage(as_if_independent, world) < 0.6


def test_images_alone_do_not_know_of_seeds_nor_a_two_way_variance_of_few():
    assert coverage(over_images_alone, "large seeds") < 0.6
    assert coverage(two_way_cluster_robust, "large seeds") < 0.92


def test_equal_systems_are_told_apart_no_more_often_than_is_said():
    """At the levels that a correction for seven systems asks for too."""
    for world in ("equal parts", "large seeds"):
        p_values = np.array([estimate(measured(one)).p_value for one in answers(world, TIMES)])
        assert (p_values <= 0.05).mean() <= 0.072
        assert (p_values <= 0.05 / 7).mean() <= 0.02


def test_the_parts_of_a_balanced_study_are_those_of_an_analysis_of_variance():
    """Mean squares as statistics books have them."""
    (values_SIQ,) = answers("equal parts", 1)
    cells_SI = values_SIQ.mean(axis=2)
    grand, seeds_S, images_I = cells_SI.mean(), cells_SI.mean(axis=1), cells_SI.mean(axis=0)
    of_images = SEEDS * ((images_I - grand) ** 2).sum() / (IMAGES - 1)
    of_seeds = IMAGES * ((seeds_S - grand) ** 2).sum() / (SEEDS - 1)
    rest_SI = cells_SI - seeds_S[:, None] - images_I + grand
    of_both = (rest_SI**2).sum() / ((IMAGES - 1) * (SEEDS - 1))
    expected = (of_images + of_seeds - of_both) / (IMAGES * SEEDS)
    found = measured(values_SIQ)
    variance, _ = variance_of(
        np.array([one.value for one in found]), np.array([one.influence_C for one in found])
    )
    assert variance == pytest.approx(expected)


def test_a_seed_more_that_agrees_in_all_makes_nothing_surer():
    """Five copies of one run are one run."""
    (values_SIQ,) = answers("images", 1, seeds=1)
    one, copies = (estimate(measured(values_SIQ) * n, (-50.0, 50.0)) for n in (1, 5))
    assert (copies.low, copies.high) == pytest.approx((one.low, one.high))
    assert one.by_seed * 5 == copies.by_seed


@pytest.mark.parametrize(("value", "p_value"), [(1.0, 2**-4), (0.0, 1.0)])
def test_where_nothing_varies_what_was_not_seen_may_be_otherwise(value, p_value):
    """As of one seed; and five seeds of one sign are what could have come by chance."""
    seed = Measured(value, np.zeros(20), np.full(20, 3))
    one, five = estimate([seed]), estimate([seed] * 5)
    assert (five.low, five.high) == (one.low, one.high)
    assert one.p_value == (1.0 if value == 0 else 2**-19)
    assert five.p_value == p_value
    assert 0.05 < five.high - five.low < 0.25
    assert value in (five.low, five.high)


def test_few_seeds_that_differ_are_less_sure_than_t_of_them_alone_would_say_at_least():
    """Where seeds alone differ the interval is that of a t-test of their means."""
    values_S = np.array([0.1, 0.4, 0.2])
    alike = [Measured(v, np.zeros(20), np.full(20, 3)) for v in values_S]
    found = estimate(alike, (-50.0, 50.0))
    t = special.stdtrit(2, 0.975) * values_S.std(ddof=1) / np.sqrt(3)
    assert found.high - found.low == pytest.approx(2 * t, rel=1e-3)
    assert found.p_value == pytest.approx(2 * special.stdtr(2, -found.mean / (t / 4.302653)))


def test_images_without_answers_and_of_many_questions():
    """The mean is over answers; an image without any has no part in it."""
    found = measured_mean([1.0, 1.0, 1.0, 0.0], np.array([0, 0, 0, 4]), 6)
    assert found.value == 0.75
    assert found.influence_C.sum() == pytest.approx(0)
    assert found.answers_C.tolist() == [3, 0, 0, 0, 1, 0]
    assert (estimate([found]).n_images, estimate([found]).low) == (2, None)


def test_one_image_tells_nothing_of_others():
    found = measured_statistic(0.5, lambda times: 0 / times.sum(axis=1), np.array([2, 2]), 4)
    assert not found.influence_C.any()
    assert estimate([found] * 2).low is None


@pytest.mark.parametrize(("n_images", "n_seeds"), [(2, 5), (3, 5), (3, 10)])
def test_few_images_are_no_surer_for_many_seeds(n_images, n_seeds):
    """Of 2,000 studies without a difference whose images differ; with the seeds' degrees of
    freedom 17, 8 and 14% of them would be sure."""
    draw = np.random.default_rng(n_images * n_seeds).normal
    number = np.arange(n_images)
    sure = 0
    for _ in range(2000):
        image, each = draw(size=n_images), draw(size=(n_seeds, n_images))
        sure += (
            estimate([measured_mean(image + one, number, n_images) for one in each]).p_value <= 0.05
        )
    assert sure / 2000 < 0.065


def test_one_image_makes_no_difference_sure():
    values = [0.5, -0.4, *[0.1] * 8]
    one = [measured_mean([value], np.array([0]), 1) for value in values]
    assert estimate(one).p_value == 1
    alike = [measured_mean([0.3, 0.3], np.array([0, 1]), 2)] * 7
    assert estimate(alike).p_value == 0.5


def test_an_area_is_no_surer_than_the_share_of_right_answers():
    """Of 98% right answers the excess area under the curve hardly differs from one jackknife to
    the next, and may be far from the truth."""
    draw = np.random.default_rng(5)
    number, correct = np.repeat(np.arange(40), 3), np.ones(120)
    correct[draw.integers(0, 120, 2)] = 0
    area = Measured(0.001, draw.normal(scale=1e-6, size=40), np.full(40, 3))
    share = measured_mean(correct, number, 40)
    alone, held = estimate([area] * 3), estimate([area] * 3, correct=[share] * 3)
    assert alone.high - alone.low < 1e-3 < held.high - held.low
    assert held.p_value == alone.p_value
    wide = Measured(0.3, draw.normal(scale=0.1, size=40), np.full(40, 3))
    assert estimate([wide], correct=[share]) == estimate([wide])


def test_the_jackknife_of_a_mean_is_that_mean():
    """Of as many answers an image it is the same influence exactly."""
    values = np.random.default_rng(3).integers(0, 2, IMAGES * QUESTIONS).astype(float)

    def counted(times: np.ndarray) -> np.ndarray:
        return times @ values / times.sum(axis=1)

    plain = measured_mean(values, NUMBER, IMAGES)
    found = measured_statistic(values.mean(), counted, NUMBER, IMAGES)
    np.testing.assert_allclose(found.influence_C, plain.influence_C, atol=1e-12)
