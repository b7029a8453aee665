"""Whole stages on the embedded model: the real sample, and the quickstart."""

import json

import pytest
from helpers import metrics_of

from kit.data.prepare import PrepareConfig, prepare
from kit.demo.quickstart import QuickstartConfig, quickstart
from kit.evaluate.config import EvaluateConfig
from kit.evaluate.evaluation import evaluate
from kit.prompting.messages import MODES
from kit.train.config import SftConfig
from kit.train.sft import train


@pytest.mark.slow
def test_real_sample_from_original_layouts_to_scored_answers(realdata, tmp_path):
    """Both sets prepared, 30 SFT steps, every test row of both answered and scored."""
    for split in ("train", "test"):
        report = prepare(
            PrepareConfig(
                output=str(tmp_path / f"{split}.json"),
                dataset="both",
                split=split,
                slake_root=str(realdata / "SLAKE"),
                vqa_rad_root=str(realdata / "VQA_RAD"),
            )
        )
        assert report["rows_out"] > 0
    train(
        SftConfig(
            base_model="tiny",
            data=str(tmp_path / "train.json"),
            output_dir=str(tmp_path / "sft"),
            freeze_vision_tower=False,
            max_steps=30,
            per_device_train_batch_size=8,
            learning_rate=3e-3,
            logging_steps=1,
            save_steps=0,
            report_to=["none"],
        )
    )
    lines = (tmp_path / "sft" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    evaluate(
        EvaluateConfig(
            adapter=str(tmp_path / "sft"),
            data=str(tmp_path / "test.json"),
            train_data=str(tmp_path / "train.json"),
            output=str(tmp_path / "evaluation"),
            per_device_eval_batch_size=48,
            max_new_tokens=96,
        )
    )
    n = len((tmp_path / "test.json").read_text().splitlines())
    rows = (tmp_path / "evaluation" / "predictions.jsonl").read_text().splitlines()
    metrics = metrics_of(tmp_path / "evaluation")
    assert metrics["n"] == n
    assert len(rows) == n * len(MODES)
    for mode in MODES:
        for name in ("exact/all", "llava_med/open_recall", "medevalkit/total"):
            assert 0 <= metrics[f"{mode}/{name}"] <= 1
        assert metrics[f"{mode}/floor/question_only"] > 0
    datasets = {json.loads(row)["dataset"] for row in rows}
    assert datasets == {"SLAKE", "VQA_RAD"}


@pytest.mark.slow
def test_quickstart_in_small(tmp_path, capsys):
    config = QuickstartConfig(
        output_dir=str(tmp_path / "run"),
        train_images=16,
        test_images=4,
        sft_epochs=0.5,
        grpo_records=16,
        grpo_steps=2,
    )
    assert quickstart(config) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary["metrics"]) == {"base", "sft", "grpo"}
    assert list(summary["seconds"]) == [
        "phantoms", "prepare_data", "evaluate_base", "train_sft", "evaluate_sft", "cf_proxy",
        "train_grpo", "evaluate_grpo",
    ]  # fmt: skip
    trained = {json.loads(x)["image"] for x in (tmp_path / "run/data/train.json").open()}
    tested = {json.loads(x)["image"] for x in (tmp_path / "run/data/test.json").open()}
    assert not trained & tested
    printed = capsys.readouterr().out
    assert "exact match" in printed
    assert str(tmp_path / "run") in printed
