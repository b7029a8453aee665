"""Differences between models: paired by question, and only where both were asked."""

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from kit.report.comparison import compare, correction
from kit.report.families import benjamini_hochberg, holm
from kit.report.risk_coverage import aurc, excess_aurc
from kit.report.statistics import discordant, paired_difference

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


def test_an_accuracy_is_compared_by_image_and_its_discordant_answers_are_counted(models):
    got = one(compare(models, seed=3), "base", "grpo", "exact/all")
    a, b = ([r["scores"]["exact"] for r in models[m]] for m in ("base", "grpo"))
    images = [row["image"] for row in models["base"]]
    assert got.difference == paired_difference(a, b, images, seed=3)
    assert got.discordant == discordant(a, b)
    assert got.difference.n == 60
    assert got.difference.n_clusters == 20
    flat = got.to_json()
    assert flat["difference"] == pytest.approx(np.mean(b) - np.mean(a))
    assert flat["only_b"] == sum(y > x for x, y in zip(a, b, strict=True))
    assert (flat["p_value"], flat["family"]) == (got.difference.p_value, "primary")


def test_slices_of_one_volume_count_as_one(models):
    """Twice as many images as volumes: as if the pairs were one image each."""
    volumes = {
        name: [row | {"volume": f"v{int(row['qid']) // 6}"} for row in rows]
        for name, rows in models.items()
    }
    same = {
        name: [row | {"image": f"v{int(row['qid']) // 6}"} for row in rows]
        for name, rows in models.items()
    }
    got = one(compare(volumes), "base", "grpo", "exact/all").difference
    assert got.n_clusters == 10
    assert got == one(compare(same), "base", "grpo", "exact/all").difference
    assert got != one(compare(models), "base", "grpo", "exact/all").difference


@pytest.mark.parametrize("seed", range(5))
def test_questions_are_paired_by_what_they_are_not_by_their_place(seed, models):
    """Discordant answers tell: a wrong pairing within an image leaves its mean as it is."""
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


def test_images_are_the_same_by_what_they_hold(models):
    def found(base, sft):
        comparisons = compare({"base": base, "sft": sft})
        return [one.difference.mean for one in comparisons if one.metric == "exact/all"]

    def summed(name, sum_of):
        return [row | {"image_sha256": f"{sum_of}{row['image']}"} for row in models[name]]

    base, sft = models["base"], models["sft"]
    elsewhere = [row | {"image": f"/other/{row['image']}"} for row in summed("sft", "5a")]
    assert found(summed("base", "5a"), elsewhere) == found(base, sft) != []
    assert found(base, summed("sft", "5a")) == found(base, sft), "an older evaluation beside it"
    assert found(base, elsewhere) == [], "nothing says that they are the same"
    assert found(summed("base", "5a"), summed("sft", "77")) == [], "drawn anew in the same folder"


def test_a_question_that_was_asked_twice_is_paired_twice():
    twice = rows_of([1, 0]) + rows_of([1, 1])
    got = one(compare({"a": twice, "b": twice}), "a", "b", "exact/all").difference
    assert (got.n, got.mean) == (4, 0)


def test_a_model_does_not_differ_from_itself(models):
    for found in compare({"one": models["sft"], "same": models["sft"]}):
        assert found.difference.mean == 0
        assert found.difference.p_value == 1
        assert found.difference.low < 0 < found.difference.high
        assert found.better is None
        assert found.discordant is None or found.discordant == discordant([], [])


def test_areas_are_compared_by_swapping_the_models_image_by_image(models):
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
    got = one(found, "base", "grpo", "aurc")
    assert got.difference.high < 0
    assert got.difference.p_value < 0.001
    assert got.better == "grpo"


def test_modes_are_not_mixed(models):
    both = {
        "a": models["base"] + rows_of([1, 1, 1], mode="caption_reason_answer"),
        "b": models["sft"] + rows_of([0, 1, 1], mode="caption_reason_answer"),
    }
    got = one(compare(both), "a", "b", "exact/all", "caption_reason_answer").difference
    assert (got.n, got.mean) == (3, pytest.approx(-1 / 3))


# ------------------------------------------------------------------- corrected for how many
def test_what_was_named_before_looking_is_one_family_and_the_rest_another(models):
    """Each at half of 5%: against the textbook rules of statsmodels."""
    both = {
        name: rows + [row | {"mode": "caption_reason_answer"} for row in rows]
        for name, rows in models.items()
    }
    found = compare(both)
    named = {(c.mode, c.metric) for c in found if c.family == "primary"}
    assert named == {("caption_reason_answer", "exact/all")}
    for family, rule in (("primary", "holm"), ("other", "fdr_bh")):
        part = [c for c in found if c.family == family]
        theirs = multipletests([c.difference.p_value for c in part], method=rule)[1]
        assert [c.p_adjusted for c in part] == pytest.approx(np.minimum(1, 2 * theirs))
    assert len({c.family for c in found}) == 2
    n = sum(c.family == "other" for c in found)
    assert f"Of {n + 3} comparisons, 3 were named before looking" in correction(found)
    alone = compare(models)
    assert {c.metric for c in alone if c.family == "primary"} == {"exact/all"}
    assert correction([]) == ""


@pytest.mark.parametrize("n", [1, 2, 7, 30])
def test_corrections_against_statsmodels(n):
    p_values = np.random.default_rng(n).random(n).round(1) / 4  # some are equal
    for ours, method in ((holm, "holm"), (benjamini_hochberg, "fdr_bh")):
        assert ours(p_values) == pytest.approx(multipletests(p_values, method=method)[1])


def test_what_is_neither_better_nor_worse_is_in_no_family():
    rows = rows_of([1, 0] * 10)
    for row in rows:
        row["boxes"] = [[0, 0, 1, 1]]
    found = one(compare({"a": rows, "b": rows}), "a", "b", "box_rate")
    assert (found.family, found.p_adjusted, found.better) == (None, None, None)
