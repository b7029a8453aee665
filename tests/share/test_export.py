"""An adapter as a model to share: the same model, and a card that says what the folders say."""

import contextlib
import errno
import io
import json
import re
import shutil
import socket
import types
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator
from helpers import rows
from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError
from huggingface_hub.repocard_data import model_index_to_eval_results
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from ranks import launcher, run
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, GenerationConfig, PreTrainedModel

from kit.command import parse, to_yaml
from kit.data.phantom.layout import are_phantoms
from kit.data.records import read_sft_records
from kit.errors import ConfigError, DataError, UserError
from kit.evaluate.answering import load_model
from kit.evaluate.config import EvaluateConfig
from kit.evaluate.evaluation import evaluate
from kit.files import write_json, write_jsonl
from kit.grpo.config import GrpoConfig
from kit.model.adapters import add_lora, load_adapter
from kit.model.families import FAMILIES
from kit.model.folders import base_folder
from kit.model.load import load_base, load_processor
from kit.model.processor import Processor
from kit.model.sampler import Sampling, generate, question_prompt
from kit.prompting.messages import MODES
from kit.report.table import ROWS
from kit.share import export as module
from kit.share.export import ExportConfig, export
from kit.train.config import SftConfig

THINK, MODE = MODES


# -------------------------------------------------------------------------------- ingredients
def metrics_of(exact: float, dataset: str = "SLAKE", n: int = 40, mode: str = MODE) -> dict:
    """What an evaluation leaves, in short."""
    flat = {}
    for name, value in {
        "exact/all": exact, f"exact/dataset/{dataset}": exact, "flip_gap": 0.104, "iou/mean": 0.43,
        "llava_med/open_recall": exact / 2, f"llava_med/open_recall/dataset/{dataset}": exact / 2,
    }.items():  # fmt: skip
        bounds = {"/low": value - 0.05, "/high": value + 0.06, "/n": n}
        flat |= {f"{mode}/{name}{end}": v for end, v in {"": value, **bounds}.items()}
    return flat | {"n": n, "n_dropped": 0}


def evaluated(folder: Path, metrics: dict) -> str:
    folder.mkdir(parents=True)
    write_json(folder / "metrics.json", metrics)
    return f"{folder.name}={folder}"


def draw_adapter(base: str, processor, folder: Path) -> None:
    torch.manual_seed(0)
    model = add_lora(load_base(base), r=4, alpha=8, dropout=0.0, freeze_vision_tower=False)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.03)
    model.save_pretrained(folder, save_embedding_layers=False)
    processor.save(folder)


@pytest.fixture(scope="module")
def adapter(processor, prepared, tmp_path_factory) -> str:
    """The folder of a run, whose adapter was drawn instead of trained: that takes no time, and
    changes every layer."""
    folder = tmp_path_factory.mktemp("run") / "sft"
    draw_adapter("tiny", processor, folder)
    config = SftConfig(
        base_model="tiny", data=str(prepared["train"]), output_dir=str(folder), seed=7,
        learning_rate=3e-4, gradient_accumulation_steps=2,
    )  # fmt: skip
    (folder / "config.yaml").write_text(to_yaml(config))
    facts = {"packages": {"torch": "2.6", "peft": None}, "gpus": ["A", "A"], "num_processes": 2}
    write_json(folder / "environment.json", facts)
    write_json(folder / "summary.json", {"step": 123})
    return str(folder)


@pytest.fixture(scope="module")
def exported(adapter, prepared, tmp_path_factory) -> Path:
    """In float32, with two evaluations and the training data."""
    folder = tmp_path_factory.mktemp("export")
    config = ExportConfig(
        adapter=adapter,
        output=str(folder / "model"),
        evaluations=[
            evaluated(folder / "base", metrics_of(0.25)),
            evaluated(folder / "tuned", metrics_of(0.729)),
        ],
        data=[str(prepared["train"])],
        dtype="fp32",
    )
    assert export(config) == 0
    return folder / "model"


@pytest.fixture
def no_model(monkeypatch):
    """Fails the test that loads a model."""

    def load(*args, **options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(module, "load_base", load)
    monkeypatch.setattr(module, "load_processor", load)


@pytest.fixture
def card_of(adapter, tmp_path):
    """The card of an export with these settings; no model is loaded for it."""

    def make(**settings) -> str:
        config = ExportConfig(**{"adapter": adapter, "output": str(tmp_path / "out"), **settings})
        return module.describe(config)[1]

    return make


def run_of(adapter: str, folder: Path, config) -> str:
    """A copy of the run's folder, with another configuration."""
    shutil.copytree(adapter, folder)
    (folder / "config.yaml").write_text(to_yaml(config))
    return str(folder)


def records_of(path: Path, rows: list[dict]) -> str:
    """A data file of reinforcement learning, with an image that is there."""
    Image.new("L", (60, 60)).save(path.parent / "image.png")
    start = {"image_path": "image.png", "question": "Is it?", "gold": "Yes", "split": "train"}
    write_jsonl(path, [start | row for row in rows])
    return str(path)


def tables_of(card: str) -> list[dict[str, list[str]]]:
    """Every Markdown table: the cells of a row by its first cell (of equal ones, the last)."""
    tables, rows = [], None
    for line in card.splitlines():
        if not line.startswith("|"):
            rows = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if rows is None:
            rows = {}
            tables.append(rows)
        rows[cells[0]] = cells[1:]
    return tables


def asked(processor, prepared) -> list:
    """Prompts of a few questions on two images."""
    records, _ = read_sft_records(prepared["test"])
    images = list(dict.fromkeys(record.image for record in records))[:2]
    return [
        question_prompt(
            processor,
            processor.prepare_image(Image.open(image).convert("RGB")),
            [record.question for record in records if record.image == image][:2],
            MODE,
        )
        for image in images
    ]


def logits_of(model, prompt) -> torch.Tensor:
    ids = torch.cat([prompt.trunk.input_ids, torch.tensor(prompt.continuations[0])])[None]
    is_image = (ids == prompt.trunk.image_token_id).int()
    with torch.no_grad():
        return model(
            input_ids=ids,
            mm_token_type_ids=is_image,
            pixel_values=prompt.trunk.pixel_values,
            image_grid_thw=prompt.trunk.image_grid_thw,
        ).logits


def greedy(model, processor, prompts) -> list[list[str]]:
    done = generate(
        model, prompts, Sampling(max_new_tokens=32),
        end_id=processor.end_of_turn_id, unsampled_ids=processor.unsampled_ids,
    )  # fmt: skip
    return [[processor.decode(list(c.token_ids)) for c in group] for group in done]


# ---------------------------------------------------------------------------------- the model
def test_the_merged_model_is_the_adapted_one(exported, adapter, prepared, base_model):
    require_adapted(exported, adapter, prepared, base_model)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", FAMILIES)
def test_each_family_loads_in_plain_transformers_and_peft(
    model_type, taught_family, prepared, tmp_path, monkeypatch
):
    """As the adapter on its base, and as a merged model whose card says how it is asked."""
    family, adapter, merged = taught_family(model_type), tmp_path / "run", tmp_path / "m"
    processor = load_processor(family)
    draw_adapter(family, processor, adapter)
    assert export(ExportConfig(adapter=str(adapter), output=str(merged), dtype="fp32")) == 0
    base = AutoModelForImageTextToText.from_pretrained(family)
    require_adapted(merged, adapter, prepared, base.eval())
    plain = PeftModel.from_pretrained(base, adapter)
    prompt = asked(processor, prepared)[0]
    own = logits_of(load_adapter(load_base(family), adapter), prompt)
    torch.testing.assert_close(logits_of(plain, prompt), own, atol=1e-5, rtol=0)
    require_answer(merged, prepared, tmp_path, monkeypatch)
    assert f"- {base.config.model_type}\n" in (merged / "README.md").read_text()


def require_adapted(exported, adapter, prepared, base_model) -> None:
    adapted = load_adapter(load_base(base_model.name_or_path), adapter).eval()
    merged = AutoModelForImageTextToText.from_pretrained(exported).eval()
    processor = load_processor(str(exported))
    prompts = asked(processor, prepared)
    for prompt in prompts:
        own, wanted = logits_of(merged, prompt), logits_of(adapted, prompt)
        torch.testing.assert_close(own, wanted, atol=1e-4, rtol=0)
        assert (own - logits_of(base_model, prompt)).abs().max() > 0.1  # the adapter does matter
    assert greedy(merged, processor, prompts) == greedy(adapted, processor, prompts)


@pytest.mark.parametrize("layers", [["lm_head"], ["embed_tokens"]])
def test_weights_that_the_base_uses_twice_are_changed_where_they_are_adapted(layers, tmp_path):
    """The embedding is the output head too: Qwen2-VL-2B ties them, and so does the tiny base."""
    adapted = get_peft_model(load_base("tiny"), LoraConfig(r=4, target_modules=layers))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    module.merge("tiny", tmp_path / "adapter", torch.float32).save_pretrained(tmp_path / "merged")
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    ids = torch.arange(20)[None]
    wanted, own = (
        model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        for model in (adapted, merged)
    )
    torch.testing.assert_close(own, wanted, atol=1e-4, rtol=0)


def test_what_is_in_the_folder(exported):
    assert {path.name for path in exported.iterdir()} == {
        "README.md", "chat_template.jinja", "config.json", "generation_config.json",
        "manifest.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert not list(exported.parent.glob(".*"))
    weights = load_file(exported / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert weights.keys() == load_file(base_folder() / "model.safetensors").keys()
    kept = GenerationConfig.from_pretrained(exported).to_diff_dict()
    assert kept == GenerationConfig.from_pretrained(base_folder()).to_diff_dict()


def test_the_kit_takes_it_as_a_base(exported, prepared):
    config = EvaluateConfig(data="d", output="o", base_model=str(exported), bf16=False)
    model, processor = load_model(config, Accelerator())
    merged = AutoModelForImageTextToText.from_pretrained(exported).eval()
    prompts = asked(processor, prepared)
    assert torch.equal(logits_of(model, prompts[0]), logits_of(merged, prompts[0]))


def test_it_is_stored_in_bf16_by_default_and_in_shards(adapter, exported, tmp_path):
    config = parse(
        ExportConfig,
        ["--sft_ckpt", adapter, "--output", str(tmp_path / "m"), "--max_shard_size", "1MB"],
    )
    assert export(config) == 0
    shards = sorted((tmp_path / "m").glob("*.safetensors"))
    assert len(shards) > 1
    stored = {name: weight for shard in shards for name, weight in load_file(shard).items()}
    full = load_file(exported / "model.safetensors")
    assert stored.keys() == full.keys()
    for name, weight in stored.items():  # merged first, then rounded once
        assert torch.equal(weight, full[name].bfloat16()), name
    settings = json.loads((tmp_path / "m" / "config.json").read_text())
    parts = [settings, settings["text_config"], settings["vision_config"]]
    assert {part["dtype"] for part in parts} == {"bfloat16"}
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "m")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.slow
def test_an_adapter_answers_at_its_own_image_size(
    trained_small, prepared, tmp_path, image_tokens, capsys
):
    """As the merged model does, text for text, in both modes."""
    merged = ExportConfig(adapter=str(trained_small), output=str(tmp_path / "m"), dtype="fp32")
    assert export(merged) == 0
    texts = {}
    for name, model in {"adapter": trained_small, "base_model": tmp_path / "m"}.items():
        folder = tmp_path / name
        config = EvaluateConfig(
            data=str(prepared["few"]), output=str(folder), max_new_tokens=24, bf16=False,
            consistency=False, **{name: str(model)},
        )  # fmt: skip
        assert evaluate(config) == 0
        assert max(image_tokens) <= 16, "of the base 40 or 49"
        image_tokens.clear()
        texts[name] = [(row["mode"], row["text"]) for row in rows(folder, "predictions.jsonl")]
    assert texts["adapter"] == texts["base_model"]
    assert {mode for mode, _ in texts["adapter"]} == set(MODES)
    assert f"max_pixels 12544 of {trained_small}" in capsys.readouterr().out
    config.adapter, config.base_model, config.max_pixels = str(trained_small), "", 9 * 784
    _, processor = load_model(config, Accelerator())
    assert processor.image_processor.size["longest_edge"] == 9 * 784
    told = capsys.readouterr().out
    assert f"max_pixels 7056 as given, instead of 12544 of {trained_small}" in told


def test_weights_that_are_not_finite_are_refused(adapter, tmp_path):
    shutil.copytree(adapter, tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    weights = load_file(file)
    next(iter(weights.values()))[0, 0] = float("nan")
    save_file(weights, file)
    with pytest.raises(UserError, match="cannot merge"):
        export(ExportConfig(adapter=str(tmp_path / "a"), output=str(tmp_path / "m")))
    assert not (tmp_path / "m").exists()


# ----------------------------------------------------------------------------------- the card
def test_the_snippet_of_the_card_answers(exported, prepared, tmp_path, monkeypatch):
    """It needs nothing but transformers, and says what the kit's own generation says."""
    require_answer(exported, prepared, tmp_path, monkeypatch)


def require_answer(exported, prepared, tmp_path, monkeypatch) -> None:
    code = re.search(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)[1]
    assert re.findall(r"^(?:from|import) (\w+)", code, re.MULTILINE) == ["PIL", "transformers"]
    records, _ = read_sft_records(prepared["test"])
    Image.open(records[0].image).convert("RGB").save(tmp_path / "image.jpg", quality=100)
    monkeypatch.chdir(tmp_path)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(code.replace("THIS_FOLDER", str(exported)).replace("=256", "=32"), {})
    processor = load_processor(str(exported))
    image = processor.prepare_image(Image.open(tmp_path / "image.jpg").convert("RGB"))
    question = re.search(r'question = "(.*)"', code)[1]
    prompts = [question_prompt(processor, image, [question], MODE)]
    model = AutoModelForImageTextToText.from_pretrained(exported).eval()
    [[wanted]] = greedy(model, processor, prompts)
    assert wanted
    assert said.getvalue().strip() == wanted.strip()


def test_front_matter_is_as_the_hub_documents_it(exported):
    card = ModelCard.load(exported / "README.md")
    front = yaml.safe_load(card.content.split("---\n")[1])
    assert front == card.data.to_dict()
    assert front["library_name"] == "transformers"
    assert front["pipeline_tag"] == "image-text-to-text"
    assert front["license"] == "apache-2.0"
    assert front["language"] == ["en"]
    assert {"medical", "sft"} <= set(front["tags"])
    assert "base_model" not in front  # the embedded model is not on the hub
    assert "datasets" not in front  # nor are phantoms
    name, results = model_index_to_eval_results(front["model-index"])
    assert name == "model"
    assert all(isinstance(result, EvalResult) for result in results)
    found = {result.metric_type: result for result in results}
    assert found.keys() == {"exact_match", "flip_gap", "iou/mean", "llava_med/open_recall"}
    assert found["exact_match"].metric_value == 0.729  # of the last evaluation
    assert found["exact_match"].metric_config == MODE
    assert found["exact_match"].task_type == "visual-question-answering"
    assert found["exact_match"].dataset_type == "BoKelvin/SLAKE"


def test_front_matter_names_what_is_on_the_hub(card_of, adapter, tmp_path):
    rows = [{"dataset": "VQA_RAD"}, {"dataset": "SLAKE", "qid": "5", "question": "这是什么?"}]
    data = [records_of(tmp_path / "a.jsonl", rows)]
    name = "Qwen/Qwen2-VL-7B-Instruct"
    front = yaml.safe_load(card_of(data=data, base_name=name).split("---\n")[1])
    assert front["base_model"] == name
    assert front["license"] == "apache-2.0"
    assert front["datasets"] == ["flaviagiammarino/vqa-rad", "BoKelvin/SLAKE"]
    assert front["language"] == ["en", "zh"]
    assert "model-index" not in front


def test_results_of_several_datasets_stand_apart(card_of, tmp_path):
    both = metrics_of(0.5, "VQA_RAD", 451) | {
        f"{MODE}/exact/dataset/SLAKE": 0.75, f"{MODE}/exact/dataset/SLAKE/n": 12
    }  # fmt: skip
    card = card_of(evaluations=[evaluated(tmp_path / "own", both)])
    front = yaml.safe_load(card.split("---\n")[1])
    _, results = model_index_to_eval_results(front["model-index"])
    exact = {r.dataset_name: r.metric_value for r in results if r.metric_type == "exact_match"}
    assert exact == {"VQA-RAD": 0.5, "SLAKE": 0.75}
    assert not any(r.metric_type == "iou/mean" for r in results)  # known over both alone
    assert "VQA-RAD, 451 questions (as many as its official English test split)" in card
    assert "SLAKE, 12 questions;" not in card
    assert "SLAKE, 12 questions." in card


def test_the_table_holds_the_numbers_of_the_evaluations(exported):
    table = tables_of((exported / "README.md").read_text())[0]
    assert table["metric"] == ["base", "tuned", "n"]
    assert table["exact match"] == ["25.0% [20.0, 31.0]", "72.9% [67.9, 78.9]", "40"]
    assert table["gap of the two"] == ["+10.4 [+5.4, +16.4]"] * 2 + ["40"]
    assert table["IoU with gold boxes"] == ["0.430 [0.380, 0.490]"] * 2 + ["40"]
    shown = {words for words in table if not words.startswith(("**", "metric", "---"))}
    assert shown == {
        ROWS[name].words for name in ("exact/all", "flip_gap", "iou/mean", "llava_med/open_recall")
    }


def test_each_mode_has_its_table_and_what_is_missing_is_a_dash(card_of, tmp_path):
    one = evaluated(tmp_path / "one", metrics_of(0.5, n=40))
    bare = {f"{MODE}/exact/all": 0.25, f"{MODE}/exact/all/n": 30, f"{THINK}/exact/all": 1.0}
    two = evaluated(tmp_path / "a|b", bare)
    card = card_of(evaluations=[one, two])
    assert card.index(f"Mode `{THINK}`") < card.index(f"Mode `{MODE}`")
    assert "| exact match | - | 100.0% |  |" in card
    assert "| exact match | 50.0% [45.0, 56.0] | 25.0% | 30-40 |" in card
    assert "| metric | one | a\\|b | n |" in card


def test_published_figures_come_with_their_caveat(card_of, tmp_path):
    card = card_of(evaluations=[evaluated(tmp_path / "own", metrics_of(0.5))])
    table = tables_of(card)[1]
    assert table["Med-MoE StableLM-2B"][:1] == ["SLAKE"]
    assert "25.0%" in card  # ours in that convention
    assert "their protocols" in card
    strange = card_of(evaluations=[evaluated(tmp_path / "other", metrics_of(0.5, "Ours"))])
    assert "published" not in strange


def test_phantoms_do_not_pass_for_patients(exported, prepared, card_of, tmp_path):
    card = (exported / "README.md").read_text()
    records, _ = read_sft_records(prepared["train"])
    images = len({record.image for record in records})
    boxes = sum(bool(record.regions) for record in records)
    row = ["drawn phantoms", "train", *map(str, (len(records), boxes, images))]
    assert tables_of(card)[-1]["train.json"] == row
    assert "A demonstration" in card
    assert "CC BY 4.0" not in card
    metrics = evaluated(tmp_path / "own", metrics_of(0.5))
    assert "A demonstration" not in card_of(evaluations=[metrics])
    asked = [
        {"dataset": "SLAKE", "qid": record.qid, "image": record.image} for record in records[:4]
    ]
    write_jsonl(tmp_path / "own" / "predictions.jsonl", asked)
    card = card_of(evaluations=[metrics])
    assert "A demonstration" in card
    assert "drawn phantoms, 40 questions" in card
    assert "Published figures" not in card


def test_real_slake_is_not_taken_for_phantoms(realdata):
    for split in ("train", "validate", "test"):
        rows = json.loads((realdata / "SLAKE" / f"{split}.json").read_text())
        assert not are_phantoms((str(row["qid"]), row["img_name"]) for row in rows)


def test_the_data_statement(card_of, tmp_path):
    rows = [
        {"dataset": "VQA_RAD", "regions": [{"label": "x", "box_xyxy_pixels": [0, 0, 9, 9]}]},
        {"dataset": "VQA_RAD"},
        {"dataset": "Hospital"},
        {},
    ]
    data = records_of(tmp_path / "a.jsonl", rows)
    report = {
        "rows_in": 9, "rows_out": 4, "dropped": {"duplicate": 2, "repeats_test_question": 3},
        "leaks": {"policy": "drop", "found": {"repeats_test_question": 3}, "unchecked": []},
        "vqa_rad_images_shared_with_test": {"images": 2, "rows": 5, "removed": False},
        "near_duplicates_of_test_images": 1,
    }  # fmt: skip
    write_json(tmp_path / "a.jsonl.report.json", report)
    card = card_of(data=[data])
    assert "| a.jsonl | VQA-RAD | train | 2 | 1 | 1 |" in card
    assert "| a.jsonl | Hospital | train | 1 | 0 | 1 |" in card
    for said in (
        "Lau et al. 2018", "CC0 1.0", "MedPix", "de-identified",
        "**Hospital**: origin and license unknown", "**unnamed**: origin and license unknown",
        "4 of 9 rows kept", "2 duplicate, 3 repeats test question",
        "rows that give away test rows: 3 repeats test question (policy: drop)",
        "2 VQA-RAD images are in its test split too (5 rows, kept)",
        "1 images nearly equal a test image", "by template",
    ):  # fmt: skip
        assert said in card, said
    assert "Test questions" not in card
    assert "changed since" not in card
    report["rows_out"] = 5
    write_json(tmp_path / "a.jsonl.report.json", report)
    assert "the file has changed since, to 4 rows" in card_of(data=[data])


def test_training_on_test_questions_is_told(card_of, tmp_path):
    """Also of one file among several; of a file with several splits, training takes one."""
    rows = [{"dataset": "VQA_RAD", "split": split} for split in ("train", "train", "test")]
    warning = "Test questions are among these"
    train, test = (records_of(tmp_path / f"{i}.jsonl", rows[2 * i : 2 * i + 2]) for i in (0, 1))
    assert warning in card_of(data=[train, test])
    assert warning not in card_of(data=[train])
    assert warning not in card_of(data=[records_of(tmp_path / "mixed.jsonl", rows)])


def test_neither_evaluations_nor_data(card_of):
    card = card_of()
    assert "Not evaluated" in card
    assert "training data were not stated" in card
    assert "an unknown language" in card
    assert tables_of(card) == []
    front = yaml.safe_load(card.split("---\n")[1])
    assert not {"model-index", "datasets", "language"} & front.keys()


def test_how_it_was_trained(card_of, adapter, tmp_path):
    card = card_of()
    for said in (
        "rank 4, alpha 8, on the language model and the vision tower",
        "123 steps of 32 questions; peak learning rate 0.0003 (cosine); seed 7",
        "base unquantized", "on 2 processes with 2 x A", "torch 2.6",
    ):  # fmt: skip
        assert said in card, said
    assert "QLoRA" not in card
    assert "peft None" not in card
    strange = shutil.copytree(adapter, tmp_path / "strange")
    (strange / "config.yaml").write_text("r: 4\n")
    assert "How it was trained is not known" in card_of(adapter=str(strange))


def test_what_qlora_means_for_the_merge(card_of, adapter, tmp_path):
    config = SftConfig(data="d", quantization="nf4")
    card = card_of(adapter=run_of(adapter, tmp_path / "q", config))
    assert "base in 4-bit NF4 (QLoRA)" in card
    assert "merged into the base in full precision" in card


def test_grpo_tells_of_the_run_that_it_started_from(card_of, adapter, tmp_path):
    for start, told in ((adapter, "SFT (supervised"), ("gone/sft", "no longer at hand")):
        config = GrpoConfig(data="d", sft_ckpt=start, num_generations=8, seed=3)
        folder = tmp_path / told[:3]
        card = card_of(adapter=run_of(adapter, folder, config))
        assert told in card
        assert "123 steps of 4 prompts, 8 completions each" in card
        assert "consistency 0.2, counterfactual 0.2 (measured offline)" in card


def test_the_form_that_was_taught_is_the_one_that_is_shown(card_of, adapter, tmp_path):
    config = SftConfig(data="d", prompting_mode=THINK)
    card = card_of(adapter=run_of(adapter, tmp_path / "t", config))
    assert "`reasoning` (a list of short steps) and `answer` (short)" in card
    assert "oxes" not in card
    assert "Think first." in card


def test_no_path_of_this_machine_is_told(card_of, adapter, tmp_path):
    base = shutil.copytree(base_folder(), tmp_path / "my-base")
    own = evaluated(tmp_path / "own", metrics_of(0.5))
    data = records_of(tmp_path / "a.jsonl", [{"dataset": "SLAKE"}])
    card = card_of(base_model=str(base), evaluations=[own], data=[data])
    assert "Base model: my-base" in card
    assert "license: other" in card
    assert str(tmp_path) not in card
    assert str(Path(adapter).parent) not in card


def test_a_license_is_taken_as_given(card_of):
    assert yaml.safe_load(card_of(license="cc-by-4.0").split("---\n")[1])["license"] == "cc-by-4.0"


# -------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("settings", "where", "message"),
    [
        ({"adapter": ""}, "adapter", "adapter is not given"),
        ({"output": ""}, "output", "output is not given"),
        ({"evaluations": ["a"]}, "evaluations", "has no name"),
        ({"evaluations": ["a=b", "a=c"]}, "evaluations", "a name stands twice"),
        ({"max_shard_size": "5 apples"}, "max_shard_size", "is no size"),
        ({"push_to_hub": "no-owner"}, "push_to_hub", "no name on the hub"),
        ({"push_to_hub": "a/b/c"}, "push_to_hub", "no name on the hub"),
        ({"base_name": "/models/qwen"}, "base_name", "no name on the hub"),
    ],
)
def test_settings_that_cannot_be(settings, where, message):
    with pytest.raises(ConfigError, match=message) as caught:
        ExportConfig(**{"adapter": "a", "output": "o"} | settings)
    assert caught.value.where == where
    assert caught.value.fix


def test_what_cannot_be_used_is_refused_before_a_model_is_loaded(no_model, adapter, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "something").write_text("kept")
    (tmp_path / "empty").mkdir()
    evaluated(tmp_path / "bad", {"n": 3})
    evaluated(tmp_path / "worse", {f"{MODE}/exact/all": "a lot"})
    unnamed = shutil.copytree(adapter, tmp_path / "unnamed")
    settings = json.loads((unnamed / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = None
    write_json(unnamed / "adapter_config.json", settings)
    for changes, kind, message in [
        ({"output": str(full)}, UserError, "the output folder is not empty"),
        ({"output": str(full / "something")}, UserError, "is a file"),
        ({"adapter": str(tmp_path / "none")}, UserError, "no such adapter folder"),
        ({"adapter": str(tmp_path / "empty")}, UserError, "holds no adapter_config.json"),
        ({"adapter": str(base_folder())}, UserError, "a whole model already"),
        ({"adapter": str(unnamed)}, UserError, "does not name its base"),
        ({"base_model": str(tmp_path / "none")}, UserError, "no such model folder"),
        ({"evaluations": [f"a={tmp_path / 'empty'}"]}, UserError, "no metrics.json"),
        ({"evaluations": [f"a={tmp_path / 'bad'}"]}, UserError, "no metrics.json"),
        ({"evaluations": [f"a={tmp_path / 'worse'}"]}, UserError, "no metrics.json"),
        ({"data": [str(tmp_path / "none.json")]}, DataError, "no such data file"),
    ]:
        config = ExportConfig(**{"adapter": adapter, "output": str(tmp_path / "m")} | changes)
        with pytest.raises(kind, match=message) as caught:
            export(config)
        assert caught.value.where
        assert caught.value.fix
    assert not (tmp_path / "m").exists()
    assert [path.name for path in full.iterdir()] == ["something"]


@pytest.mark.parametrize("fails", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", [PreTrainedModel, Processor])
def test_nothing_half_written_stays(adapter, tmp_path, monkeypatch, fails, where):
    name = "save_pretrained" if where is PreTrainedModel else "save"
    real = getattr(where, name)

    def save(self, folder, **options):
        real(self, folder, **options)
        raise fails

    monkeypatch.setattr(where, name, save)
    (tmp_path / "m").mkdir()
    with pytest.raises((UserError, KeyboardInterrupt)) as caught:
        export(ExportConfig(adapter=adapter, output=str(tmp_path / "m")))
    if isinstance(fails, OSError):
        assert caught.value.what == "the disk is full"
    assert [*tmp_path.iterdir()] == [tmp_path / "m"]
    assert not [*(tmp_path / "m").iterdir()]


# ------------------------------------------------------------------------------------- the hub
class Hub:
    """Records what is asked of the hub; ``fails`` are errors by call."""

    def __init__(self, private: bool = True, **fails: Exception):
        self.calls: list[tuple] = []
        self.private, self.fails = private, fails

    def _called(self, name: str, *details) -> None:
        self.calls.append((name, *details))
        if name in self.fails:
            raise self.fails[name]

    def create_repo(self, repo_id, *, private, exist_ok):
        self._called("create_repo", repo_id, private, exist_ok)

    def model_info(self, repo_id):
        self._called("model_info", repo_id)
        return types.SimpleNamespace(private=self.private)

    def upload_folder(self, *, repo_id, folder_path, commit_message, ignore_patterns):
        there = sorted(path.name for path in Path(folder_path).iterdir())
        self._called("upload_folder", repo_id, [n for n in there if n not in ignore_patterns])


@pytest.fixture
def quick_merge(monkeypatch):
    """For tests of what comes after the merge."""
    monkeypatch.setattr(module, "merge", lambda base, adapter, dtype: load_base(base))


def test_no_hub_is_contacted_unless_asked(adapter, tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("something was contacted")

    monkeypatch.setattr(module, "HfApi", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert export(ExportConfig(adapter=adapter, output=str(tmp_path / "m"))) == 0


@pytest.mark.usefixtures("quick_merge")
@pytest.mark.parametrize("private", [True, False])
def test_pushing(adapter, tmp_path, monkeypatch, capsys, private):
    hub = Hub(private)
    monkeypatch.setattr(module, "HfApi", lambda: hub)
    flags = ["--adapter", adapter, "--output", str(tmp_path / "m"), "--push_to_hub", "me/model"]
    assert export(parse(ExportConfig, [*flags, f"--private={private}"])) == 0
    kept = sorted(path.name for path in (tmp_path / "m").iterdir() if path.stem != "manifest")
    assert hub.calls[0] == ("create_repo", "me/model", private, True)
    assert hub.calls[-1] == ("upload_folder", "me/model", kept)
    assert "https://huggingface.co/me/model" in capsys.readouterr().out
    assert yaml.safe_load((tmp_path / "m" / "README.md").read_text().split("---\n")[1])
    assert "# model\n" in (tmp_path / "m" / "README.md").read_text()


@pytest.mark.usefixtures("quick_merge")
@pytest.mark.parametrize(
    ("hub", "message"),
    [
        (Hub(create_repo=LocalTokenNotFoundError("Token is required")), "Token is required"),
        (Hub(create_repo=HTTPError("Name or service not known")), "Name or service not known"),
        (Hub(create_repo=ConnectionError()), "ConnectionError"),
        (Hub(upload_folder=HTTPError("403 Forbidden:\nno")), "403 Forbidden: no"),
        (Hub(upload_folder=ValueError("Invalid metadata")), "Invalid metadata"),
        (Hub(private=False), "is there already, and public"),
    ],
)
def test_a_push_that_fails_leaves_the_folder(adapter, tmp_path, monkeypatch, hub, message):
    monkeypatch.setattr(module, "HfApi", lambda: hub)
    folder = tmp_path / "m"
    config = ExportConfig(adapter=adapter, output=str(folder), push_to_hub="me/model")
    with pytest.raises(UserError, match=message) as caught:
        export(config)
    assert caught.value.where == "me/model"
    assert f"hf upload me/model {folder}" in caught.value.fix
    load_processor(str(folder))
    assert (folder / "model.safetensors").is_file()


# ------------------------------------------------------------------------------- end to end
@pytest.mark.slow
def test_a_trained_adapter_from_the_command_line(trained, prepared, tmp_path):
    own = evaluated(tmp_path / "own", metrics_of(0.5))
    done = run(
        [
            *launcher(None), "launch/export.py", "--adapter", str(trained["sft"]),
            "--output", str(tmp_path / "m"), "--evaluations", own, "--dtype", "fp32",
            "--data", str(prepared["train"]), str(trained["data"]),
        ]
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    adapted = load_adapter(load_base("tiny"), trained["sft"]).eval()
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "m").eval()
    processor = load_processor("tiny")
    prompts = asked(processor, prepared)
    for prompt in prompts:
        own, wanted = logits_of(merged, prompt), logits_of(adapted, prompt)
        torch.testing.assert_close(own, wanted, atol=1e-4, rtol=0)
    assert greedy(merged, processor, prompts) == greedy(adapted, processor, prompts)
    assert "4 steps of 8 questions" in (tmp_path / "m" / "README.md").read_text()
