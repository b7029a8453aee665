"""A whole evaluation: what is written, and that its numbers are what they are called."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import metrics_of, rows
from PIL import Image
from ranks import launcher, run

from kit.data.audit import question_only_floor
from kit.data.images import open_image
from kit.data.likeness import volumes_of
from kit.data.records import SftRecord, read_sft_records
from kit.errors import UserError
from kit.evaluate import evaluation
from kit.evaluate.config import EvaluateConfig
from kit.evaluate.evaluation import evaluate, plan
from kit.model.adapters import add_lora, load_adapter
from kit.model.lengths import prompt_lengths
from kit.model.load import load_base
from kit.model.sampler import Completion
from kit.prompting.messages import MODES

pytestmark = pytest.mark.xdist_group("evaluation")  # one worker's, whose tests share it

# What other tools read, in both modes.
PROMISED = (
    "exact/all", "exact/open", "exact/closed", "llava_med/open_recall",
    "llava_med/closed_accuracy", "medevalkit/total", "medevalkit/closed",
    "medevalkit/open_exact", "medevalkit/bleu1", "medevalkit/rougeL", "medevalkit/f1",
    "floor/question_only", "json_valid_rate", "box_rate", "truncated_rate", "aurc",
    "excess_aurc", "ece",
)  # fmt: skip
WITH_BOXES = ("iou/mean", "iou/acc@0.5", "pointing", "iou/mean/n")


def config(prepared, folder, **changes) -> EvaluateConfig:
    options = {"base_model": "tiny", "max_new_tokens": 8} | changes
    return EvaluateConfig(data=str(prepared["test"]), output=str(folder), **options)


def evaluated(options: EvaluateConfig) -> dict[str, float]:
    assert evaluate(options) == 0
    return metrics_of(Path(options.output))


def rows_of(folder) -> list[dict]:
    return rows(folder, "predictions.jsonl")


def texts_of(folder) -> list[str]:
    return [row["text"] for row in rows_of(folder)]


@pytest.fixture(scope="module")
def plain(prepared, tmp_path_factory):
    """The embedded model as it is: the folder and its metrics."""
    folder = tmp_path_factory.mktemp("plain")
    return folder, evaluated(config(prepared, folder, train_data=str(prepared["train"])))


@pytest.fixture(scope="module")
def records(prepared):
    return read_sft_records(prepared["test"])[0]


def test_files_hold_a_row_a_record_and_mode(plain, records):
    folder, metrics = plain
    written = {"predictions.jsonl", "metrics.json", "report.html", "setting.json"}
    assert {path.name for path in folder.iterdir()} == written
    rows = rows_of(folder)
    expected = [(r.image, r.qid, r.question, r.answer, mode) for r in records for mode in MODES]
    keys = ("image", "qid", "question", "gold", "mode")
    assert [tuple(row[key] for key in keys) for row in rows] == expected
    for row, record in zip(rows[::2], records, strict=True):
        for key in ("dataset", "answer_type", "content_type", "modality", "location"):
            assert row[key] == getattr(record, key)
    assert any(row["text"] for row in rows)
    assert all(row["truncated"] for row in rows)  # 8 tokens are not an answer
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert (metrics["n"], metrics["n_dropped"]) == (len(records), 0)


def test_promised_names_are_there_and_finite(plain):
    _, metrics = plain
    promised = {f"{mode}/{name}" for mode in MODES for name in PROMISED}
    promised |= {f"caption_reason_answer/{name}" for name in WITH_BOXES}
    assert promised <= set(metrics)
    assert all(type(v) in (int, float) and math.isfinite(v) for v in metrics.values())
    counts = {name for name in metrics if name.endswith("/n") or name in ("n", "n_dropped")}
    differences = ("excess", "above_floor", "gap", "drop")
    shares = [
        value
        for name, value in metrics.items()
        if name not in counts and not any(word in name for word in differences)
    ]
    assert all(0 <= value <= 1 for value in shares)
    for name in metrics.keys() - counts:
        start = name.removesuffix("/low").removesuffix("/high")
        assert f"{start}/n" in metrics
        assert (f"{start}/low" in metrics) == (f"{start}/high" in metrics)


# -------------------------------------------------------------------- answers that are known
def shifted(box: list[int]) -> list[int]:
    """A box of the same size that overlaps the first by half."""
    x1, y1, x2, y2 = box
    half = (x2 - x1) // 2
    return [x1 + half, y1, x2 + half, y2] if x2 + half <= 1000 else [x1 - half, y1, x2 - half, y2]


def scripted(number: int, record, mode: str) -> str:
    """By turns: the gold object, one with a wrong answer and a shifted box, prose, a fragment."""
    gold = json.loads(record.output)
    if mode == "think_answer":
        gold = {key: gold[key] for key in ("reasoning", "answer")}
    wrong = gold | {"answer": "a purple elephant"}
    if "boxes" in gold:
        wrong["boxes"] = [shifted(box) for box in gold["boxes"]]
    text = json.dumps(gold)
    return [text, json.dumps(wrong), f"It is {record.answer}", text[: len(text) // 2]][number % 4]


@pytest.fixture(scope="module")
def known(prepared, records, tmp_path_factory):
    """An evaluation in which the model says what ``scripted`` says."""
    numbers = {(record.image, record.question): n for n, record in enumerate(records)}

    def answer(predictor, given, batch):
        processor, result = predictor.processor, []
        for ask in batch:
            for index in ask.records:
                record = given[index]
                number = numbers[record.image, record.question]
                ids = processor.encode(scripted(number, record, ask.mode))
                cut = number % 4 == 3
                ids = tuple(ids if cut else [*ids, processor.end_of_turn_id])
                result.append((index, ask.mode, Completion(ids, (0.0,) * len(ids), cut)))
        return result

    folder = tmp_path_factory.mktemp("known")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "answer", answer)
        metrics = evaluated(config(prepared, folder, train_data=str(prepared["train"]), seed=3))
    return rows_of(folder), metrics


def test_texts_come_back_as_they_were_said(known, records):
    rows, _ = known
    said = [scripted(n, r, mode) for n, r in enumerate(records) for mode in MODES]
    assert [row["text"] for row in rows] == said


@pytest.mark.parametrize("mode", MODES)
def test_rates_are_those_of_the_script(mode, known, records):
    _, metrics = known
    n = len(records)
    turns = [number % 4 for number in range(n)]
    has_boxes = [bool(json.loads(r.output)["boxes"]) for r in records]
    expected = {
        "json_valid_rate": sum(turn < 2 for turn in turns) / n,
        "truncated_rate": sum(turn == 3 for turn in turns) / n,
    }
    if mode == "think_answer":
        expected["box_rate"] = 0
    else:
        sure = sum(b and turn < 2 for b, turn in zip(has_boxes, turns, strict=True))
        assert metrics[f"{mode}/box_rate"] >= sure / n
    for name, value in expected.items():
        assert metrics[f"{mode}/{name}"] == pytest.approx(value), name
    assert f"think_answer/{WITH_BOXES[0]}" not in metrics


@pytest.mark.parametrize("mode", MODES)
def test_exact_is_the_share_of_gold_answers(mode, known, records):
    """Whole objects with the gold answer count, a wrong answer and a cut-off one do not; whether
    prose does is for the scorer's own tests."""
    rows, metrics = known
    own = [row for row in rows if row["mode"] == mode]
    assert [own[n]["scores"]["exact"] for n in range(0, len(own), 4)] == [1.0] * len(own[::4])
    assert not any(own[n]["scores"]["exact"] for n in range(1, len(own), 4))
    assert not any(own[n]["scores"]["exact"] for n in range(3, len(own), 4))
    groups = {
        "all": lambda row: True,
        "open": lambda row: row["answer_type"] == "OPEN",
        "closed": lambda row: row["answer_type"] == "CLOSED",
        **{f"modality/{m}": lambda row, m=m: row["modality"] == m for m in ("CT", "MRI", "X-Ray")},
        "content/Position": lambda row: row["content_type"] == "Position",
    }
    for name, chosen in groups.items():
        values = [row["scores"]["exact"] for row in own if chosen(row)]
        if values:
            assert metrics[f"{mode}/exact/{name}"] == pytest.approx(np.mean(values)), name
        else:
            assert f"{mode}/exact/{name}" not in metrics


@pytest.mark.parametrize("mode", MODES)
def test_every_other_score_is_the_mean_of_its_rows(mode, known):
    rows, metrics = known
    own = [row for row in rows if row["mode"] == mode]
    for key in own[0]["scores"]:
        values = [row["scores"][key] for row in own if row["scores"][key] is not None]
        name = f"{key}/all" if key in ("exact", "relaxed") else key
        if values:
            assert metrics[f"{mode}/{name}"] == pytest.approx(np.mean(values)), key


def test_grounding_against_counted_pixels(known, records):
    """IoU by painting the boxes of each row on a canvas."""
    rows, metrics = known
    regions = {(r.image, r.question): r for r in records}
    ious = []
    for row in rows:
        record = regions[row["image"], row["question"]]
        assert ("grounding" in row) == (row["mode"] == MODES[1] and bool(record.regions))
        if "grounding" not in row:
            continue
        width, height = record.image_size
        to_pixels = np.array([width, height, width, height]) / 1000
        scale = 4  # cells a pixel
        canvases = []
        for boxes in (
            [box.box_xyxy_pixels for box in record.regions],
            [np.array(box) * to_pixels for box in row["boxes"]],
        ):
            canvas = np.zeros((height * scale, width * scale), dtype=bool)
            for x1, y1, x2, y2 in (np.round(np.array(b) * scale).astype(int) for b in boxes):
                canvas[y1:y2, x1:x2] = True
            canvases.append(canvas)
        union = (canvases[0] | canvases[1]).sum()
        ious.append((canvases[0] & canvases[1]).sum() / union if union else 0.0)
        assert row["grounding"]["iou"] == pytest.approx(ious[-1], abs=0.03)
    assert len(ious) == metrics["caption_reason_answer/iou/mean/n"] >= 4
    assert metrics["caption_reason_answer/iou/mean"] == pytest.approx(np.mean(ious), abs=0.03)
    assert max(ious) > 0.9
    assert min(ious) < 0.5


@pytest.mark.parametrize("mode", MODES)
def test_floor_asks_no_model(mode, known, prepared, records):
    rows, metrics = known
    floor = question_only_floor(read_sft_records(prepared["train"])[0], records)
    own = [row for row in rows if row["mode"] == mode]
    assert [row["floor"]["answer"] for row in own] == floor
    mean = np.mean([row["floor"]["exact"] for row in own])
    assert metrics[f"{mode}/floor/question_only"] == pytest.approx(mean)
    assert metrics[f"{MODES[0]}/floor/question_only"] == metrics[f"{MODES[1]}/floor/question_only"]


@pytest.mark.parametrize("mode", MODES)
def test_few_images_give_no_bounds_and_each_n_is_that_of_its_rows(mode, known):
    rows, metrics = known
    assert len({row["image"] for row in rows}) < 10
    assert not [name for name in metrics if name.endswith(("/low", "/high"))]
    own = [row for row in rows if row["mode"] == mode]
    values = {
        "exact/all": lambda row: row["scores"]["exact"],
        "exact/open": lambda row: row["scores"]["exact"] if row["answer_type"] == "OPEN" else None,
        "exact/closed": lambda row: (
            row["scores"]["exact"] if row["answer_type"] == "CLOSED" else None
        ),
        "json_valid_rate": lambda row: float(row["valid_json"]),
        "box_rate": lambda row: float(bool(row["boxes"])),
    }
    if mode == "caption_reason_answer":
        values["iou/mean"] = lambda row: row.get("grounding", {}).get("iou")
    for name, value in values.items():
        found = [value(row) for row in own if value(row) is not None]
        assert metrics[f"{mode}/{name}"] == pytest.approx(np.mean(found)), name
        assert metrics[f"{mode}/{name}/n"] == len(found), name


# ------------------------------------------------------------------------ which model answers
@pytest.mark.slow
def test_neither_batches_nor_other_modes_change_an_answer(plain, prepared, tmp_path):
    """One question at a time, in one mode, without the floor."""
    folder, _ = plain
    for mode in MODES:
        changes = {"per_device_eval_batch_size": 1, "prompting_mode": mode, "max_records": 9}
        metrics = evaluated(config(prepared, tmp_path / mode, **changes))
        alone = rows_of(tmp_path / mode)
        together = [row for row in rows_of(folder) if row["mode"] == mode][:9]
        assert alone == [{k: v for k, v in row.items() if k != "floor"} for row in together]
        assert metrics["n"] == 9
        assert not [name for name in metrics if "/" in name and not name.startswith(mode)]
        assert f"{mode}/floor/question_only" not in metrics


def test_slices_of_one_scan_are_one_volume(tmp_path):
    """Nearly equal images of one dataset; an equal one of another dataset is another scan."""
    rng = np.random.default_rng(0)
    scan = rng.integers(0, 200, (64, 64))
    drawn = {"a": scan, "b": scan + rng.integers(0, 4, scan.shape), "c": scan[::-1], "d": scan}
    records = []
    for name, pixels in drawn.items():
        Image.fromarray(pixels.astype(np.uint8)).convert("RGB").save(tmp_path / f"{name}.png")
        dataset = "other" if name == "d" else "one"
        path = str(tmp_path / f"{name}.png")
        records.append(SftRecord("{}", path, "q", "a", dataset=dataset))
    found = volumes_of(records)
    assert found.keys() == {record.image for record in records}
    a, b, c, d = (found[record.image] for record in records)
    assert a == b
    assert len({a, c, d}) == 3
    together = [dataclasses.replace(records[2], more_images=(records[0].image,)), records[3]]
    found = volumes_of([*records, *together])
    assert found[records[2].image] == found[records[0].image] == a, "a question shows both"
    assert found[records[3].image] == d


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    """An adapter that changes what the embedded model says."""
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    model = add_lora(load_base("tiny"), r=4, alpha=8, dropout=0.0, freeze_vision_tower=False)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.4)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.mark.slow
def test_adapter_and_merged_model_say_the_same(plain, adapter, processor, prepared, tmp_path):
    merged = load_adapter(load_base("tiny"), adapter).merge_and_unload()
    merged.save_pretrained(tmp_path / "model")
    processor.save(tmp_path / "model")
    evaluate(config(prepared, tmp_path / "adapted", adapter=str(adapter)))
    evaluate(config(prepared, tmp_path / "merged", base_model=str(tmp_path / "model")))
    evaluate(config(prepared, tmp_path / "named", base_model="", adapter=str(adapter)))
    adapted = texts_of(tmp_path / "adapted")
    assert adapted == texts_of(tmp_path / "merged") == texts_of(tmp_path / "named")
    assert sum(a != b for a, b in zip(adapted, texts_of(plain[0]), strict=True)) > len(adapted) / 2


def test_quantized_base_answers(prepared, tmp_path):
    changes = {"quantization": "nf4", "max_records": 3, "prompting_mode": "think_answer"}
    assert evaluated(config(prepared, tmp_path, **changes))["n"] == 3
    assert len(rows_of(tmp_path)) == 3


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_plan_asks_everything_once_within_the_batch_size(batch_size, records):
    batches = plan(records, MODES, batch_size)
    asked = [(i, ask.mode) for batch in batches for ask in batch for i in ask.records]
    assert sorted(asked) == sorted((i, mode) for i in range(len(records)) for mode in MODES)
    for batch in batches:
        assert 0 < sum(len(ask.records) for ask in batch) <= batch_size
        for ask in batch:
            assert {records[i].image for i in ask.records} == {ask.image}


@pytest.mark.parametrize("size", [(1, 1), (29, 5000), (300, 40), (157, 158), (700, 699)])
def test_prompts_are_counted_as_they_are_made(size, processor, records, tmp_path):
    """The count that is checked before a model runs, from an image's header alone."""
    Image.new("L", size).save(tmp_path / "a.png")
    record = dataclasses.replace(records[0], image=str(tmp_path / "a.png"))
    image = processor.prepare_image(open_image(record.image))
    for mode in MODES:
        made = len(processor.encode_trunk(image, mode))
        made += len(processor.encode_question(record.question, mode))
        assert prompt_lengths([record], processor, mode) == [made]


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(plain, prepared, tmp_path):
    """As this one did, in batches of another size."""
    done = run(
        [
            *launcher("cpu"), "launch/evaluate.py", "--base_model", "tiny", "--data",
            str(prepared["test"]), "--train_data", str(prepared["train"]), "--output",
            str(tmp_path), "--max_new_tokens", "8", "--batch_size", "5",
        ]
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("predictions, metrics and report.html are in") == 1
    for name in ("predictions.jsonl", "metrics.json"):
        assert (tmp_path / name).read_bytes() == (plain[0] / name).read_bytes()


def test_a_sentence_encoder_that_is_not_there_is_told_before_a_model_is_loaded(
    prepared, tmp_path, monkeypatch
):
    monkeypatch.setattr(evaluation, "loaded_predictor", None)
    with pytest.raises(UserError, match="cannot load the sentence encoder"):
        evaluate(config(prepared, tmp_path, consistency_model=str(tmp_path / "nowhere")))
