"""A folder as the hub lays it out: ``tests/real_size.py`` runs every stage on the whole of it."""

import json

import torch
from hub_folder import ANSWER, ENDS, SMALL, write_hub_folder
from PIL import Image

from kit.model.load import load_base, load_processor
from kit.model.sampler import Sampling, generate, question_prompt
from kit.prompting.answers import parse_answer


def test_a_folder_of_the_hub_loads_and_says_what_it_knows(tmp_path):
    folder = write_hub_folder(tmp_path / "hub", shard_bytes=10**7, **SMALL)
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 1
    assert {name.split(".")[0] for name in index} == {"model", "visual"}, "names of old"
    model = load_base(str(folder))
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert len(model.lm_head.weight) == 151936
    processor = load_processor(str(folder), max_pixels=224 * 224)
    image = processor.prepare_image(Image.new("RGB", (512, 512)))
    assert image.n_tokens == 64
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
