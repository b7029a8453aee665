"""A folder as the hub lays it out: ``tests/real_size.py`` runs every stage on the whole of it."""

import json

import pytest
import torch
from hub_folder import ANSWER, ENDS, write_hub_folder
from PIL import Image
from shapes import CONFIGS, PARAMETERS, shape
from transformers import AutoModelForImageTextToText

from kit.model.load import load_base, load_processor
from kit.model.sampler import Sampling, generate, question_prompt
from kit.prompting.answers import parse_answer


@pytest.mark.parametrize("model", PARAMETERS)
def test_shapes_have_as_many_parameters_as_the_hub_counts(model):
    with torch.device("meta"):
        built = AutoModelForImageTextToText.from_config(shape(model))
    assert sum(weight.numel() for weight in built.parameters()) == PARAMETERS[model]


@pytest.mark.parametrize(
    ("model", "first_names", "n_tokens"),
    [
        ("Qwen2-VL-2B", ("model.embed", "model.layers", "model.norm", "visual."), 64),
        ("Qwen2.5-VL-3B", ("model.embed", "model.layers", "model.norm", "visual."), 64),
        ("Qwen2.5-VL-7B", ("model.embed", "model.layers", "model.norm", "visual.", "lm_head"), 64),
        ("Qwen3-VL-2B", ("model.language_model.", "model.visual."), 49),
    ],
)
@pytest.mark.slow
def test_a_folder_of_the_hub_loads_and_says_what_it_knows(model, first_names, n_tokens, tmp_path):
    folder = write_hub_folder(tmp_path / "hub", model, small=True, shard_bytes=10**7)
    config = CONFIGS[model]
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 1
    assert all(name.startswith(first_names) for name in index), "names as on the hub"
    rows = config.get("text_config", config)["vocab_size"]
    model = load_base(str(folder))
    tied = model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert tied == config["tie_word_embeddings"]
    assert len(model.lm_head.weight) == rows
    processor = load_processor(str(folder), min_pixels=56 * 56, max_pixels=224 * 224)
    image = processor.prepare_image(Image.new("RGB", (512, 512)))
    assert image.n_tokens == n_tokens
    prompt = question_prompt(processor, image, ["Where?"], "caption_reason_answer")
    (((completion,),)) = generate(
        model, [prompt], Sampling(20),
        end_id=processor.end_of_turn_id, unsampled_ids=processor.unsampled_ids,
    )  # fmt: skip
    text = processor.decode(list(completion.token_ids))
    assert text in {"".join([*ANSWER, end]) for end in ENDS}
    assert parse_answer(text).boxes == ((300, 450, 420, 570),)
    assert not completion.truncated
    assert torch.isfinite(torch.tensor(completion.logprobs)).all()
