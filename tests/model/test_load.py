"""Loading: what is frozen, what is trained, and refusals that say what to do."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Qwen2VLForConditionalGeneration

from kit.data.images import open_image
from kit.data.records import read_sft_records
from kit.errors import UserError
from kit.model.adapters import add_lora, as_reference, load_adapter, load_reference, lora_targets
from kit.model.families import FAMILIES
from kit.model.folders import base_folder, named_base
from kit.model.load import hidden_size, load_base, load_processor
from kit.model.logprobs import token_logprobs
from kit.model.sampler import Prompt, Sampling, generate
from kit.model.tiny import tiny_config
from kit.prompting.messages import MODES
from kit.train.data import pack_records


@pytest.fixture
def adapter(tmp_path, fresh_model):
    model = add_lora(fresh_model, r=4, alpha=8, dropout=0.0, freeze_vision_tower=True)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    return tmp_path / "adapter"


def logits_of(model):
    ids = torch.arange(30)[None]
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.mark.parametrize("frozen", [True, False])
def test_lora_reaches_all_linear_layers_it_should(family, frozen):
    fresh_model = load_base(family)
    linear = {
        name
        for name, module in fresh_model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    model = add_lora(fresh_model, r=2, alpha=2, dropout=0.0, freeze_vision_tower=frozen)
    adapted = {
        name.split(".lora_A")[0].removeprefix("base_model.model.")
        for name, parameter in model.named_parameters()
        if "lora_A" in name and parameter.requires_grad
    }
    assert adapted == {name for name in linear if not (frozen and "visual" in name)}
    assert all("lora_" in n for n, p in model.named_parameters() if p.requires_grad)


def test_an_adapter_names_its_base_for_every_working_folder(tmp_path, monkeypatch):
    shutil.copytree(base_folder(), tmp_path / "models" / "qwen")  # by name, one on the hub
    monkeypatch.chdir(tmp_path)
    model = add_lora(load_base("models/qwen"), r=2, alpha=2, dropout=0.0, freeze_vision_tower=True)
    model.save_pretrained("adapter", save_embedding_layers=False)
    monkeypatch.chdir("/")
    assert named_base(tmp_path / "adapter") == str(tmp_path / "models" / "qwen")
    assert load_base("tiny").name_or_path == "tiny"


def test_adapter_loads_in_plain_peft_and_here(adapter):
    ours = load_adapter(load_base("tiny"), adapter).eval()
    base = Qwen2VLForConditionalGeneration.from_pretrained(base_folder(), dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, adapter).eval()
    torch.testing.assert_close(logits_of(ours), logits_of(plain))
    assert not torch.allclose(logits_of(ours), logits_of(load_base("tiny").eval()))


def test_adapter_for_another_base_is_refused(adapter, tmp_path):
    """Other sizes, and other layers."""
    config = tiny_config(load_processor("tiny").tokenizer)
    for key, value in {"num_hidden_layers": 2, "intermediate_size": 64}.items():
        text = config.text_config.to_dict() | {key: value}
        text.pop("layer_types", None)
        other = Qwen2VLForConditionalGeneration(
            type(config)(**config.to_dict() | {"text_config": text})
        )
        with pytest.raises(UserError, match="does not fit this base model"):
            load_adapter(other, adapter)


REFUSALS = {
    "missing folder": ("/no/such/model", "no such model folder"),
    "relative path": ("./nothing/here", "no such model folder"),
    "file not folder": (__file__, "config.json"),
}


@pytest.mark.parametrize(("name", "message"), REFUSALS.values(), ids=REFUSALS)
def test_no_such_base(name, message):
    with pytest.raises(UserError, match=message):
        load_base(name)


def test_folder_of_another_kind_is_refused(tmp_path, adapter):
    with pytest.raises(UserError, match="adapter, not a base model"):
        load_base(str(adapter))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match="model_type is 'llama'") as caught:
        load_base(str(tmp_path))
    assert all(family.name in caught.value.fix for family in FAMILIES.values())
    (tmp_path / "config.json").write_text("{broken")
    with pytest.raises(UserError, match="cannot read"):
        load_base(str(tmp_path))


@pytest.mark.parametrize("model_type", ["qwen3_vl_moe", "of_next_year", None])
@pytest.mark.parametrize("load", [load_base, load_processor, hidden_size])
def test_another_family_on_the_hub_is_refused_by_name(load, model_type, tmp_path, monkeypatch):
    """By its configuration alone, also one that transformers does not know."""
    name = "Qwen/Qwen3-VL-30B-A3B-Instruct"
    cached = tmp_path / f"models--{name.replace('/', '--')}"
    for file, text in {
        "refs/main": "0" * 40,
        f"snapshots/{'0' * 40}/config.json": json.dumps({"model_type": model_type}),
    }.items():
        (cached / file).parent.mkdir(parents=True)
        (cached / file).write_text(text)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=f"model_type is {model_type!r}") as caught:
        load(name)
    assert caught.value.where == name
    assert "Qwen3-VL (qwen3_vl)" in caught.value.fix


def test_pickled_weights_are_refused(tmp_path):
    """Nothing but safetensors is opened: a pickle could run code."""
    folder = tmp_path / "pickled"
    shutil.copytree(base_folder(), folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no \*.safetensors"):
        load_base(str(folder))


def test_truncated_weights_are_a_clear_error(tmp_path, adapter):
    folder = tmp_path / "cut"
    shutil.copytree(base_folder(), folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(UserError, match="cannot load the model"):
        load_base(str(folder))
    cut = adapter / "adapter_model.safetensors"
    cut.write_bytes(cut.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"does not fit|cannot load"):
        load_adapter(load_base("tiny"), adapter)


def shaped(folder: Path, names: Callable[[str], str] = str, **settings) -> torch.Tensor:
    """Save an adapter made with PEFT's ``settings``, its weights under other ``names``; returns
    the logits that it was trained to give."""
    settings = {"target_modules": lora_targets()} | settings
    model = get_peft_model(load_base("tiny"), LoraConfig(r=4, lora_alpha=16, **settings)).eval()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_A" not in name:
            torch.nn.init.normal_(parameter, mean="magnitude" in name, std=0.05)
    model.save_pretrained(folder)
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({names(k): v for k, v in weights.items()}, folder / "adapter_model.safetensors")
    with torch.no_grad():
        return logits_of(model)


def before_4_52(key: str) -> str:
    """The name of a weight in transformers of that time."""
    return key.replace("model.model.language_model", "model.model").replace(
        "model.visual", "visual"
    )


LOADED = {
    "rank-stabilised": {"use_rslora": True},
    "weight-decomposed": {"use_dora": True},
    "ranks by layer": {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"v_proj": 64}},
    "some layers": {"target_modules": ["q_proj"], "layers_to_transform": [0]},
    "of older names": {"names": before_4_52},
    "of older names, with vision": {
        "names": before_4_52,
        "target_modules": lora_targets(FAMILIES["qwen2_vl"]),
    },
}


@pytest.mark.parametrize("name", LOADED)
def test_adapters_of_other_shapes_load_as_they_were_trained(name, tmp_path):
    """On their own, and twice as policy and reference."""
    wanted = shaped(tmp_path, **LOADED[name])
    model = load_adapter(load_base("tiny"), tmp_path).eval()
    load_reference(model, tmp_path)
    with torch.no_grad(), as_reference(model):
        assert torch.equal(logits_of(model), wanted)
    with torch.no_grad():
        assert torch.equal(logits_of(model), wanted)


WHOLE = {
    "head": ({"modules_to_save": ["lm_head"]}, r"modules_to_save is \['lm_head'\]"),
    "merger": ({"modules_to_save": ["merger"]}, "modules_to_save"),
    "biases": ({"bias": "lora_only"}, "bias is 'lora_only'"),
    "new tokens": ({"trainable_token_indices": [5]}, "trainable_token_indices"),
    "embeddings": ({"target_modules": ["q_proj", "lm_head"]}, r"whole weights .*lm_head"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_adapters_with_more_than_lora_are_refused_for_that(name, tmp_path):
    settings, message = WHOLE[name]
    shaped(tmp_path, **settings)
    with pytest.raises(UserError, match=message) as caught:
        load_adapter(load_base("tiny"), tmp_path)
    assert "merge" in caught.value.fix


def test_an_adapter_that_changes_its_base_is_no_reference(tmp_path):
    wanted = shaped(tmp_path, init_lora_weights="olora")
    model = load_adapter(load_base("tiny"), tmp_path).eval()
    with pytest.raises(UserError, match=r"'olora'.* a second time"):
        load_reference(model, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(logits_of(model), wanted)


TEMPLATE = (base_folder() / "chat_template.jinja").read_text()
TEMPLATES = {
    "as older models have it": {"chat_template.json": json.dumps({"chat_template": TEMPLATE})},
    "with a mark": {"chat_template.jinja": f"\ufeff{TEMPLATE}"},
    "with lines of Windows": {"chat_template.jinja": TEMPLATE.replace("\n", "\r\n")},
    "beside one for text": {
        "chat_template.jinja": "{{ messages[0]['role'] }}",
        "chat_template.json": json.dumps({"chat_template": TEMPLATE}),
    },
}


def test_a_processor_by_its_name_before_the_release(tmp_path, processor):
    shutil.copytree(base_folder(), tmp_path / "base")
    file = tmp_path / "base" / "preprocessor_config.json"
    file.write_text(file.read_text().replace("Qwen2VLImageProcessor", "Qwen2_5_VLImageProcessor"))
    found = load_processor(str(tmp_path / "base")).image_processor
    assert found.to_dict() == processor.image_processor.to_dict()


def base_with(folder: Path, files: Mapping[str, str]) -> str:
    """The embedded base with other chat templates."""
    shutil.copytree(base_folder(), folder)
    (folder / "chat_template.jinja").unlink()
    for name, text in files.items():
        (folder / name).write_text(text, newline="")
    return str(folder)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_chat_template_is_found_where_it_is(name, tmp_path, processor):
    found = load_processor(base_with(tmp_path / "base", TEMPLATES[name]))
    assert found.prompt_text("q?", MODES[0]) == processor.prompt_text("q?", MODES[0])


@pytest.mark.parametrize("files", [{}, {"chat_template.jinja": "{{ messages[0]['role'] }}"}])
def test_a_chat_without_images_is_refused(files, tmp_path):
    with pytest.raises(UserError, match="no place for an image"):
        load_processor(base_with(tmp_path / "base", files))


def test_words_that_were_added_can_be_said_and_need_their_rows(tmp_path, processor):
    base = base_with(tmp_path / "base", {"chat_template.jinja": TEMPLATE})
    tokenizer = load_processor(base).tokenizer
    tokenizer.add_tokens(["pneumothorax", "<|later_pad|>"])
    tokenizer.add_tokens(["<loc>"], special_tokens=True)
    tokenizer.save_pretrained(base)
    with pytest.raises(UserError, match="'<loc>' is number 808, but there are 806 rows"):
        load_processor(base)
    model = load_base(base)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(base)
    unsampled = load_processor(base).unsampled_ids
    assert unsampled == [*processor.unsampled_ids, 807, 808]
    assert load_base(base).get_input_embeddings().weight.shape[0] == 809


def test_adapter_with_missing_weights_is_refused(adapter):
    weights = load_file(adapter / "adapter_model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match="does not fit"):
        load_adapter(load_base("tiny"), adapter)


def test_not_an_adapter_folder(tmp_path):
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        load_adapter(load_base("tiny"), tmp_path)


def test_pixel_bounds_must_fit():
    with pytest.raises(UserError, match="exceeds max_pixels"):
        load_processor("tiny", min_pixels=100_000, max_pixels=50_000)


def test_an_adapter_s_image_size_goes_over_the_base_s_and_a_given_one_over_both(tmp_path):
    told = []
    base = dict(load_processor("tiny").image_processor.size)

    def size_of(**given) -> tuple[int, int]:
        size = load_processor("tiny", tmp_path, say=told.append, **given).image_processor.size
        return size["shortest_edge"], size["longest_edge"]

    assert size_of() == (base["shortest_edge"], base["longest_edge"])
    missing = f"of tiny, as {tmp_path} has no preprocessor_config.json"
    assert told.pop() == f"image size: min_pixels 3136 {missing}; max_pixels 50176 {missing}"
    trained = load_processor("tiny", min_pixels=784, max_pixels=12544)
    trained.image_processor.save_pretrained(tmp_path)
    assert size_of() == (784, 12544)
    assert told.pop() == f"image size: min_pixels 784 of {tmp_path}; max_pixels 12544 of {tmp_path}"
    assert size_of(max_pixels=9408) == (784, 9408)
    assert told.pop().endswith(f"max_pixels 9408 as given, instead of 12544 of {tmp_path}")
    with pytest.raises(UserError, match="exceeds max_pixels 12544") as caught:
        size_of(min_pixels=20_000)
    assert f"of {tmp_path}" in caught.value.where
    file = tmp_path / "preprocessor_config.json"
    settings = json.loads(file.read_text())
    del settings["size"]  # as Qwen2-VL's own file has it
    file.write_text(json.dumps(settings | {"min_pixels": 3136, "max_pixels": 9408}))
    assert size_of() == (3136, 9408)
    file.write_text("{")
    with pytest.raises(UserError, match="cannot read the image size"):
        size_of()


def test_qlora_keeps_its_gradients_over_a_generation(prepared, family):
    """Train, generate, train: on CPUs with AVX512-BF16 bitsandbytes would repack the weights at
    the generation and the second training step would silently lose its gradients."""
    records = read_sft_records(prepared["train"])[0][:4]
    torch.manual_seed(0)
    processor, model = load_processor(family), load_base(family, quantization="nf4")
    packed = {n for n, m in model.named_modules() if "Linear4bit" in type(m).__name__}
    linear = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert packed == {n for n in linear if "language_model.layers" in n}
    model = add_lora(model, r=4, alpha=8, dropout=0.0, freeze_vision_tower=False).train()
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    batch = pack_records(records, processor, modes=MODES, merge_size=2, max_length=4096)

    def step():
        optimizer.zero_grad()
        loss = -token_logprobs(model, batch).logprobs.mean()
        loss.backward()
        norms = {name: parameter.grad.norm() for name, parameter in trained.items()}
        optimizer.step()
        return loss.item(), norms

    first, _ = step()
    image = processor.prepare_image(open_image(records[0].image))
    prompt = Prompt(processor.encode_trunk(image, MODES[0]), ((1, 2, 3),))
    generate(
        model, [prompt], Sampling(max_new_tokens=4), end_id=processor.end_of_turn_id,
        unsampled_ids=processor.unsampled_ids,
    )  # fmt: skip
    losses = []
    for _ in range(5):
        loss, norms = step()
        losses.append(loss)
        assert all(norm > 0 for norm in norms.values()), [n for n, v in norms.items() if v == 0]
    assert losses[-1] < first
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name]), name
