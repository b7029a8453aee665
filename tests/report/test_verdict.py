"""The sentences say what the numbers say, and no more."""

import pytest

from kit.report.comparison import Comparison
from kit.report.statistics import Difference, Discordant
from kit.report.verdict import best_model, verdict

MODE = "caption_reason_answer"


def metrics_of(exact: float, **more) -> dict[str, float]:
    values = {"exact/all": exact, **more}
    found = {}
    for name, value in values.items():
        name = f"{MODE}/{name}"
        found |= {name: value, f"{name}/low": value - 0.05, f"{name}/high": value + 0.05}
        found[f"{name}/n"] = 200
    return found


def apart(a, b, mean, p_adjusted, metric="exact/all", ends=(-0.1, 0.1)) -> Comparison:
    low, high = (mean + end for end in ends) if ends else (None, None)
    difference = Difference(mean, low, high, p_adjusted / 4, 200, 50)
    return Comparison(a, b, MODE, metric, difference, Discordant(3, 30), "primary", p_adjusted)


def test_a_clear_winner_is_named_with_what_it_has_above_the_others():
    metrics = {"base": metrics_of(0.4), "sft": metrics_of(0.7)}
    lead = verdict(metrics, [apart("base", "sft", 0.3, 0.0008)], MODE).lead
    assert lead[0] == "sft answers best: 70.0% [65.0, 75.0] exact match on 200 questions."
    said = "sft against base: +30.0 points [+20.0, +40.0]; p <= 0.001, corrected p <= 0.001."
    assert lead[1] == said


def test_one_that_is_ahead_by_chance_is_not_called_best():
    """It is the corrected p-value that says so: the interval leaves out 0, and so does p."""
    metrics = {"sft": metrics_of(0.70), "grpo": metrics_of(0.75)}
    lead = verdict(metrics, [apart("sft", "grpo", 0.05, 0.06, ends=(-0.02, 0.02))], MODE).lead
    assert "not distinguishable from sft" in lead[0]
    assert "best" not in lead[0]
    assert "+5.0 points [+3.0, +7.0], which may be chance; p = 0.015, corrected p = 0.06" in lead[1]


def test_one_that_is_ahead_on_questions_of_its_own_alone_is_not_called_as_good():
    """It was asked the easier ones; of those that both answered the other has more right."""
    metrics = {"base": metrics_of(0.8), "sft": metrics_of(0.75)}
    lead = verdict(metrics, [apart("base", "sft", 0.17, 0.001)], MODE).lead
    assert lead[0].startswith("base has the highest exact match: 80.0%")
    assert "-17.0 points [-27.0, -7.0]: of the questions that both answered sft surely" in lead[1]
    assert "chance" not in lead[1]


def test_every_model_that_may_be_as_good_is_named():
    """Else "not distinguishable from base" would say that it beats the third."""
    metrics = {"base": metrics_of(0.5), "sft": metrics_of(0.6), "grpo": metrics_of(0.62)}
    pairs = {"sure": apart("base", "grpo", 0.12, 0.01), "base": apart("base", "grpo", 0.12, 0.3)}
    other = apart("sft", "grpo", 0.02, 0.9)
    lead = verdict(metrics, [pairs["base"], other], MODE).lead[0]
    assert "not distinguishable from base and sft" in lead
    lead = verdict(metrics, [pairs["sure"], other], MODE).lead[0]
    assert "not distinguishable from sft:" in lead


def test_a_difference_is_turned_round_where_the_first_is_the_better():
    metrics = {"sft": metrics_of(0.72), "grpo": metrics_of(0.60)}
    lead = verdict(metrics, [apart("sft", "grpo", -0.12, 0.02)], MODE).lead
    assert lead[0].startswith("sft answers best")
    assert lead[1].startswith("sft against grpo: +12.0 points [+2.0, +22.0];")


def test_few_images_have_no_interval_and_nothing_is_made_of_them():
    more = {"flip_gap": 0.5, "roi_flip_rate": 0.5, "random_flip_rate": 0.0}
    metrics = {
        name: {k: v for k, v in metrics_of(e, **more).items() if not k.endswith(("low", "high"))}
        for name, e in (("base", 0.4), ("sft", 0.7))
    }
    lead = verdict(metrics, [apart("base", "sft", 0.3, 0.5, ends=())], MODE).lead
    few = "70.0% exact match on 200 questions of fewer than 10 independent images: no interval."
    assert lead[0] == f"sft has the highest exact match, not distinguishable from base: {few}"
    assert lead[1].startswith("sft against base: +30.0 points, which may be chance;")
    assert (
        "cannot be said: only 200 could be tested, of fewer than 10 independent images" in lead[2]
    )


def test_other_questions_are_no_ground_for_a_comparison():
    lead = verdict({"a": metrics_of(0.5), "b": metrics_of(0.6)}, [], MODE).lead
    assert "best" not in lead[0]
    assert "not asked the same questions" in lead[1]


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        (0.7, "m's answers rest on the evidence"),
        (0.2, "Some of m's answers rest on the evidence"),
        (0.01, "m's answers do not measurably rest on the evidence"),
    ],
)
def test_it_is_said_whether_the_best_model_looks(gap, words):
    more = {"flip_gap": gap, "roi_flip_rate": gap + 0.02, "random_flip_rate": 0.02}
    lead = verdict({"m": metrics_of(0.5, **more)}, [], MODE).lead
    assert lead[-1].startswith(words)


def test_gaps_are_compared_and_chance_is_called_chance():
    more = {"flip_gap": 0.2, "roi_flip_rate": 0.22, "random_flip_rate": 0.02}
    metrics = {"a": metrics_of(0.5, **more), "b": metrics_of(0.6, **more)}
    sure = apart("a", "b", 0.1, 0.04, "flip_gap")
    chance = apart("a", "b", 0.02, 0.4, "flip_gap")
    for one, words in ((sure, "above a."), (chance, "above a, maybe by chance.")):
        rest = verdict(metrics, [one], MODE).rest
        assert any(sentence.endswith(words) for sentence in rest)


def test_what_is_above_a_guess_is_told_of_each_model():
    more = {"floor/question_only": 0.4}
    metrics = {
        "a": metrics_of(0.45, above_floor=0.05, **more),
        "b": metrics_of(0.3, above_floor=-0.1, **more),
    }
    rest = verdict(metrics, [], MODE).rest
    assert "40.0%" in rest[0]
    assert "a +5.0 [+0.0, +10.0], b -10.0 [-15.0, -5.0]" in rest[0]


def test_nothing_measured_is_nothing_said():
    found = verdict({"a": {"n": 3}}, [], MODE)
    assert found.lead == found.rest == ()
    assert best_model({"a": {}}, MODE) is None
