"""Causal recall: what it says of models that look at what decides an answer, at anything, at
nothing; each a stub that sees pixels. And that evaluation writes it for phantoms alone."""

import dataclasses
import functools
import hashlib
import json
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import metrics_of, rows
from PIL import Image

from kit.counterfactual.images import ImageCache
from kit.data.phantom.causes import read_causes
from kit.data.phantom.dataset import draw_without, write_slake_phantoms
from kit.data.records import SftRecord, read_sft_records, write_records
from kit.data.slake import read_slake
from kit.evaluate import causal
from kit.evaluate.ablations import GREY
from kit.evaluate.answering import Answer, Predictor
from kit.evaluate.causal import measure_causes
from kit.evaluate.config import EvaluateConfig
from kit.evaluate.evaluation import evaluate
from kit.model.processor import PreparedImage, Processor
from kit.prompting.answers import parse_answer
from kit.report.metrics import summarise_mode

MODE = "caption_reason_answer"
SURE, UNSURE = 0.9, 0.2
VISIBLE = 12  # grey levels, to the stubs


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> list[SftRecord]:
    """All questions of 16 phantoms, image by image."""
    root = tmp_path_factory.mktemp("slake")
    write_slake_phantoms(root, images={"test": 16}, seed=5)
    return [
        SftRecord(
            output="{}", image=str(q.image), question=q.question, answer=q.answer,
            dataset="SLAKE", qid=q.qid, answer_type=q.answer_type, image_size=q.image_size,
        )
        for q in read_slake(root, "test")[0]
    ]  # fmt: skip


@pytest.fixture
def measure(records, processor, monkeypatch):
    """The rows and metrics of a stub that sees so much of what it goes by (0..1): ``looks`` takes
    where an image differs from the whole one, where what decides the question lies, both
    ``(height, width)`` bool, and the pixels. It gives the true answer to the whole image, and while
    it sees half or more; else what is true of the twin, or ``other``."""
    seen = {}

    def look(_self, image):
        pixels = np.asarray(image)
        key = hashlib.sha256(pixels.tobytes()).hexdigest()
        seen[key] = pixels
        return PreparedImage((key,), torch.empty(0), torch.tensor([[1, 2, 2]]), (1,))

    def measured(looks, other=None, of=records) -> tuple[list[dict], dict[str, float]]:
        found = []
        for path, group in groupby(of, key=lambda record: record.image):
            asked = list(group)
            whole = np.asarray(Image.open(path).convert("RGB")).astype(int)
            causes = read_causes(path)
            true = {record.question: record.answer for record in asked}

            def sees(image, question, whole=whole, causes=causes, true=true) -> float:
                things = causes.of[question, true[question]].things if causes else ()
                place = causes.mask(things) if things else np.zeros(whole.shape[:2], bool)
                pixels = seen[image.key]
                return looks(np.abs(whole - pixels).max(axis=2) > VISIBLE, place, pixels)

            def probabilities(_model, _processor, asks, sees=sees, **_):
                return [UNSURE + (SURE - UNSURE) * sees(image, q) for image, q, _ in asks]

            def answers(_self, asks, sees=sees, true=true, causes=causes):
                return [
                    true[q] if sees(image, q) >= 0.5 else other or causes.of[q, true[q]].without
                    for image, q, _ in asks
                ]

            monkeypatch.setattr(causal, "answer_probabilities", probabilities)
            monkeypatch.setattr(Predictor, "answers", answers)
            predictor = Predictor(None, ImageCache(processor), 8, 16)
            given = [
                Answer(record, MODE, parse_answer(json.dumps({"answer": record.answer})))
                for record in asked
            ]
            image = predictor.image_cache.prepared(path)
            likely = probabilities(None, None, [(image, r.question, "") for r in asked])
            own = measure_causes(predictor, given, likely, draws=2, seed=0)
            found += [
                {**record.facts(), "mode": MODE, "scores": {"exact": 1.0}} | row
                for record, row in zip(asked, own, strict=True)
            ]
        return found, summarise_mode(found)

    monkeypatch.setattr(Processor, "prepare_image", look)
    monkeypatch.setattr(causal, "draw_without", drawn_once)
    return measured


drawn_once = functools.cache(draw_without)


def is_blank(pixels: np.ndarray) -> bool:
    return bool((pixels == GREY).all())


def the_cause(changed, place, pixels) -> float:
    return changed[place].sum() <= 0.1 * place.sum()


def anything(changed, place, pixels) -> float:
    return not changed.any()


def the_amount(changed, place, pixels) -> float:
    """Forgets with every pixel that changes, wherever it is."""
    return 0.0 if is_blank(pixels) else np.exp(-8 * changed.mean())


def the_kind_of_scan(changed, place, pixels) -> float:
    return not is_blank(pixels)


def all_around(changed, place, pixels) -> float:
    """Everything but what decides: the body, the frame."""
    return not changed[~place].any()


def test_a_model_that_looks_at_the_cause_alone(measure):
    found, metrics = measure(the_cause)
    assert metrics["causal/recall"] > 0.9
    assert metrics["causal/control"] < 0.1
    assert metrics["causal/gap/low"] > 0.4
    assert metrics["twin/both_right"] > 0.9
    kinds = {row["causal"]["kind"] for row in found if row["causal"]["things"]}
    assert len(kinds) > 9
    assert {f"causal/recall_all/asked/{kind}" for kind in kinds} <= metrics.keys()
    of = [metrics[f"causal/recall_all/evidence/{name}/n"] for name in ("lesion", "organ")]
    assert sum(of) == metrics["causal/recall_all/n"]
    placed = [row for row in found if row["causal"]["things"]]
    assert metrics["causal/placed"] == pytest.approx(len(placed) / len(found))
    assert 0.3 < metrics["causal/placed"] < 0.7
    assert {row["causal"]["by"] for row in placed} == {"drawn"}
    assert metrics["causal/unmatched_rate"] < 0.5
    assert metrics["causal/recall/n"] < metrics["causal/recall_all/n"] == len(placed)


def test_a_model_that_reacts_to_any_change_has_no_gap(measure):
    _, metrics = measure(anything)
    assert metrics["causal/recall"] == metrics["causal/control"] == 1
    assert metrics["causal/gap"] == 0


def test_a_model_that_reacts_to_how_much_changes_has_no_gap(measure):
    _, metrics = measure(the_amount)
    assert 0.1 < metrics["causal/recall"] < 0.9
    assert abs(metrics["causal/gap"]) < 0.04


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_a_model_that_ignores_the_image_has_none(measure, share):
    """And is wrong on every twin, whose answer is another one."""
    _, metrics = measure(lambda changed, place, pixels: share, "Yes")
    assert not [n for n in metrics if n.startswith(("causal/recall", "causal/control", "causal/g"))]
    assert metrics["causal/placed"] > 0
    assert metrics["twin/both_right"] == 0


def test_a_model_that_tells_the_kind_of_scan_has_nothing_of_the_cause(measure):
    _, metrics = measure(the_kind_of_scan)
    assert metrics["causal/recall"] == metrics["causal/control"] == metrics["causal/gap"] == 0
    assert metrics["twin/both_right"] == 0


def test_a_model_that_looks_all_around_is_worse_than_none(measure):
    _, metrics = measure(all_around)
    assert metrics["causal/recall"] < 0.4
    assert metrics["causal/control"] > 0.9
    assert metrics["causal/gap"] < -0.5


def test_a_question_that_the_image_barely_helps_counts_for_as_little(measure, records):
    """Answers to which the image gives a hundredth and that react to anything, beside those that
    look: quotients would make them half of the whole."""
    shy = {record.question for record in records[::2]}
    found, metrics = measure(the_cause)
    for row in found:
        likely = row["causal"].get("probability")
        if likely and row["question"] in shy:
            likely |= {"whole": 0.21, "blank": 0.2, "without": 0.2, "controls": [0.2]}
    again = summarise_mode(found)
    assert again["causal/control"] < metrics["causal/control"] + 0.1
    assert again["causal/recall"] > 0.9


@pytest.mark.slow
def test_what_cannot_be_drawn_again_is_painted_over(measure, records, tmp_path):
    """The picture was encoded by another version, say: the file is not what is drawn here."""
    of = []
    for path in dict.fromkeys(record.image for record in records[:40]):
        folder = tmp_path / Path(path).parent.name
        folder.mkdir()
        Image.open(path).save(folder / "source.jpg", quality=91)
        (folder / "causes.json").write_bytes((Path(path).parent / "causes.json").read_bytes())
        new = str(folder / "source.jpg")
        of += [dataclasses.replace(r, image=new) for r in records if r.image == path]
    found, metrics = measure(the_cause, of=of)
    placed = [row["causal"] for row in found if row["causal"]["things"]]
    assert {one["by"] for one in placed} == {"painted"}
    assert not any("twin" in one for one in placed)
    assert metrics["causal/recall"] > 0.8
    assert metrics["causal/control"] == 0
    _, metrics = measure(anything, of=of)
    assert metrics["causal/recall"] == metrics["causal/control"] == 1
    controlled = [one for one in placed if "control_change" in one]
    assert sum(o["control_change"] for o in controlled) == pytest.approx(
        sum(o["change"] for o in controlled), rel=0.15
    )


def test_only_a_question_of_a_phantom_has_a_cause(measure, records, tmp_path):
    """Not another question of its image, nor its question with another answer, nor an image
    without that file."""
    first = [record for record in records if record.image == records[0].image]
    moved = tmp_path / "source.jpg"
    moved.write_bytes(Path(first[0].image).read_bytes())
    strangers = [
        dataclasses.replace(first[0], answer="Nothing"),
        dataclasses.replace(first[1], more_images=(first[0].image,)),
    ]
    measured = [dataclasses.replace(record, image=str(moved)) for record in first]
    found, _ = measure(the_cause, of=measured)
    assert not any("causal" in row for row in found)
    for record in strangers:
        item = Answer(record, MODE, parse_answer('{"answer": "No"}'))
        assert measure_causes(Predictor(None, None, 8, 8), [item], [0.5], draws=1, seed=0) == [{}]


@pytest.mark.slow
def test_evaluation_writes_it_without_being_asked(prepared, tmp_path):
    """With the embedded model, on the questions of one phantom."""
    records = read_sft_records(prepared["test"])[0]
    first = [r for r in records if r.image == records[0].image]
    write_records(tmp_path / "data.json", first)
    config = EvaluateConfig(
        data=str(tmp_path / "data.json"), output=str(tmp_path / "out"), base_model="tiny",
        counterfactual=True, consistency=False, max_new_tokens=4, random_draws=1,
        prompting_mode=MODE,
    )  # fmt: skip
    assert evaluate(config) == 0
    found = rows(tmp_path / "out", "predictions.jsonl")
    assert all("causal" in row for row in found)
    measured = [row["causal"] for row in found if row["causal"]["things"]]
    assert measured
    assert all(0 <= one["probability"]["without"] <= 1 for one in measured)
    assert f"{MODE}/causal/placed" in metrics_of(tmp_path / "out")
