"""Questions that show several images: from anybody's file to the page, and that a box is a box of
its own image and of no other."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import metrics_of
from helpers import rows as rows_of
from PIL import Image

from kit.counterfactual.images import ImageCache
from kit.data.audit import find_leaks
from kit.data.canvas import Canvas
from kit.data.columns import Layout
from kit.data.grpo_records import GrpoRecord
from kit.data.questions import RawQuestion
from kit.data.records import read_sft_records, write_records
from kit.errors import DataError
from kit.evaluate.ablations import blank, other_images
from kit.evaluate.answering import Answer, Predictor
from kit.evaluate.cf_proxy import cf_proxy
from kit.evaluate.config import CfProxyConfig, EvaluateConfig
from kit.evaluate.evaluation import evaluate
from kit.evaluate.flips import measure_flips
from kit.files import write_jsonl
from kit.grpo import grpo, rollout
from kit.grpo.config import GrpoConfig
from kit.model.decoding import Sampling
from kit.model.processor import PreparedImage
from kit.model.sampler import Completion
from kit.prompting.answers import parse_answer
from kit.scoring.grounding import grounding_scores
from kit.train import sft
from kit.train.config import SftConfig

MODE = "caption_reason_answer"
SIZES = {"before.png": (90, 70), "after.png": (120, 100)}
NODULE = [40.0, 30.0, 70.0, 60.0]  # pixels of after.png
PIXELS = Layout(box_convention="pixels", box_format="xyxy")


@pytest.fixture
def folder(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        pixels = rng.choice(np.array([20, 220], np.uint8), size=(height, width))
        Image.fromarray(pixels).convert("RGB").save(tmp_path / name)
    return tmp_path


def written(folder: Path, form: str, box: object = None) -> Path:
    """A file with one question about both images and a box in the second."""
    box = box or {"image": 2, "label": "Nodule", "box": NODULE}
    row = {"question": "What is new?", "answer": "A nodule", "boxes": [box]}
    shown = list(SIZES)
    if form == "list":
        write_jsonl(folder / "own.jsonl", [row | {"images": shown}])
        return folder / "own.jsonl"
    columns = {"image_1": shown[0], "image_2": shown[1]}
    cells = {"image": json.dumps(shown)} if form == "text" else columns
    row |= {"boxes": json.dumps(row["boxes"])} | cells
    with (folder / "own.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, row)
        table.writeheader()
        table.writerow(row)
    return folder / "own.csv"


@pytest.fixture
def record(folder):
    return read_sft_records(written(folder, "list"), layout=PIXELS)[0][0]


@pytest.mark.parametrize("form", ["list", "text", "columns"])
def test_a_question_of_two_images_is_read_and_taught(form, folder):
    (record,), _ = read_sft_records(written(folder, form), layout=PIXELS, decode_images=True)
    assert record.shown == tuple(str(folder / name) for name in SIZES)
    assert [(r.image, r.box_xyxy_pixels) for r in record.regions] == [(2, tuple(NODULE))]
    target = json.loads(record.output)
    assert target["boxes"] == [[2, 333, 300, 583, 600]]
    assert "of image 2." in " ".join(target["reasoning"])
    write_records(folder / "prepared.json", [record])
    assert read_sft_records(folder / "prepared.json")[0] == [record]


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ({"image": 3, "box": NODULE}, "image 3, but the question shows 2"),
        ({"image": 1, "box": [0, 0, 100, 60]}, "outside the image of 90x70"),
        ([2, 0, 0, 130, 60], "outside the image of 120x100"),
        ({"image": "after", "box": NODULE}, "must name an image by number"),
    ],
)
def test_a_box_of_no_image_is_refused(box, message, folder):
    with pytest.raises(DataError) as raised:
        read_sft_records(written(folder, "list", box), layout=PIXELS)
    assert message in str(raised.value.problems[0])


def test_what_is_taken_away_is_taken_from_its_own_image(record, processor):
    """And the control lies in the same image, whose pixels alone are prepared anew."""
    cache = ImageCache(processor, "mean")
    canvas = cache.canvas(record.shown)
    region = tuple(tuple(map(int, box)) for box in canvas.gold(record.regions))
    first, second = map(cache.prepared, record.shown)
    both, without = cache.prepared_all([(record.shown, ()), (record.shown, region)])
    assert both.keys == (first.key, second.key)
    assert torch.equal(both.pixel_values, torch.cat([first.pixel_values, second.pixel_values]))
    own = cache.prepared(record.shown[1], ((40, 30, 70, 60),))
    assert without.keys == (first.key, own.key) != both.keys
    assert cache.change(record.shown, region) == cache.change(record.shown[1], ((40, 30, 70, 60),))
    parts = [((0, 0, 20, 10),), ((0, 0, 60, 40),)]
    whole = tuple(canvas.place(box, n) for n, (box,) in enumerate(parts, 1))
    each = [cache.change(path, own) for path, own in zip(record.shown, parts, strict=True)]
    assert cache.change(record.shown, whole) == pytest.approx(
        (200 * each[0] + 2400 * each[1]) / 2600, rel=1e-6
    )
    controls = cache.controls(record.shown, region, draws=3, seed=0)
    assert controls
    for control in controls:
        ((), (moved,)) = canvas.by_image(control)
        assert 0 <= moved[0] < moved[2] <= 120
        assert 0 <= moved[1] < moved[3] <= 100


@pytest.mark.parametrize("watched", [1, 2])
def test_a_model_that_watches_one_image_flips_with_that_one(
    watched, record, base_model, processor, monkeypatch
):
    """A stub that says no when anything in one of the images has changed."""
    cache = ImageCache(processor, "mean")
    known = [cache.prepared(path).key for path in record.shown]

    def answers(_, asks):
        return [
            "Yes" if image is not None and image.keys[watched - 1] == known[watched - 1] else "No"
            for image, _, _ in asks
        ]

    monkeypatch.setattr(Predictor, "answers", answers)
    said = {"caption": "", "reasoning": [], "boxes": [[1, 100, 100, 400, 400]], "answer": "Yes"}
    predictor = Predictor(base_model, cache, max_new_tokens=8, batch_size=4)
    parsed = parse_answer(json.dumps(said), frames=predictor.frames(record.shown))
    assert parsed.valid_json
    (found,) = measure_flips(predictor, [Answer(record, MODE, parsed)], draws=2, seed=0)
    assert found["flips"]["gold"]["roi"] == found["flips"]["gold"]["random"] == (watched == 2)
    assert found["flips"]["claimed"]["roi"] == (watched == 1)
    assert found["flips"]["both"]["roi"] == 1


def test_what_stands_in_for_several_images_are_as_many(record, base_model, processor):
    predictor = Predictor(base_model, ImageCache(processor), max_new_tokens=8, batch_size=4)
    shown = predictor.image_cache.prepared(record.shown)
    assert blank(predictor, record.shown).places == shown.places
    third = replace(record, image=record.image.replace("before", "third"))
    alone = replace(record, more_images=())
    assert set(other_images([record, third, alone], seed=0)) == {record.shown, third.shown}


def test_a_question_leaks_by_any_of_its_images(folder):
    """The test split asks the same of the second image alone."""
    train, test = (
        RawQuestion(
            "own", "", split, "Is there a mass?", "No", "CLOSED", folder / shown[0], (9, 9),
            f"{split}:1", more_images=tuple(folder / name for name in shown[1:]),
        )
        for split, shown in (("train", list(SIZES)), ("test", list(SIZES)[1:]))
    )  # fmt: skip
    assert len(find_leaks([train], [test])) == len(find_leaks([test], [train])) == 1


def test_the_right_box_on_the_wrong_image_is_worth_nothing(record):
    canvas = Canvas(tuple(SIZES.values()))
    gold = canvas.gold(record.regions)
    right, wrong = (
        grounding_scores([(image, 333, 300, 583, 600)], gold, canvas) for image in (2, 1)
    )
    assert right.iou > 0.99
    assert wrong.iou == 0


def test_a_completion_names_the_image_of_its_boxes(record, base_model, processor, monkeypatch):
    said = '{"caption": "", "reasoning": [], "boxes": [[2, 0, 0, 9, 9]], "answer": "No"}'
    ids = tuple(processor.encode_answer(said))
    done = [[Completion(ids, (0.0,) * len(ids), False)] * 2]
    monkeypatch.setattr(rollout, "generate", lambda *_, **__: done)
    two = GrpoRecord(record.image, "Is it?", "No", more_images=record.more_images)
    for task, valid in ((two, True), (replace(two, more_images=()), False)):
        (group,) = rollout.roll_out(
            base_model, ImageCache(processor), [rollout.Task(0, task)], Sampling(8),
            num_generations=2, seed=0,
        )  # fmt: skip
        assert [parsed.valid_json for parsed in group.parsed] == [valid] * 2
        assert group.parsed[0].boxes == (((2, 0, 0, 9, 9),) if valid else ())


def test_equal_images_are_seen_once_and_a_prompt_numbers_them(record, processor):
    image = ImageCache(processor).prepared(record.shown[0])
    trunk = processor.encode_trunk(PreparedImage.together([image, image]), MODE)
    assert trunk.image_keys == image.keys * 2
    text = processor.tokenizer.decode(trunk.input_ids)
    assert text.count("<|image_pad|>") == 2 * image.n_tokens
    assert text.index("Image 1: <|vision_start|>") < text.index("Image 2: <|vision_start|>")


@pytest.mark.slow
def test_every_stage(prepared, tmp_path):
    """Two phantoms a question, and a box in one of them."""
    records, _ = read_sft_records(prepared["test"])
    images = list(dict.fromkeys(record.image for record in records))
    after = dict(zip(images, [*images[1:], images[0]], strict=True))
    rows = [
        {
            "images": [r.image, after[r.image]][:: 1 if n % 2 else -1],
            "question": r.question,
            "answer": r.answer,
            "boxes": [
                {"image": 1 if n % 2 else 2, "label": g.label, "box": g.box_xyxy_pixels}
                for g in r.regions
            ],
        }
        for n, r in enumerate(records)
        if r.regions
    ][:8]
    write_jsonl(tmp_path / "two.jsonl", rows)
    common = {"data": str(tmp_path / "two.jsonl")}
    told = {"box_convention": "pixels", "box_format": "xyxy"}
    sft.train(
        SftConfig(
            **common, **told, base_model="tiny", output_dir=str(tmp_path / "sft"), max_steps=30,
            learning_rate=2e-3, lora_r=8, save_steps=0, report_to=["none"], prompting_mode=MODE,
            freeze_vision_tower=True,
        )
    )  # fmt: skip
    asked = {"adapter": str(tmp_path / "sft"), "max_new_tokens": 120, "random_draws": 1}
    grpo_data = tmp_path / "grpo.jsonl"
    assert cf_proxy(CfProxyConfig(**common, **told, **asked, output=str(grpo_data))) == 0
    measured = rows_of(tmp_path, grpo_data.name)
    assert all(len(row["more_images"]) == 1 for row in measured)
    assert any(row["delta_cf_roi"] is not None for row in measured)
    grpo.train(
        GrpoConfig(
            base_model="tiny", sft_ckpt=asked["adapter"], data=str(grpo_data), max_steps=1,
            output_dir=str(tmp_path / "grpo"), num_generations=2, max_completion_length=120,
            per_device_train_batch_size=2, save_steps=0, report_to=["none"], random_draws=1,
        )
    )  # fmt: skip
    (tmp_path / "evaluated").mkdir()
    evaluated = EvaluateConfig(
        **common, **told, **asked, output=str(tmp_path / "evaluated"), prompting_mode=MODE,
        counterfactual=True,
    )  # fmt: skip
    assert evaluate(evaluated) == 0
    metrics = metrics_of(tmp_path / "evaluated")
    assert metrics[f"{MODE}/iou/mean/n"] == len(rows)
    assert metrics[f"{MODE}/json_valid_rate"] > 0, "boxes are learned with the number of theirs"
    page = (tmp_path / "evaluated" / "report.html").read_text()
    names = [Path(path).name for path in rows[0]["images"]]
    assert ", ".join(names) in page
