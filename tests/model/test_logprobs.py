"""Log-probabilities and what is told beside them, against torch's own distributions."""

import torch
from PIL import Image

from kit.model.logprobs import qwen2vl_of, token_logprobs
from kit.model.sharing import Branch, Tree, pack

MODE = "caption_reason_answer"


def test_logprobs_entropy_and_greedy_choice_are_those_of_the_distribution(base_model, processor):
    image = processor.prepare_image(Image.effect_noise((90, 60), 60).convert("RGB"), "noise")
    trunk = processor.encode_trunk(image, MODE)
    question = processor.encode_question("Where is it?", MODE)
    answer = processor.encode_answer("In the left lung.")
    batch = pack([Tree(trunk, (Branch.of(question, answer),))], merge_size=2)
    found = token_logprobs(base_model, batch, temperature=0.7, entropy=True)

    ids = torch.cat([trunk.input_ids, torch.tensor([*question, *answer])])[None]
    with torch.no_grad():
        logits = qwen2vl_of(base_model)(
            input_ids=ids, pixel_values=trunk.pixel_values, image_grid_thw=trunk.image_grid_thw,
            mm_token_type_ids=(ids == processor.image_token_id).int(),
        ).logits[0, -len(answer) - 1 : -1]  # fmt: skip
    chances = torch.distributions.Categorical(logits=logits / 0.7)
    expected = torch.tensor(answer)
    torch.testing.assert_close(found.logprobs, chances.log_prob(expected), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.entropy, chances.entropy(), atol=1e-4, rtol=0)
    assert torch.equal(found.is_argmax, logits.argmax(dim=-1) == expected)
    assert token_logprobs(base_model, batch).entropy is None
