"""Differences between models: paired by question, and only where both were asked."""

import numpy as np
import pytest

from kit.report.comparison import compare
from kit.report.risk_coverage import aurc, excess_aurc
from kit.report.statistics import mcnemar, paired_difference

MODE = "think_answer"


def rows_of(exact, confidence=None, mode=MODE) -> list[dict]:
    confidence = np.full(len(exact), 0.5) if confidence is None else confidence
    return [
        {
            "mode": mode, "dataset": "D", "image": f"i{n // 3}", "qid": str(n), "question": "?",
            "answer_type": "OPEN" if n % 2 else "CLOSED",
            "scores": {"exact": float(value)},
            "confidences": {"answer_probability": float(sure)},
        }
        for n, (value, sure) in enumerate(zip(exact, confidence, strict=True))
    ]  # fmt: skip


def one(found, a, b, metric, mode=MODE):
    (only,) = [c for c in found if (c.a, c.b, c.metric, c.mode) == (a, b, metric, mode)]
    return only


@pytest.fixture
def models():
    draw = np.random.default_rng(8)
    return {
        name: rows_of(draw.random(60) < share, draw.random(60))
        for name, share in (("base", 0.3), ("sft", 0.6), ("grpo", 0.7))
    }


def test_every_pair_is_compared_in_order(models):
    found = compare(models)
    pairs = {(c.a, c.b) for c in found}
    assert pairs == {("base", "sft"), ("base", "grpo"), ("sft", "grpo")}


def test_an_accuracy_is_compared_by_both_tests(models):
    got = one(compare(models, seed=3), "base", "grpo", "exact/all")
    a, b = ([r["scores"]["exact"] for r in models[m]] for m in ("base", "grpo"))
    images = [row["image"] for row in models["base"]]
    assert got.difference == paired_difference(a, b, images, seed=3)
    assert got.mcnemar == mcnemar(a, b)
    assert got.difference.n == 60
    assert got.difference.n_groups == 20
    flat = got.to_json()
    assert flat["difference"] == pytest.approx(np.mean(b) - np.mean(a))
    assert flat["mcnemar/only_b"] == sum(y > x for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_questions_are_paired_by_what_they_are_not_by_their_place(seed, models):
    """McNemar's test tells: a wrong pairing within an image leaves its mean as it is."""
    order = np.random.default_rng(seed).permutation(60)
    shuffled = {**models, "sft": [models["sft"][place] for place in order]}
    first = one(compare(models), "base", "sft", "exact/all")
    assert one(compare(shuffled), "base", "sft", "exact/all") == first


def test_only_common_questions_count(models):
    fewer = {"base": models["base"][:30], "sft": models["sft"][12:]}
    got = one(compare(fewer), "base", "sft", "exact/all").difference
    a, b = ([r["scores"]["exact"] for r in models[m][12:30]] for m in ("base", "sft"))
    assert got.n == 18
    assert got.mean == pytest.approx(np.mean(b) - np.mean(a))
    apart = {"base": models["base"][:3], "sft": models["sft"][6:]}
    assert compare(apart) == []


def test_a_question_that_was_asked_twice_is_paired_twice():
    twice = rows_of([1, 0]) + rows_of([1, 1])
    got = one(compare({"a": twice, "b": twice}), "a", "b", "exact/all").difference
    assert (got.n, got.mean) == (4, 0)


def test_a_model_does_not_differ_from_itself(models):
    for found in compare({"one": models["sft"], "same": models["sft"]}):
        assert found.difference.mean == found.difference.low == found.difference.high == 0
        assert found.difference.p_value == 1
        assert found.mcnemar is None or found.mcnemar.p_value == 1


def test_areas_are_compared_over_the_same_resamples(models):
    found = compare(models)
    sides = [
        (
            [r["confidences"]["answer_probability"] for r in models[m]],
            [r["scores"]["exact"] for r in models[m]],
        )
        for m in ("base", "sft")
    ]
    for metric, area in (("aurc", aurc), ("excess_aurc", excess_aurc)):
        got = one(found, "base", "sft", metric).difference
        assert got.mean == pytest.approx(area(*sides[1]) - area(*sides[0]))
        assert got.low < got.mean < got.high
    # base answers worse by far, so its risk is higher, surely
    assert one(found, "base", "grpo", "aurc").difference.high < 0


def test_modes_are_not_mixed(models):
    both = {
        "a": models["base"] + rows_of([1, 1, 1], mode="caption_reason_answer"),
        "b": models["sft"] + rows_of([0, 1, 1], mode="caption_reason_answer"),
    }
    got = one(compare(both), "a", "b", "exact/all", "caption_reason_answer").difference
    assert (got.n, got.mean) == (3, pytest.approx(-1 / 3))
