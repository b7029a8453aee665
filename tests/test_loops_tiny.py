"""Whole stages on the embedded model, the real sample and the quickstart: what they leave is what
was computed, worked out again from the rows."""

import json
from collections import Counter
from pathlib import Path

import pytest
from helpers import adapter_of, metrics_of, most_apart, rows
from PIL import Image

from kit.data.prepare import PrepareConfig, prepare
from kit.demo.config import QuickstartConfig
from kit.demo.quickstart import quickstart
from kit.evaluate.config import EvaluateConfig
from kit.evaluate.evaluation import evaluate
from kit.prompting.messages import MODES, REQUIRED_KEYS
from kit.scoring.accuracy import score_answer
from kit.train.config import SftConfig
from kit.train.sft import train


def lines_of(path: Path) -> list[dict]:
    return rows(path.parent, path.name)


def simple(text: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def floor_by_hand(trained: list[dict], question: dict) -> str:
    """The commonest training answer to the question, else to its content type, else of all."""
    same = [r for r in trained if simple(r["question"]) == simple(question["question"])]
    alike = [r for r in trained if r["content_type"] == question["content_type"]]
    counts = Counter(r["answer"].lower().strip() for r in same or alike or trained)
    return min(counts, key=lambda answer: (-counts[answer], answer))


def require_worked_out(folder: Path, data: Path, train_data: Path, modes=MODES) -> None:
    """``metrics.json`` from the texts of ``predictions.jsonl`` and the gold answers of the data."""
    asked, trained = lines_of(data), lines_of(train_data)
    found, metrics = lines_of(folder / "predictions.jsonl"), metrics_of(folder)
    assert metrics["n"] == len(asked)
    assert len(found) == len(asked) * len(modes)
    for mode in modes:
        own = [row for row in found if row["mode"] == mode]
        values: dict[str, list[float]] = {}
        for row, question in zip(own, asked, strict=True):
            assert (row["question"], row["gold"]) == (question["question"], question["answer"])
            kind, gold = question["answer_type"], question["answer"]
            scores = score_answer(row["answer"], gold, answer_type=kind)
            guess = score_answer(floor_by_hand(trained, question), gold, answer_type=kind)
            told = {
                "exact/all": scores["exact"],
                f"exact/{kind.lower()}": scores["exact"],
                f"exact/dataset/{question['dataset']}": scores["exact"],
                "llava_med/open_recall": scores["llava_med/open_recall"],
                "llava_med/closed_accuracy": scores["llava_med/closed_accuracy"],
                "medevalkit/total": scores["medevalkit/total"],
                "json_valid_rate": row["valid_json"],
                "truncated_rate": row["truncated"],
                "floor/question_only": guess["exact"],
            }
            if row["valid_json"]:
                said = json.loads(row["text"])
                assert said.keys() >= set(REQUIRED_KEYS[mode])
                assert row["answer"] == said["answer"]
                if "boxes" in REQUIRED_KEYS[mode]:
                    assert row["boxes"] == said["boxes"]
            for name, value in told.items():
                if value is not None:
                    values.setdefault(name, []).append(float(value))
        for name, each in values.items():
            assert metrics[f"{mode}/{name}"] == pytest.approx(sum(each) / len(each)), name
            assert metrics[f"{mode}/{name}/n"] == len(each), name
        assert len({row["text"] for row in own}) > len(own) / 8  # it does not always say the same


@pytest.mark.slow
def test_real_sample_from_original_layouts_to_scored_answers(realdata, tmp_path):
    """Both sets prepared, 30 SFT steps, every test row of both answered and scored."""
    for split in ("train", "test"):
        prepare(
            PrepareConfig(
                output=str(tmp_path / f"{split}.json"), dataset="both", split=split,
                slake_root=str(realdata / "SLAKE"), vqa_rad_root=str(realdata / "VQA_RAD"),
            )
        )  # fmt: skip
    trained_on, asked = (tmp_path / f"{split}.json" for split in ("train", "test"))
    assert {row["dataset"] for row in lines_of(asked)} == {"SLAKE", "VQA_RAD"}
    train(
        SftConfig(
            base_model="tiny", data=str(trained_on), output_dir=str(tmp_path / "sft"),
            freeze_vision_tower=False, max_steps=30, per_device_train_batch_size=8,
            learning_rate=3e-3, logging_steps=1, save_steps=0, report_to=["none"],
        )
    )  # fmt: skip
    losses = [row["loss"] for row in rows(tmp_path / "sft")]
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])

    evaluate(
        EvaluateConfig(
            adapter=str(tmp_path / "sft"), data=str(asked), train_data=str(trained_on),
            output=str(tmp_path / "test"), per_device_eval_batch_size=48, max_new_tokens=96,
        )
    )  # fmt: skip
    require_worked_out(tmp_path / "test", asked, trained_on)


@pytest.mark.slow
def test_quickstart_in_small(tmp_path, capsys):
    folder = tmp_path / "run"
    config = QuickstartConfig(
        output_dir=str(folder), train_images=16, test_images=3, sft_epochs=0.5, grpo_records=8,
        grpo_steps=2,
    )  # fmt: skip
    assert quickstart(config) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert list(summary["seconds"]) == [
        "phantoms", "prepare_data", "evaluate_base", "train_sft", "evaluate_sft", "cf_proxy",
        "train_grpo", "evaluate_grpo",
    ]  # fmt: skip
    names = ("base", "sft", "grpo")
    metrics = {name: metrics_of(folder / f"evaluate_{name}") for name in names}
    assert summary["metrics"] == metrics
    data = folder / "data"
    for name in names:
        mode = ("caption_reason_answer",)
        require_worked_out(
            folder / f"evaluate_{name}", data / "test.json", data / "train.json", mode
        )
    trained = {row["image"] for row in lines_of(data / "train.json")}
    assert not trained & {row["image"] for row in lines_of(data / "test.json")}
    assert len(trained) == 16
    assert len(lines_of(data / "grpo.jsonl")) == 8
    assert rows(folder / "grpo")[-1]["step"] == 2
    assert most_apart(adapter_of(folder / "sft"), adapter_of(folder / "grpo")) > 0
    assert Image.open(folder / "examples.png").width > 100
    assert (folder / "report" / "report.html").exists()
    printed = capsys.readouterr().out
    compared = [line.split() for line in printed.splitlines() if line.count("%") == 3]
    shown = [f"{100 * metrics[name]['caption_reason_answer/exact/all']:.1f}%" for name in names]
    assert ["exact", "match", *shown] in compared
    assert str(folder) in printed
