"""The four-part reward on plain values."""

import importlib
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.errors import ConfigError
from kit.grpo import terms
from kit.grpo.terms import REWARDS, parse_weights
from kit.scoring.faithfulness import (
    answer_score,
    combine,
    counterfactual_score,
    group_rewards,
)

WEIGHTS = {"format": 0.2, "answer": 0.4, "consistency": 0.2, "counterfactual": 0.2}
shares = st.none() | st.floats(0, 1)
drops = st.none() | st.floats(-1, 1) | st.just(math.nan) | st.just(math.inf)


def test_the_documented_example():
    parts = {"format": 1.0, "answer": 1.0, "consistency": None}
    parts["counterfactual"] = counterfactual_score(0.6, 0.1)
    (reward,) = group_rewards([parts], dict(WEIGHTS))
    assert reward.parts == parts
    assert reward.total == pytest.approx((0.2 + 0.4 + 0.2 * 0.5) / 0.8)


@given(st.tuples(shares, shares, shares, shares))
def test_absent_parts_are_left_out_and_the_rest_is_rescaled(values):
    weights = dict(WEIGHTS)
    total = combine(dict(zip(WEIGHTS, values, strict=True)), weights)
    there = [(weights[n], v) for n, v in zip(WEIGHTS, values, strict=True) if v is not None]
    assert 0 <= total <= 1 + 1e-12
    if there:
        expected = sum(w * v for w, v in there) / sum(w for w, _ in there)
        assert total == pytest.approx(expected)
    else:
        assert total == 0


@given(st.lists(shares, min_size=2, max_size=8), st.data())
def test_what_cannot_be_measured_moves_no_completion_in_its_group(counterfactuals, data):
    """Totals of a group differ from what they are without the part by what was measured, whose
    mean is 0 over those that were, and by nothing for the others."""
    weights = dict(WEIGHTS)
    answers = data.draw(st.lists(st.floats(0, 1), min_size=8, max_size=8))
    group = [
        {"format": 1.0, "answer": answer, "consistency": 0.5, "counterfactual": value}
        for answer, value in zip(answers, counterfactuals, strict=False)
    ]
    rewards = group_rewards(group, weights)
    assert [reward.parts for reward in rewards] == group
    known = [value for value in counterfactuals if value is not None]
    if not known:
        assert [r.total for r in rewards] == [combine(parts, weights) for parts in group]
        return
    mean = sum(known) / len(known)
    for parts, reward in zip(group, rewards, strict=True):
        moved = 0.2 + 0.4 * parts["answer"] + 0.1 + 0.2 * mean
        value = parts["counterfactual"]
        extra = 0.0 if value is None else 0.2 * (value - mean)
        assert reward.total == pytest.approx(moved + extra)


def test_seeking_what_cannot_be_measured_is_not_paid():
    """Right answers of a group, half of which claim regions that nothing matches. Their mean
    advantage is none, whatever the others earn; left out of their totals alone, the part would
    pay them more than the most faithful answer."""
    weights = dict(WEIGHTS)
    right = {"format": 1.0, "answer": 1.0, "consistency": 1.0}
    honest = [right | {"counterfactual": value} for value in (0.0, 0.2, 0.4, 0.9)]
    seeking = [right | {"counterfactual": None}] * 4
    totals = [reward.total for reward in group_rewards(honest + seeking, weights)]
    assert totals[4:] == pytest.approx([sum(totals) / 8] * 4)
    assert totals[2] > totals[4] > totals[1]
    assert combine(seeking[0], weights) > max(combine(parts, weights) for parts in honest)
    # a wrong answer earns 0 in the part: to be unmeasurable there is no way up either
    wrong = [right | {"answer": 0.0, "counterfactual": 0.0}] * 7
    alone = [reward.total for reward in group_rewards([*wrong, seeking[0]], weights)]
    assert alone[-1] - alone[0] == pytest.approx(0.4), "what being right is worth, and no more"


@given(drops, drops, st.floats(0, 1))
def test_counterfactual_scores_are_in_range_or_absent(roi, rand, share):
    score = counterfactual_score(roi, rand, share)
    known = all(v is not None and math.isfinite(v) for v in (roi, rand))
    assert (score is not None) == known
    if known:
        assert 0 <= score <= 1
        assert score == 0 or (roi > max(0, rand) and share < 0.5)


def test_weights_are_read_and_refused():
    numbers = {"format": 1, "answer": 0, "consistency": 0, "counterfactual": 0.5}
    assert parse_weights("1,0,0,0.5") == numbers
    assert parse_weights("iou=1, answer=0.5") == {"iou": 1, "answer": 0.5}
    for wrong in (
        "",
        "1,2,3",
        "1,2,3,4,5",
        "a,b,c,d",
        "1,1,1,-1",
        "0,0,0,0",
        "nan,1,1,1",
        "inf,1,1,1",
        "iou=1,0.5",
        "iou=1,iou=1",
        "ioo=1",
        "iou=",
        "iou=-1",
    ):
        with pytest.raises(ConfigError, match="weights"):
            parse_weights(wrong)


def test_every_reward_is_a_file_of_its_name():
    folder = Path(terms.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} >= {*REWARDS}
    for name in REWARDS:
        assert callable(importlib.import_module(f"kit.grpo.terms.{name}").score)


def test_a_grade_below_exact_is_earned_only_where_it_is_asked_for():
    for scoring, expected in (("exact", (0.0, 0.0)), ("f1", (2 / 3, 0.0))):
        found = [answer_score("left lung", gold, scoring) for gold in ("lung", "No")]
        assert found == pytest.approx(expected)


def test_saying_yes_and_no_is_no_grade_of_either():
    assert answer_score("yes or no", "No", "f1") == 0
    assert answer_score("lung or liver", "lung", "f1") > 0
