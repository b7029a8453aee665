"""Flips of answers: counted by hand on answers of a stub that looks at pixels."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import metrics_of
from PIL import Image

from kit.counterfactual.images import ImageCache
from kit.counterfactual.probe import Case, probe
from kit.counterfactual.regions import mask_of
from kit.data.records import Region, SftRecord, read_sft_records, write_records
from kit.evaluate import answering, evaluation
from kit.evaluate.answering import Answer, Predictor
from kit.evaluate.config import EvaluateConfig
from kit.evaluate.evaluation import evaluate
from kit.evaluate.flips import interventions_of, measure_flips
from kit.model.processor import Processor
from kit.model.sampler import Completion
from kit.prompting.answers import parse_answer

THINK, MODE = "think_answer", "caption_reason_answer"
WIDTH, HEIGHT = 60, 40
GOLD, CLAIMED = (8, 8, 20, 18), (30, 20, 45, 30)  # pixels; the second is of the grid box below
GRID = [500, 500, 750, 750]


def answer_text(boxes=(), said="Yes") -> str:
    return json.dumps({"caption": "", "reasoning": [], "boxes": list(boxes), "answer": said})


# ------------------------------------------------------------------------ a stub with eyes
def inside(box) -> np.ndarray:
    """(HEIGHT, WIDTH) bool."""
    x1, y1, x2, y2 = box
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y1:y2, x1:x2] = True
    return mask


WATCHED = {
    "evidence": inside(GOLD),
    "rest": ~inside(GOLD),
    "both": inside((0, 0, WIDTH, HEIGHT)),
    "neither": inside((0, 0, 0, 0)),
    "top": inside((0, 0, WIDTH, HEIGHT // 2)),
}


class Eyes:
    """What a stub of the model sees of each prepared image: its pixels. The images are noise of
    two levels, between which every removal lies, so that what is removed is changed, all of it."""

    def __init__(self, folder: Path):
        self.folder, self.originals, self.seen = folder, {}, {}

    def draw(self, name: str) -> str:
        rng = np.random.default_rng(len(self.originals))
        pixels = rng.choice(np.array([20, 220], dtype=np.uint8), size=(HEIGHT, WIDTH))
        path = self.folder / f"{name}.png"
        Image.fromarray(pixels).convert("RGB").save(path)
        self.originals[name] = pixels
        return str(path)

    def changed(self, question: str, image) -> np.ndarray:
        """Where an image differs from the one that the question is about, (HEIGHT, WIDTH) bool;
        the first word of a question names its image."""
        return self.seen[image.key][..., 0] != self.originals[question.split()[0]]

    def answers(self, requests) -> list[str]:
        """No, if anything that the question's second word says to watch has changed."""
        return [
            "No"
            if image is not None
            and (self.changed(question, image) & WATCHED[question.split()[1]]).any()
            else "yes."
            for image, question, _ in requests
        ]

    def probabilities(self, _model, _processor, requests, **_) -> list[float]:
        """0.9, less 0.5 for evidence of which all is gone, less 0.2 for anything else, both times
        the weight that the question's last word is."""
        found = []
        for image, question, _ in requests:
            changed, weight = self.changed(question, image), float(question.split()[-1])
            lost = 0.5 * changed[inside(GOLD)].mean() + 0.2 * changed[~inside(GOLD)].any()
            found.append(0.9 - weight * lost)
        return found


@pytest.fixture
def eyes(tmp_path, monkeypatch):
    eyes, prepare = Eyes(tmp_path), Processor.prepare_image

    def look(self, image):
        prepared = prepare(self, image)
        eyes.seen[prepared.key] = np.asarray(image)
        return prepared

    monkeypatch.setattr(Processor, "prepare_image", look)
    monkeypatch.setattr(Predictor, "answers", lambda _, requests: eyes.answers(requests))
    for module in ("kit.counterfactual.probe", "kit.evaluate.confidence"):
        monkeypatch.setattr(f"{module}.answer_probabilities", eyes.probabilities)
    return eyes


def record_of(eyes, name: str, watched: str, weight: float) -> SftRecord:
    return SftRecord(
        output=answer_text(), image=eyes.draw(name),
        question=f"{name} {watched} {weight}", answer="Yes", dataset="noise", qid=name,
        answer_type="CLOSED", regions=(Region("Liver", GOLD),), image_size=(WIDTH, HEIGHT),
    )  # fmt: skip


def test_what_is_removed_is_the_region_and_its_control_and_nothing_else(eyes, processor):
    """By the pixels that the model is shown, for twenty images of which it watches the top half."""
    cache = ImageCache(processor, "mean")
    predictor = Predictor(None, cache, max_new_tokens=8, batch_size=16)
    items = [
        Answer(record_of(eyes, f"r{n}", "top", 1.0), MODE, parse_answer(answer_text([GRID])))
        for n in range(20)
    ]
    regions = {"gold": [GOLD], "claimed": [CLAIMED], "both": [GOLD, CLAIMED]}
    found = measure_flips(predictor, items, draws=3, seed=0)
    shares = []
    for item, own in zip(items, found, strict=True):
        name, image = item.record.qid, item.record.image
        own = own["flips"]
        assert list(own) == list(regions)
        for source, boxes in regions.items():
            wanted = np.logical_or.reduce([inside(box) for box in boxes])
            flips = own[source]
            shown = [flips["region"], *flips["random_regions"]]
            assert sorted(map(tuple, shown[0])) == sorted(boxes)
            masks = []
            for region in shown:
                key = cache.prepared(image, tuple(map(tuple, region))).key
                changed = eyes.seen[key][..., 0] != eyes.originals[name]
                assert np.array_equal(
                    changed, np.logical_or.reduce([inside(box) for box in region])
                )
                masks.append(changed)
            assert np.array_equal(masks[0], wanted)
            assert len(masks) == 4
            assert all(mask.sum() == wanted.sum() for mask in masks)
            assert not any((mask & wanted).any() for mask in masks[1:])
            seen = [bool((mask & WATCHED["top"]).any()) for mask in masks]
            assert flips["answer"] == ("No" if seen[0] else "yes.")
            assert flips["random_answers"] == ["No" if one else "yes." for one in seen[1:]]
            assert flips["roi"] == seen[0]
            assert flips["random"] == pytest.approx(sum(seen[1:]) / 3)
            shares.append(flips["random"])
    assert len(set(shares)) == 4, "of three random regions none, one, two or all are watched"


# Whose answer flips is known: only without the evidence (three), only without anything else (two),
# without either (one), never (two). What the model claims, in one of the two modes: CLAIMED, or
# nothing.
EIGHT = [
    ("evidence", 1.0, True), ("evidence", 1.0, False), ("evidence", 1.0, False),
    ("rest", 1.0, True), ("rest", 0.5, False), ("both", 0.5, True), ("neither", 0.5, True),
    ("neither", 0.5, False),
]  # fmt: skip
BY_HAND = {
    # 3 + 1 of 8 without the evidence, 2 + 1 of 8 without a random region
    "roi_flip_rate": 4 / 8, "random_flip_rate": 3 / 8, "flip_gap": 1 / 8, "flip_gap/n": 8,
    # weights add up to 6 of 8
    "roi_drop": 0.375, "random_drop": 0.15, "drop_gap": 0.225,
    # a blank image and another one change what six watch; with none all say yes
    "exact/all": 1, "exact/blank": 2 / 8, "exact/shuffled": 2 / 8, "exact/question_only": 1,
    "changed/blank": 6 / 8, "changed/shuffled": 6 / 8, "changed/question_only": 0,
    "image_sensitivity": 6 / 8, "exact/all/n": 8,
}  # fmt: skip
BY_HAND_CLAIMED = {
    # of evidence, rest, both, neither: those that watch more than the evidence
    "claimed_roi_flip_rate": 2 / 4, "claimed_flip_gap/n": 4, "claimed_roi_drop": 0.2 * 0.75,
    # and those that watch anything
    "both_roi_flip_rate": 3 / 4, "both_flip_gap/n": 4, "both_roi_drop": 0.7 * 0.75,
    "box_rate": 4 / 8,
}  # fmt: skip


def test_evaluation_reports_what_was_counted_by_hand(
    eyes, base_model, processor, tmp_path, monkeypatch
):
    """A whole evaluation of eight questions; nothing of it but the stub's answers is stubbed."""
    records = [
        record_of(eyes, f"r{n}", watched, weight) for n, (watched, weight, _) in enumerate(EIGHT)
    ]
    claims = {r.question: claim for r, (*_, claim) in zip(records, EIGHT, strict=True)}

    def answer(_, given, batch):
        done = []
        for request in batch:
            for index in request.records:
                says = claims[given[index].question] and request.mode == MODE
                ids = processor.encode(answer_text([GRID] if says else []))
                ids = (*ids, processor.end_of_turn_id)
                done.append((index, request.mode, Completion(ids, (0.0,) * len(ids), False)))
        return done

    monkeypatch.setattr(evaluation, "answer", answer)
    monkeypatch.setattr(answering, "load_model", lambda *_: (base_model, processor))
    monkeypatch.setattr(answering, "require_room", lambda *_: 100)
    write_records(tmp_path / "data.json", records)
    config = EvaluateConfig(
        data=str(tmp_path / "data.json"), output=str(tmp_path / "out"), base_model="tiny",
        counterfactual=True, consistency=False, inpainting="mean", random_draws=2,
    )  # fmt: skip
    assert evaluate(config) == 0
    metrics = metrics_of(tmp_path / "out")
    for mode in (THINK, MODE):
        for name, value in BY_HAND.items():
            assert metrics[f"{mode}/{name}"] == pytest.approx(value), f"{mode}/{name}"
    for name, value in BY_HAND_CLAIMED.items():
        assert metrics[f"{MODE}/{name}"] == pytest.approx(value), name
    assert not [n for n in metrics if n.startswith((f"{THINK}/claimed", f"{THINK}/both"))]


# ------------------------------------------------------------------------- the embedded model
@pytest.fixture
def answers(prepared):
    records = [r for r in read_sft_records(prepared["test"])[0] if r.regions][:4]
    boxes = ([0, 0, 200, 200], None, [0, 0, 1000, 1000], [100, 100, 300, 300])
    return [
        Answer(record, MODE, parse_answer(answer_text([box] if box else [])))
        for record, box in zip(records, boxes, strict=True)
    ]


def test_regions_of_an_answer(answers):
    """Claimed ones where there are any, both together, and no control for the whole image."""
    cache = ImageCache(None)
    found = interventions_of(cache, answers, 2, 0)
    assert ["claimed" in own for own in found] == [True, False, True, True]
    for item, own in zip(answers, found, strict=True):
        gold = mask_of(own["gold"].region, item.record.image_size)
        for intervention in own.values():
            for control in intervention.controls:
                assert control != intervention.region
                assert not (mask_of(control, item.record.image_size) & gold).any()
        if "both" in own:
            assert {*own["both"].region} == {*own["gold"].region, *own["claimed"].region}
    assert found[2]["claimed"].controls == found[2]["both"].controls == ()
    assert any(intervention.controls for own in found for intervention in own.values())
    unknown = dataclasses.replace(answers[0].record, image_size=None)
    again = interventions_of(cache, [dataclasses.replace(answers[0], record=unknown)], 2, 0)
    assert again == found[:1], "the size of an image is that of the image"


def test_what_has_no_control_is_left_out_and_told(answers, base_model, processor):
    """And the drops of the others are those of the probe, of the answer that was given, one record
    at a time."""
    predictor = Predictor(base_model, ImageCache(processor), max_new_tokens=8, batch_size=4)
    found = measure_flips(predictor, answers, draws=2, seed=0)
    measured = 0
    for item, own in zip(answers, found, strict=True):
        (every,) = interventions_of(predictor.image_cache, [item], 2, 0)
        assert {*own["flips"], *own["unmatched"]} == {*every}
        for source, intervention in every.items():
            assert (source in own["unmatched"]) == (not intervention.controls)
            if not intervention.controls:
                continue
            record, flips = item.record, own["flips"][source]
            case = Case(
                record.image, record.question, "Yes", intervention.region, intervention.controls
            )
            (effect,) = probe(predictor.model, predictor.image_cache, [case])
            assert flips["drop_roi"] == pytest.approx(effect.delta_roi, abs=1e-5)
            assert flips["drop_random"] == pytest.approx(effect.delta_rand, abs=1e-5)
            assert flips["control_change"] == pytest.approx(flips["region_change"], rel=0.3)
            measured += 1
    assert measured
    assert "claimed" in found[2]["unmatched"]
