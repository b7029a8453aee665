"""The four-part reward on plain values."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.errors import ConfigError
from kit.prompting.answers import parse_answer
from kit.scoring.faithfulness import (
    answer_score,
    combine,
    counterfactual_score,
    faithfulness_reward,
    score_completions,
)
from kit.scoring.settings import COMPONENTS, Weights, parse_weights

shares = st.none() | st.floats(0, 1)
drops = st.none() | st.floats(-1, 1) | st.just(math.nan) | st.just(math.inf)


def test_the_documented_example():
    reward = faithfulness_reward(
        valid_json=True,
        answer_correct=1.0,
        consistency=None,
        counterfactual=counterfactual_score(0.6, 0.1),
    )
    assert reward.parts == {
        "format": 1.0, "answer": 1.0, "consistency": None, "counterfactual": 0.5,
    }  # fmt: skip
    assert reward.total == pytest.approx((0.2 + 0.4 + 0.2 * 0.5) / 0.8)


@given(st.tuples(shares, shares, shares, shares))
def test_absent_parts_are_left_out_and_the_rest_is_rescaled(values):
    weights = Weights().as_dict()
    total = combine(dict(zip(COMPONENTS, values, strict=True)), weights)
    there = [(weights[n], v) for n, v in zip(COMPONENTS, values, strict=True) if v is not None]
    assert 0 <= total <= 1 + 1e-12
    if there:
        expected = sum(w * v for w, v in there) / sum(w for w, _ in there)
        assert total == pytest.approx(expected)
    else:
        assert total == 0


@given(drops, drops, st.floats(0, 1))
def test_counterfactual_scores_are_in_range_or_absent(roi, rand, share):
    score = counterfactual_score(roi, rand, share)
    known = all(v is not None and math.isfinite(v) for v in (roi, rand))
    assert (score is not None) == known
    if known:
        assert 0 <= score <= 1
        assert score == 0 or (roi > max(0, rand) and share < 0.5)


def test_weights_are_read_and_refused():
    assert parse_weights("1,0,0,0.5") == Weights(1, 0, 0, 0.5)
    for wrong in (
        "",
        "1,2,3",
        "1,2,3,4,5",
        "a,b,c,d",
        "1,1,1,-1",
        "0,0,0,0",
        "nan,1,1,1",
        "inf,1,1,1",
    ):
        with pytest.raises(ConfigError, match="weights"):
            parse_weights(wrong)


def test_a_grade_below_exact_is_earned_only_where_it_is_asked_for():
    parsed = [parse_answer('{"caption": "", "reasoning": [], "boxes": [], "answer": "left lung"}')]
    plain = [
        {"golds": [gold], "questions": ["?"], "counterfactuals": [None]} for gold in ("lung", "No")
    ]
    for scoring, expected in (("exact", (0.0, 0.0)), ("f1", (2 / 3, 0.0))):
        found = [
            score_completions(parsed, **values, consistency=None, scoring=scoring)[0]
            for values in plain
        ]
        assert tuple(reward.parts["answer"] for reward in found) == pytest.approx(expected)


def test_saying_yes_and_no_is_no_grade_of_either():
    assert answer_score("yes or no", "No", "f1") == 0
    assert answer_score("lung or liver", "lung", "f1") > 0
