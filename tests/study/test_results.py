"""What a study says of its systems: numbers that are those of the answers, differences that are
paired, and no more sure than they are."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import rows
from stub_processes import IMAGES, QUESTIONS

from kit.files import write_jsonl
from kit.report.families import holm
from kit.study import study as runner
from kit.study.config import StudyConfig
from kit.study.crossed import estimate, measured_mean
from kit.study.page import write_page
from kit.study.study_file import read_study

MODE = "caption_reason_answer"
SYSTEMS = ["plain", "good", "bad"]


@pytest.fixture
def found(evaluated, tmp_path, monkeypatch) -> dict:
    """``study.json`` of the study, a copy of which is the working folder."""
    shutil.copytree(evaluated, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return json.loads(Path("out/page/study.json").read_text())


def exact_of(system: str, seed: int) -> np.ndarray:
    """(images, questions)."""
    found = rows(Path(f"out/seed{seed}/{system}/evaluate_test"), "predictions.jsonl")
    return np.array([row["scores"]["exact"] for row in found]).reshape(IMAGES, QUESTIONS)


def difference(found: dict, system: str, metric: str = "exact/all") -> dict:
    (one,) = (
        d
        for d in found["views"][0]["differences"]
        if (d["system"], d["metric"]) == (system, metric)
    )
    return one


def test_numbers_are_those_of_the_answers_and_differences_paired_by_seed(found):
    (view,) = found["views"]
    assert (view["mode"], view["questions"], view["images"]) == (MODE, IMAGES * QUESTIONS, IMAGES)
    assert view["inpainting"] == "telea"
    values = {s: np.array([exact_of(s, seed).mean() for seed in range(5)]) for s in view["metrics"]}
    assert list(values) == ["sft", *SYSTEMS]
    for system, by_seed in values.items():
        told = view["metrics"][system]["exact/all"]
        assert told["mean"] == pytest.approx(by_seed.mean())
        assert [*told["seeds"].values()] == pytest.approx(by_seed)
        assert told["n"] == 5 * IMAGES * QUESTIONS
        assert told["low"] < told["mean"] < told["high"]
    for system in SYSTEMS:
        told = difference(found, system)
        assert told["mean"] == pytest.approx((values[system] - values["sft"]).mean())
        assert [*told["seeds"].values()] == pytest.approx(values[system] - values["sft"])


def test_what_the_seeds_share_falls_out_of_a_difference(found):
    """Starts differ by far more than the systems from them: unpaired, nothing could be told."""
    number = np.repeat(np.arange(IMAGES), QUESTIONS)
    start = [measured_mean(exact_of("sft", seed).ravel(), number, IMAGES) for seed in range(5)]
    alone, paired = estimate(start), difference(found, "good")
    assert paired["high"] - paired["low"] < 0.7 * (alone.high - alone.low)
    assert difference(found, "good")["better"] is True
    assert difference(found, "bad")["better"] is False
    assert difference(found, "plain")["better"] is None
    assert (difference(found, "plain")["mean"], difference(found, "plain")["p_value"]) == (0, 1)


def test_primary_metrics_are_corrected_for_the_number_of_systems_each_by_itself(found):
    view = found["views"][0]
    for metric in ("exact/all", "flip_gap", "iou/mean"):
        own = [d for d in view["differences"] if d["metric"] == metric]
        assert [d["system"] for d in own] == [*SYSTEMS]
        assert [d["p_adjusted"] for d in own] == pytest.approx(holm([d["p_value"] for d in own]))
        assert {d["family"] for d in own} == {metric}
    assert difference(found, "good", "flip_gap")["better"] is True
    rest = [d for d in view["differences"] if d["family"] == "other"]
    assert {d["metric"] for d in rest} >= {"ece", "excess_aurc", "exact/open"}
    assert all(d["p_adjusted"] >= d["p_value"] for d in rest)
    neither = [d for d in view["differences"] if d["family"] is None]
    assert {d["metric"] for d in neither} == {"box_rate"}
    assert all(d["p_adjusted"] is None and d["better"] is None for d in neither)


def test_the_page_says_what_was_run_and_who_is_surely_better(found):
    page = Path("out/page/study.html").read_text(encoding="utf-8")
    assert "Exact match: surely more than sft: good +" in page
    assert "surely less than sft: bad -" in page
    assert "Evidence gap: surely more than sft: good +" in page
    assert "no system is surely apart from sft" in page  # in IoU, which is the same for all
    assert "44 of 44 runs are done" in page
    assert "<code>beta: 0.2</code>" in page
    assert "they say nothing about patients" in page
    text = Path("out/page/study.md").read_text(encoding="utf-8")
    assert "**better**" in text
    assert "| bad | 5 |" in text


def test_a_page_of_what_there_is_tells_what_is_missing(found):
    Path("out/seed4/good/evaluate_test/metrics.json").unlink()
    write_page(read_study("small.yaml"), Path("page"))
    now = json.loads(Path("page/study.json").read_text())
    assert now["not_done"] == ["seed4/good/evaluate_test"]
    assert [*difference(now, "good")["seeds"]] == ["0", "1", "2", "3"]
    assert [*difference(now, "bad")["seeds"]] == ["0", "1", "2", "3", "4"]
    page = Path("page/study.html").read_text(encoding="utf-8")
    assert "1 runs are still to be done" in page
    assert "| good | 4 |" in Path("page/study.md").read_text("utf-8").partition("| above sft")[2]


def test_answers_alone_leave_nothing_to_be_done_and_may_lack_the_reference(found):
    """Whose place another evaluation's numbers do not take either."""
    for folder in Path("out").glob("seed*/*/train_*"):
        shutil.rmtree(folder) if folder.is_dir() else None
    for path in Path("out").glob("seed*/sft/evaluate_test/metrics.json"):
        path.unlink()
    for folder in Path("out").glob("seed[12]/good/evaluate_test"):
        without = [row | {"grounding": {}} for row in rows(folder, "predictions.jsonl")]
        write_jsonl(folder / "predictions.jsonl", without)
    write_page(read_study("small.yaml"), Path("page"))
    now = json.loads(Path("page/study.json").read_text())
    assert now["not_done"] == [
        f"seed{seed}/sft/{name}" for seed in range(5) for name in ("train_sft", "evaluate_test")
    ]
    assert not now["views"][0]["differences"]
    assert [*now["views"][0]["metrics"]["good"]["iou/mean"]["seeds"]] == ["0", "3", "4"]
    page = Path("page/study.html").read_text(encoding="utf-8")
    assert "sft, beside which the others would stand, is not evaluated yet" in page
    assert "<td>0.400, -, -, 0.400, 0.400</td>" in page


def test_the_first_evaluation_of_the_file_is_the_main_one_and_no_other(found):
    content = yaml.safe_load(Path("small.yaml").read_text())
    changed = content | {"evaluations": {"first": {}, "test": {}}}
    Path("small.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))
    write_page(read_study("small.yaml"), Path("page"))
    now = json.loads(Path("page/study.json").read_text())
    assert {d["family"] for d in now["views"][0]["differences"]} == {"other", None}
    page = Path("page/study.html").read_text(encoding="utf-8")
    assert "The same, evaluated otherwise: test" in page
    assert "The numbers: " not in page


@pytest.mark.parametrize("drawn", [True, False])
def test_phantoms_are_told_by_their_questions_and_not_by_a_key(drawn, found):
    if not drawn:
        for path in Path("out").glob("seed*/*/evaluate_test/predictions.jsonl"):
            path.write_text(path.read_text().replace("xmlab", "xmlab1"))
    write_page(read_study("small.yaml"), Path("page"))
    for name in ("study.html", "study.md"):
        told = Path("page", name).read_text(encoding="utf-8")
        assert ("they say nothing about patients" in told) == drawn


def test_another_reference_and_a_second_evaluation(found, processes):
    """Of which nothing is primary."""
    content = yaml.safe_load(Path("small.yaml").read_text())
    evaluations = {"test": {}, "ns": {"inpainting": "ns"}}
    changed = content | {"reference": "bad", "evaluations": evaluations}
    Path("small.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))
    assert runner.study(StudyConfig(study="small.yaml")) == 0
    assert len(processes.begun) == 20
    now = json.loads(Path("out/page/study.json").read_text())
    assert difference(now, "sft")["better"] is True
    assert [view["evaluation"] for view in now["views"]] == ["test", "ns"]
    assert {d["family"] for d in now["views"][1]["differences"]} == {"other", None}
    twice = StudyConfig(study="small.yaml", reference="good", page="beside", page_only=True)
    assert runner.study(twice) == 0
    beside = json.loads(Path("beside/study.json").read_text())
    assert beside["reference"] == "good"
    assert difference(beside, "bad")["better"] is False
    assert json.loads(Path("out/page/study.json").read_text()) == now


def test_nothing_evaluated_makes_no_page(written, capsys):
    assert runner.study(StudyConfig(study=str(written()), page_only=True)) == 0
    assert "no page" in capsys.readouterr().out
    assert not Path("out/page").exists()
