"""Models whose boxes count other things than thousandths: converted before anything reads them."""

import json

import numpy as np
import pytest
from helpers import rows

from kit.data.boxes import CONVENTIONS
from kit.data.grpo_records import read_grpo_records
from kit.evaluate.answering import Predictor, convention_of
from kit.evaluate.cf_proxy import cf_proxy
from kit.evaluate.config import CfProxyConfig, EvaluateConfig
from kit.evaluate.evaluation import evaluate
from kit.files import write_jsonl
from kit.model.families import teaches_grid
from kit.model.load import load_base, load_processor
from kit.model.sampler import Completion
from kit.share.config import ExportConfig
from kit.share.export import export

SMALL = {"max_pixels": 12_544, "max_new_tokens": 8}  # so that images are resized


@pytest.fixture
def data(prepared, tmp_path):
    """One question an image whose evidence is one box, and the box by the image's path."""
    chosen = {}
    for row in rows(prepared["test"].parent, "test.json"):
        if len(row["regions"]) == 1:
            row["image"] = str((prepared["test"].parent / row["image"]).resolve())
            chosen.setdefault(row["image"], row)
    write_jsonl(tmp_path / "data.json", chosen.values())
    return {image: row["regions"][0]["box_xyxy_pixels"] for image, row in chosen.items()}


@pytest.fixture
def speaking(data, monkeypatch):
    """Have models name the evidence, in a convention."""

    def speak(convention: str) -> None:
        def complete(self, prompts):
            paths = {self.image_cache.prepared(path).key: path for path in data}
            done = []
            for prompt in prompts:
                path = paths[prompt.trunk.image_keys[0]]
                size, resized = self.image_cache.size(path), self.resized(path)
                assert size != resized
                sides = {"grid_1000": (1000, 1000), "pixels": size, "unit": (1, 1)}
                box = np.array(data[path]) / (size * 2) * (sides.get(convention, resized) * 2)
                numbers = [round(v, 4) if convention == "unit" else round(v) for v in box.tolist()]
                text = json.dumps(
                    {"caption": "c", "reasoning": [], "boxes": [numbers], "answer": "a"}
                )
                ids = (*self.processor.encode(text), self.processor.end_of_turn_id)
                done.append([Completion(ids, (0.0,) * len(ids), False)] * len(prompt.continuations))
            return done

        monkeypatch.setattr(Predictor, "complete", complete)

    return speak


def evaluated(tmp_path, **options) -> tuple[dict, list[dict]]:
    config = EvaluateConfig(
        data=str(tmp_path / "data.json"), output=str(tmp_path / "out"), base_model="tiny",
        prompting_mode="caption_reason_answer", consistency=False, **SMALL | options,
    )  # fmt: skip
    assert evaluate(config) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    return metrics, rows(tmp_path / "out", "predictions.jsonl")


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_boxes_are_scored_where_the_model_means_them(speaking, data, tmp_path, convention, capsys):
    speaking(convention)
    metrics, found = evaluated(tmp_path, answer_boxes=convention)
    assert metrics["caption_reason_answer/json_valid_rate"] == 1.0
    assert metrics["caption_reason_answer/iou/mean"] > 0.85
    assert len(found) == len(data) > 2
    for row in found:
        (box,) = row["boxes"]
        assert box == [int(v) for v in box]
        width, height = row["image_size"]
        grid = np.array(data[row["image"]]) * 1000 / (width, height, width, height)
        assert np.abs(grid - box).max() < 12  # a pixel of the resized image is up to 9
        assert row["answer_boxes"] == convention
    said = f"boxes in answers count {convention}; converted to the 0..1000 grid"
    assert (said in capsys.readouterr().out) == (convention != "grid_1000")
    converted = None if convention == "grid_1000" else len(found)
    assert metrics.get("n_boxes_converted") == converted


def test_without_the_convention_pixels_are_taken_for_thousandths(speaking, tmp_path):
    speaking("resized_pixels")
    metrics, found = evaluated(tmp_path)
    assert metrics["caption_reason_answer/iou/mean"] < 0.2
    assert {row["answer_boxes"] for row in found} == {"grid_1000"}


def test_claims_that_the_proxy_takes_away_are_where_the_model_means_them(speaking, data, tmp_path):
    """Of questions without gold boxes, whose claims are the evidence."""
    stripped = [row | {"regions": []} for row in rows(tmp_path, "data.json")]
    write_jsonl(tmp_path / "data.json", stripped)
    speaking("resized_pixels")
    config = CfProxyConfig(
        data=str(tmp_path / "data.json"), output=str(tmp_path / "grpo.jsonl"), base_model="tiny",
        answer_boxes="resized_pixels", **SMALL,
    )  # fmt: skip
    assert cf_proxy(config) == 0
    for record in read_grpo_records(tmp_path / "grpo.jsonl")[0]:
        assert record.valid_json
        (box,) = record.cf_boxes
        assert np.abs(np.array(box) - data[record.image]).max() < 5


def test_models_count_as_their_family_does_until_the_kit_trained_them(
    base_of_family, trained, tmp_path
):
    own = {"qwen2_vl": "grid_1000", "qwen2_5_vl": "resized_pixels", "qwen3_vl": "grid_1000"}
    for model_type, expected in own.items():
        model = load_base(base_of_family(model_type))
        assert convention_of("auto", model, None) == expected
        assert convention_of("auto", model, "an adapter") == "grid_1000"
        assert convention_of("pixels", model, None) == "pixels"
    assert export(ExportConfig(adapter=str(trained["sft"]), output=str(tmp_path / "m"))) == 0
    settings = json.loads((tmp_path / "m" / "config.json").read_text())
    assert settings["answer_boxes"] == "grid_1000"
    qwen2_5 = load_base(base_of_family("qwen2_5_vl"))
    teaches_grid(qwen2_5.config)
    qwen2_5.save_pretrained(tmp_path / "trained")
    load_processor(base_of_family("qwen2_5_vl")).save(tmp_path / "trained")
    assert convention_of("auto", load_base(str(tmp_path / "trained")), None) == "grid_1000"
