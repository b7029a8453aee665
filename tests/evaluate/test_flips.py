"""Flips of answers: counted by hand on answers that a stub gives."""

import pytest
from helpers import metrics_of

from kit.counterfactual.gallery import Gallery
from kit.data.records import read_sft_records
from kit.evaluate import flips as module
from kit.evaluate.config import EvaluateConfig
from kit.evaluate.evaluation import evaluate, summarise
from kit.evaluate.flips import Answered, greedy_answers, measure_flips, removals_of
from kit.prompting.answers import parse_answer

MODE = "caption_reason_answer"


@pytest.fixture
def answers(prepared):
    records = [r for r in read_sft_records(prepared["test"])[0] if r.regions][:4]
    text = '{{"caption": "", "reasoning": [], "boxes": {}, "answer": "Yes"}}'
    boxes = ("[[0, 0, 200, 200]]", "[]", "[[0, 0, 1000, 1000]]", "[[100, 100, 300, 300]]")
    return [
        Answered(record, MODE, parse_answer(text.format(box)))
        for record, box in zip(records, boxes, strict=True)
    ]


def test_regions_of_an_answer(answers):
    found = [removals_of(item, 2, 0) for item in answers]
    assert ["claimed" in own for own in found] == [True, False, False, True]
    for own in found:
        for removal in own.values():
            assert len(removal.random) == 2
            assert removal.region not in removal.random


def test_flips_are_what_changes_the_answer(answers, processor, monkeypatch):
    """A stub answers No wherever the gold region is gone, and yes elsewhere."""
    gold = {
        removals_of(item, 2, 0)["gold"].region
        for item in answers
        if "gold" in removals_of(item, 2, 0)
    }

    def stub(model, gallery, asks, max_new_tokens, batch_size):
        return [
            "No" if any(str(region) in image.key for region in gold) else "yes."
            for image, _, _ in asks
        ]

    monkeypatch.setattr(module, "greedy_answers", stub)
    found = measure_flips(
        None, Gallery(processor), answers, draws=2, seed=0, max_new_tokens=9, batch_size=4
    )
    for item, own in zip(answers, found, strict=True):
        assert own.keys() == removals_of(item, 2, 0).keys()
        if "gold" in own:
            assert own["gold"] == {"roi": 1.0, "random": 0.0}
        if "claimed" in own:
            assert own["claimed"] == {"roi": 0.0, "random": 0.0}


def test_equal_questions_are_asked_once(base_model, processor, answers, monkeypatch):
    asked = []
    complete = module.complete

    def counted(model, own, prompts, max_new_tokens):
        asked.extend(prompts)
        return complete(model, own, prompts, max_new_tokens)

    monkeypatch.setattr(module, "complete", counted)
    gallery = Gallery(processor)
    record = answers[0].record
    asks = [(gallery.prepared(record.image), record.question, MODE)] * 3
    said = greedy_answers(base_model, gallery, asks, 60, 2)
    assert len(asked) == 1
    assert len(set(said)) == 1


def test_evaluation_reports_rates_and_gaps(prepared, tmp_path):
    evaluate(
        EvaluateConfig(
            data=str(prepared["test"]), output=str(tmp_path), base_model="tiny", max_records=8,
            max_new_tokens=80, counterfactual=True, random_draws=1,
        )
    )  # fmt: skip
    metrics = metrics_of(tmp_path)
    for mode in ("think_answer", MODE):
        roi, random = metrics[f"{mode}/roi_flip_rate"], metrics[f"{mode}/random_flip_rate"]
        assert metrics[f"{mode}/flip_gap"] == pytest.approx(roi - random)
        assert metrics[f"{mode}/flip_gap/low"] <= metrics[f"{mode}/flip_gap"]
    assert not any(name.startswith("think_answer/claimed") for name in metrics)


def test_rates_are_over_the_answers_that_have_a_region():
    rows = [
        {
            "mode": MODE, "image": str(i), "valid_json": True, "boxes": [],
            "truncated": False, "answer_type": "", "flips": flips,
            "scores": {"exact": 1.0},
        }
        for i, flips in enumerate(
            [
                {"gold": {"roi": 1.0, "random": 0.5}},
                {"gold": {"roi": 0.0, "random": 0.0}, "claimed": {"roi": 1.0, "random": 0.0}},
                {},
            ]
        )
    ]  # fmt: skip
    metrics = summarise(rows)
    assert metrics[f"{MODE}/roi_flip_rate"] == 0.5
    assert metrics[f"{MODE}/random_flip_rate"] == 0.25
    assert metrics[f"{MODE}/flip_gap"] == 0.25
    assert metrics[f"{MODE}/claimed_roi_flip_rate"] == 1.0
