"""Flips of answers: counted by hand on answers that a stub gives."""

import pytest
from helpers import metrics_of

from kit.counterfactual.images import ImageCache
from kit.counterfactual.probe import Case, probe
from kit.data.records import read_sft_records
from kit.evaluate.answering import Answer, Predictor
from kit.evaluate.config import EvaluateConfig
from kit.evaluate.evaluation import evaluate
from kit.evaluate.flips import interventions_of, measure_flips
from kit.prompting.answers import parse_answer

MODE = "caption_reason_answer"


@pytest.fixture
def answers(prepared):
    records = [r for r in read_sft_records(prepared["test"])[0] if r.regions][:4]
    text = '{{"caption": "", "reasoning": [], "boxes": {}, "answer": "Yes"}}'
    boxes = ("[[0, 0, 200, 200]]", "[]", "[[0, 0, 1000, 1000]]", "[[100, 100, 300, 300]]")
    return [
        Answer(record, MODE, parse_answer(text.format(box)))
        for record, box in zip(records, boxes, strict=True)
    ]


@pytest.fixture
def predictor(base_model, processor):
    return Predictor(base_model, ImageCache(processor), max_new_tokens=60, batch_size=4)


def test_regions_of_an_answer(answers):
    found = [interventions_of(item, 2, 0) for item in answers]
    assert ["claimed" in own for own in found] == [True, False, False, True]
    for own in found:
        for intervention in own.values():
            assert len(intervention.random) == 2
            assert intervention.region not in intervention.random
        if "both" in own:
            assert {*own["both"].region} == {*own["gold"].region, *own["claimed"].region}
    assert any("both" in own for own in found)
    assert not any("both" in own and "claimed" not in own for own in found)


def test_flips_are_what_changes_the_answer(answers, predictor, monkeypatch):
    """A stub answers No wherever the gold region is gone, and yes elsewhere."""
    gold = {
        own["gold"].region for own in (interventions_of(a, 2, 0) for a in answers) if "gold" in own
    }

    def stub(self, asks):
        return [
            "No" if any(str(region) in image.key for region in gold) else "yes."
            for image, _, _ in asks
        ]

    monkeypatch.setattr(Predictor, "answers", stub)
    found = measure_flips(predictor, answers, draws=2, seed=0)
    for item, own in zip(answers, found, strict=True):
        removals = interventions_of(item, 2, 0)
        assert own.keys() == removals.keys()
        for source, flips in own.items():
            intervention = removals[source]
            gone = source == "gold"
            assert (flips["roi"], flips["random"]) == (float(gone), 0.0)
            assert flips["answer"] == ("No" if gone else "yes.")
            assert flips["region"] == [list(box) for box in intervention.region]
            assert len(flips["random_answers"]) == len(flips["random_regions"]) == 2


def test_drops_are_those_of_the_probe(answers, predictor):
    """Of the answer that was given, one record at a time."""
    found = measure_flips(predictor, answers, draws=2, seed=0)
    for item, own in zip(answers, found, strict=True):
        for source, intervention in interventions_of(item, 2, 0).items():
            record = item.record
            case = Case(
                record.image, record.question, "Yes", intervention.region, intervention.random
            )
            (effect,) = probe(predictor.model, predictor.image_cache, [case])
            assert own[source]["drop_roi"] == pytest.approx(effect.delta_roi, abs=1e-5)
            assert own[source]["drop_random"] == pytest.approx(effect.delta_rand, abs=1e-5)


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
    for ablation in ("blank", "shuffled", "question_only"):
        assert f"{MODE}/exact/{ablation}" in metrics


def test_a_random_flip_counts_by_its_share(answers, predictor, monkeypatch):
    """A stub answers No without the first of the two random regions, and yes elsewhere."""
    first = {o["gold"].random[0] for o in (removals_of(a, 2, 0) for a in answers) if "gold" in o}
    assert first

    def stub(self, asks):
        return ["No" if any(str(r) in i.key for r in first) else "YES" for i, _, _ in asks]

    monkeypatch.setattr(Predictor, "answers", stub)
    for own in measure_flips(predictor, answers, draws=2, seed=0):
        if "gold" in own:
            assert (own["gold"]["roi"], own["gold"]["random"]) == (0.0, 0.5)
