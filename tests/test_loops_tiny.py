"""Whole stages on the embedded model and the real sample: what they leave is what was computed,
worked out again from the rows."""

import pytest
from helpers import rows
from worked_out import lines_of, require_worked_out

from kit.data.prepare import PrepareConfig, prepare
from kit.evaluate.config import EvaluateConfig
from kit.evaluate.evaluation import evaluate
from kit.train.config import SftConfig
from kit.train.sft import train


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
