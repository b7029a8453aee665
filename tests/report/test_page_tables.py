"""The tables of the page: bold is what is surely best, green and red what surely differs."""

import pytest

from kit.report.comparison import Comparison
from kit.report.page_tables import beside_published, headlines, strata, summary
from kit.report.statistics import Difference

MODE = "think_answer"


def metrics_of(**values) -> dict[str, float]:
    found = {}
    for name, value in values.items():
        key = f"{MODE}/{name.replace('__', '/')}"
        found |= {key: value, f"{key}/low": value - 0.1, f"{key}/high": value + 0.1, f"{key}/n": 50}
    return found


def apart(a, b, metric, mean, p_adjusted=0.01, ends=0.1) -> Comparison:
    low, high = (mean - ends, mean + ends) if ends else (None, None)
    difference = Difference(mean, low, high, 0.001, 50, 19)
    return Comparison(a, b, MODE, metric, difference, None, "other", p_adjusted)


def bold(lines, words) -> list[bool]:
    (line,) = [line for line in lines if line["words"] == words]
    return [cell["best"] for cell in line["cells"]]


MODELS = {
    "a": metrics_of(exact__all=0.3, excess_aurc=0.3),
    "b": metrics_of(exact__all=0.5, excess_aurc=0.1),
    "c": metrics_of(exact__all=0.6, excess_aurc=0.05),
}


@pytest.mark.parametrize(
    ("last", "expected"),
    [(0.05, [False, False, True]), (0.051, [False, False, False])],
)
def test_bold_is_what_is_better_than_every_other_model_by_more_than_chance(last, expected):
    comparisons = [
        apart("a", "b", "exact/all", 0.2),
        apart("a", "c", "exact/all", 0.3),
        apart("b", "c", "exact/all", 0.2, last),
    ]
    assert bold(summary(MODELS, comparisons, MODE), "exact match") == expected
    assert bold(headlines(MODELS, comparisons, MODE), "exact match") == expected


def test_less_is_better_where_it_is():
    comparisons = [
        apart("a", "b", "excess_aurc", -0.2),
        apart("a", "c", "excess_aurc", -0.3),
        apart("b", "c", "excess_aurc", 0.05),
    ]
    lines = [*summary(MODELS, comparisons, MODE)]
    assert bold(lines, "... above the oracle's") == [False, True, False]
    (line,) = [line for line in lines if line["words"] == "... above the oracle's"]
    kinds = [[change["kind"] for change in cell["changes"]] for cell in line["cells"]]
    assert kinds == [[], ["good"], ["good", "bad"]]
    assert line["cells"][2]["changes"][0]["text"] == "-0.300 [-0.400, -0.200] vs a"


@pytest.mark.parametrize(
    ("p_adjusted", "ends", "kind", "text"),
    [(0.06, 0.1, "soft", "+30.0 [+20.0, +40.0] vs a"), (0.05, 0, "good", "+30.0 vs a")],
)
def test_colour_goes_by_the_corrected_p_value_and_not_by_the_interval(p_adjusted, ends, kind, text):
    found = [apart("a", "b", "exact/all", 0.3, p_adjusted, ends)]
    line = next(summary({"a": MODELS["a"], "b": MODELS["b"]}, found, MODE))
    (change,) = line["cells"][1]["changes"]
    assert change == {"text": text, "kind": kind, "sure": kind == "good"}


def test_one_model_alone_is_best_at_nothing():
    assert bold(summary({"a": MODELS["a"]}, [], MODE), "exact match") == [False]


def test_n_is_a_range_where_models_differ():
    other = MODELS["b"] | {f"{MODE}/exact/all/n": 40}
    (line,) = [x for x in summary({"a": MODELS["a"], "b": other}, [], MODE) if x["n"] == "40-50"]
    assert line["words"] == "exact match"


def test_ours_beside_published_figures_are_of_their_dataset():
    name = f"{MODE}/llava_med/open_recall/dataset/SLAKE"
    found = [*beside_published({"a": {name: 0.7}}, {"SLAKE": 1061, "VQA_RAD": 60}, MODE)]
    ours = {(f["dataset"], f["words"]): (f["ours"], f["whole"]) for f in found}
    assert ours["SLAKE", "LLaVA-Med open recall"] == (["70.0%"], True)
    assert ours["VQA_RAD", "LLaVA-Med open recall"] == (["-"], False)
    assert not any("LLaVA-Med" in f["words"] for f in beside_published({"a": {}}, {}, MODE))


def test_strata_are_grouped_and_named():
    values = {
        "exact/all": 0.5, "exact/open": 0.4, "exact/modality/CT": 0.6, "exact/evidence/organ": 0.7,
        "exact/modality/PET/CT": 0.9,
        "exact/evidence/xray_lesion": 0.2, "exact/blank": 0.1,
    }  # fmt: skip
    metrics = {f"{MODE}/{k}{end}": v for k, v in values.items() for end in ("", "/low", "/high")}
    metrics |= {f"{MODE}/{k}/n": 7 for k in values}
    (table,) = strata({"a": metrics}, MODE)
    lines = {(line["group"], line["name"]): line["cells"][0]["text"] for line in table["lines"]}
    assert lines == {
        ("answer type", "open"): "40.0%", ("modality", "CT"): "60.0%",
        ("modality", "PET/CT"): "90.0%",
        ("evidence", "organ"): "70.0%", ("evidence", "X-ray lesion"): "20.0%",
    }  # fmt: skip


def test_gaps_stand_by_how_much_painting_over_changes():
    values = {"drop_gap": 0.1, "drop_gap/change/faint": 0.0, "drop_gap/change/strong": 0.3}
    metrics = {f"{MODE}/{k}": v for k, v in values.items()} | {f"{MODE}/{k}/n": 7 for k in values}
    (table,) = strata({"a": metrics}, MODE)
    assert table["words"] == "probability drop, evidence - controls"
    lines = [(line["name"], line["cells"][0]["text"]) for line in table["lines"]]
    assert lines == [("faint, below 10 of 255", "+0.0"), ("strong, above 40", "+30.0")]
