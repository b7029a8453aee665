"""The sentences say what the numbers say, and no more."""

import pytest

from kit.report.comparison import Comparison
from kit.report.statistics import Difference, McNemar
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


def apart(a, b, mean, low, high, metric="exact/all") -> Comparison:
    difference = Difference(mean, low, high, 0.0005, 200, 50)
    return Comparison(a, b, MODE, metric, difference, McNemar(3, 30, 0.02))


def test_a_clear_winner_is_named_with_what_it_has_above_the_others():
    metrics = {"base": metrics_of(0.4), "sft": metrics_of(0.7)}
    lead = verdict(metrics, [apart("base", "sft", 0.3, 0.2, 0.4)], MODE).lead
    assert lead[0] == "sft answers best: 70.0% exact match [65.0%, 75.0%] on 200 questions."
    assert lead[1].startswith("sft against base: +30.0 points [+20.0, +40.0];")
    assert "p < 0.001" in lead[1]
    assert "McNemar p = 0.02" in lead[1]


def test_one_that_is_ahead_by_chance_is_not_called_best():
    metrics = {"sft": metrics_of(0.70), "grpo": metrics_of(0.71)}
    lead = verdict(metrics, [apart("sft", "grpo", 0.01, -0.02, 0.04)], MODE).lead
    assert "not distinguishable from sft" in lead[0]
    assert "best" not in lead[0]
    assert "which may be chance" in lead[1]


def test_a_difference_is_turned_round_where_the_first_is_the_better():
    metrics = {"sft": metrics_of(0.72), "grpo": metrics_of(0.60)}
    lead = verdict(metrics, [apart("sft", "grpo", -0.12, -0.2, -0.05)], MODE).lead
    assert lead[0].startswith("sft answers best")
    assert lead[1].startswith("sft against grpo: +12.0 points [+5.0, +20.0];")


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


def test_a_gap_of_a_few_answers_is_not_made_much_of():
    more = {"flip_gap": 0.5, "roi_flip_rate": 0.5, "random_flip_rate": 0.0}
    metrics = metrics_of(0.5, **more) | {f"{MODE}/flip_gap/n": 2}
    lead = verdict({"m": metrics}, [], MODE).lead
    assert "cannot be said: only 2 could be tested" in lead[-1]


def test_gaps_are_compared_and_chance_is_called_chance():
    more = {"flip_gap": 0.2, "roi_flip_rate": 0.22, "random_flip_rate": 0.02}
    metrics = {"a": metrics_of(0.5, **more), "b": metrics_of(0.6, **more)}
    sure = apart("a", "b", 0.1, 0.05, 0.15, "flip_gap")
    chance = apart("a", "b", 0.02, -0.05, 0.15, "flip_gap")
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
