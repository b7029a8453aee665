"""Evaluations side by side: what is written."""

import functools
import json
import re
import shutil

import pytest
from helpers import metrics_of, rows

from kit.errors import UserError
from kit.report.cases import KINDS, choose
from kit.report.comparison import REPEATED, compare, correction
from kit.report.report import ReportConfig, report
from kit.report.table import ROWS, metrics_table
from kit.report.verdict import verdict

# what they share is made by one worker of pytest-xdist, while others go on
pytestmark = pytest.mark.xdist_group("report")

MODE = "caption_reason_answer"


def config_of(evaluations, output, **changes) -> ReportConfig:
    entries = [f"{name}={folder}" for name, folder in evaluations.items()]
    return ReportConfig(evaluations=entries, output=str(output), **changes)


def rows_of(folder) -> list[dict]:
    return rows(folder, "predictions.jsonl")


# ------------------------------------------------------------------------------- the files
def test_files_hold_metrics_differences_and_the_verdict(written, evaluations):
    found = json.loads((written / "report.json").read_text())
    metrics = {name: metrics_of(folder) for name, folder in evaluations.items()}
    assert found["metrics"] == metrics
    text = (written / "report.txt").read_text()
    assert text.startswith(metrics_table(metrics))
    by_metric = {(d["mode"], d["metric"]): d for d in found["differences"]}
    exact = by_metric[MODE, "exact/all"]
    name = f"{MODE}/exact/all"
    apart = metrics["sft"][name] - metrics["base"][name]
    assert exact["difference"] == pytest.approx(apart)
    assert (exact["a"], exact["b"], exact["n"]) == ("base", "sft", 14)
    assert (exact["family"], exact["clusters"]) == ("primary", exact["clusters"])
    assert 0 < exact["p_value"] <= exact["p_adjusted"] <= 1
    assert not any("mcnemar" in key for one in found["differences"] for key in one)
    shown = metrics["base"].keys() & metrics["sft"].keys()
    for name in ROWS:
        if f"{MODE}/{name}" in shown:  # but what no question has a value of for both
            few = "claimed" in name or "both" in name or "consistency@" in name
            few |= name in REPEATED or "survival" in name
            assert few or (MODE, name) in by_metric, name
    comparisons = compare({name: rows_of(folder) for name, folder in evaluations.items()})
    for sentence in (*verdict(metrics, comparisons, MODE).lead, correction(comparisons)):
        assert sentence in text


def test_the_same_evaluations_give_the_same_page(written, evaluations, tmp_path):
    report(config_of(evaluations, tmp_path))
    for name in ("report.html", "report.json", "report.txt"):
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


def test_the_page_needs_no_network_and_tells_no_paths(written, evaluations):
    page = (written / "report.html").read_text()
    own = page.replace(script_of_plotly(), "")
    assert not re.findall(r"""(?:src|href)=["']?(?!data:|#)\w""", own)
    assert set(re.findall(r"https?://[^\s\"']+", own)) <= {"http://www.w3.org/2000/svg"}
    assert str(next(iter(evaluations.values())).parent) not in own
    image = rows_of(evaluations["base"])[0]["image"]
    assert image not in own


def test_phantoms_do_not_pass_for_the_dataset_in_whose_layout_they_are(written):
    page = (written / "report.html").read_text()
    assert "they say nothing about patients" in page
    assert "ours are of drawn phantoms" in page
    assert "83.1%" in page  # a published figure stands there all the same


@functools.cache
def script_of_plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def test_one_evaluation_has_a_page_of_its_own(evaluations):
    page = (evaluations["base"] / "report.html").read_text()
    assert "tiny answers:" in page
    assert " vs " not in page.replace(script_of_plotly(), "")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "evaluations is not given"),
        (["a"], "has no name"),
        (["=a"], "has no name"),
        (["a=b", "a=c"], "a name stands twice"),
        (["a=nowhere"], "no metrics.json to read"),
    ],
)
def test_evaluations_that_cannot_be_compared(entries, message, tmp_path):
    with pytest.raises(UserError, match=message):
        report(ReportConfig(evaluations=entries, output=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no predictions.jsonl"), ("{", "not valid JSON"), ('{"mode": 1}', "older version")],
)
def test_predictions_that_cannot_be_read(content, message, evaluations, tmp_path):
    folder = tmp_path / "evaluation"
    folder.mkdir()
    shutil.copy(evaluations["base"] / "metrics.json", folder)
    if content is not None:
        (folder / "predictions.jsonl").write_text(content + "\n")
    with pytest.raises(UserError, match=message):
        report(ReportConfig(evaluations=[f"a={folder}"], output=str(tmp_path / "out")))


# ------------------------------------------------------------------------------- the cases
def test_cases_are_of_their_kind_and_no_more_than_asked_for(evaluations):
    rows = [row for row in rows_of(evaluations["sft"]) if row["mode"] == MODE]
    chosen = choose(rows, each=3)
    for kind in KINDS:
        fitting = [row for row in rows if kind.holds(row)]
        shown = [row for row, kinds in chosen if kind.name in kinds]
        assert len(shown) >= min(3, len(fitting))
        assert all(kind.holds(row) for row in shown)
    assert len({id(row) for row, _ in chosen}) == len(chosen) <= 3 * len(KINDS)
    wrong = [r for r, _ in choose(rows, each=1) if r["scores"]["exact"] < 1]
    surest = max(
        (r for r in rows if r["scores"]["exact"] < 1),
        key=lambda row: row["confidences"]["answer_probability"],
    )
    assert surest in wrong


# ---------------------------------------------------------------------------- the pictures
def test_a_picture_that_is_gone_is_told(evaluations, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(evaluations["base"], folder)
    text = (folder / "predictions.jsonl").read_text()
    (folder / "predictions.jsonl").write_text(text.replace("source.jpg", "elsewhere.jpg"))
    report(ReportConfig(evaluations=[f"a={folder}"], output=str(tmp_path / "out")))
    assert "pictures are missing" in (tmp_path / "out" / "report.html").read_text()
