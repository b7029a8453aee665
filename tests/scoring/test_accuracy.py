"""One answer under all conventions, and the means of many."""

import json
import random
from collections import defaultdict

import pytest

from kit.prompting.answers import normalise
from kit.scoring.accuracy import KEYS, aggregate, score_answer

ANSWERS = ["yes", "no", "Normal", "Lung", "Lung, Heart", "left lung", "", "10", "not seen."]


def random_rows(count: int, seed: int):
    draw = random.Random(seed)
    rows, scores = [], []
    for _ in range(count):
        row = {
            "answer_type": draw.choice(["OPEN", "CLOSED"]),
            "modality": draw.choice(["CT", "MRI", ""]),
            "location": draw.choice(["Lung", "Brain_Face"]),
            "content_type": draw.choice(["Organ", "PRES, ABN", "PRES", ""]),
            "dataset": draw.choice(["SLAKE", "VQA_RAD"]),
        }
        rows.append(row)
        answers = draw.choice(ANSWERS), draw.choice(ANSWERS)
        scores.append(score_answer(*answers, answer_type=row["answer_type"]))
    return scores, rows


def test_keys_are_stable_and_the_other_type_s_are_none():
    closed = score_answer("Lung", "lung", answer_type="CLOSED")
    opened = score_answer("Lung", "lung", answer_type="OPEN")
    unknown = score_answer("Lung", "lung", answer_type="")
    assert tuple(closed) == tuple(opened) == tuple(unknown) == KEYS
    assert {k for k, v in unknown.items() if v is not None} == {"exact"}
    both = {k for k in KEYS if closed[k] is not None and opened[k] is not None}
    assert both == {"exact", "medevalkit/total"}
    assert all(closed[k] is not None or opened[k] is not None for k in KEYS)
    assert closed["llava_med/closed_accuracy"] == 0
    assert closed["medevalkit/closed"] == closed["medevalkit/total"] == 1
    assert opened["medevalkit/open_exact"] == opened["medevalkit/total"] == 1


def test_total_is_the_accuracy_over_both_types():
    scores, rows = random_rows(500, seed=1)
    metrics = aggregate(scores, rows)
    hits = sum(s["medevalkit/closed"] or s["medevalkit/open_exact"] or 0 for s in scores)
    assert metrics["medevalkit/total"] == pytest.approx(hits / 500)


def test_aggregate_is_the_mean_over_the_records_that_it_applies_to():
    scores, rows = random_rows(700, seed=2)
    columns = defaultdict(list)
    for values, row in zip(scores, rows, strict=True):
        for key in KEYS[1:]:
            if values[key] is not None:
                columns[key].append(values[key])
        exact = values["exact"]
        columns["exact/all"].append(exact)
        columns["exact/open" if row["answer_type"] == "OPEN" else "exact/closed"].append(exact)
        columns[f"exact/location/{row['location']}"].append(exact)
        columns[f"exact/dataset/{row['dataset']}"].append(exact)
        if row["modality"]:
            columns[f"exact/modality/{row['modality']}"].append(exact)
        for part in row["content_type"].split(", "):
            if part:
                columns[f"exact/content/{part}"].append(exact)
    metrics = aggregate(scores, rows)
    assert metrics.keys() == columns.keys()
    for name, values in columns.items():
        assert metrics[name] == pytest.approx(sum(values) / len(values), abs=1e-12), name


def test_metrics_that_apply_to_nothing_are_absent():
    row = {"answer_type": "OPEN"}
    metrics = aggregate([score_answer("lung", "lung", answer_type="OPEN")], [row])
    assert "exact/closed" not in metrics
    assert "llava_med/closed_accuracy" not in metrics
    assert metrics["exact/all"] == metrics["exact/open"] == 1
    assert aggregate([], []) == {}


def test_a_score_without_its_row_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        aggregate([{"exact": 1.0}], [])


def test_gold_answers_of_the_real_sample_match_themselves(realdata):
    rows = []
    for split in ("train", "validate", "test"):
        for row in json.loads((realdata / "SLAKE" / f"{split}.json").read_text(encoding="utf-8")):
            rows.append((row["answer"], row["answer_type"], row["q_lang"]))
    public = realdata / "VQA_RAD" / "VQA_RAD Dataset Public.json"
    for row in json.loads(public.read_text(encoding="utf-8")):
        rows.append((str(row["answer"]), row["answer_type"].strip(), "en"))
    assert len(rows) > 500
    for answer, answer_type, language in rows:
        if not answer:
            continue
        scores = score_answer(answer, answer, answer_type=answer_type)
        assert scores["exact"] == 1, answer
        assert scores["medevalkit/total"] == 1, answer
        if answer_type == "OPEN":
            assert scores["llava_med/open_recall"] == 1, answer
        elif normalise(answer) in ("yes", "no"):
            assert scores["llava_med/closed_accuracy"] == 1, answer
        elif language == "en" and "no" not in answer.lower():
            assert scores["llava_med/closed_accuracy"] == 0, answer
