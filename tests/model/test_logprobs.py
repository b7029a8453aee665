"""Log-probabilities and what is told beside them, against torch's own distributions."""

import pytest
import torch
from PIL import Image

from kit.model import head
from kit.model.logprobs import base_of, token_logprobs
from kit.model.sharing import Branch, Tree, pack

MODE = "caption_reason_answer"


def test_logprobs_entropy_and_greedy_choice_are_those_of_the_distribution(base_model, processor):
    image = processor.prepare_image(Image.effect_noise((90, 60), 60).convert("RGB"))
    trunk = processor.encode_trunk(image, MODE)
    question = processor.encode_question("Where is it?", MODE)
    answer = processor.encode_answer("In the left lung.")
    batch = pack([Tree(trunk, (Branch.of(question, answer),))], merge_size=2)
    found = token_logprobs(base_model, batch, temperature=0.7, entropy=True, argmax=True)

    ids = torch.cat([trunk.input_ids, torch.tensor([*question, *answer])])[None]
    with torch.no_grad():
        logits = base_of(base_model)(
            input_ids=ids, pixel_values=trunk.pixel_values, image_grid_thw=trunk.image_grid_thw,
            mm_token_type_ids=(ids == processor.image_token_id).int(),
        ).logits[0, -len(answer) - 1 : -1]  # fmt: skip
    chances = torch.distributions.Categorical(logits=logits / 0.7)
    expected = torch.tensor(answer)
    torch.testing.assert_close(found.logprobs, chances.log_prob(expected), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.entropy, chances.entropy(), atol=1e-4, rtol=0)
    assert torch.equal(found.is_argmax, logits.argmax(dim=-1) == expected)
    plain = token_logprobs(base_model, batch)
    assert plain.entropy is plain.is_argmax is None


@pytest.mark.parametrize("trained", [False, True], ids=["frozen head", "trained head"])
@pytest.mark.parametrize("chunk", [300, 10**6])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_head_in_float32_is_that_of_float64(trained, chunk, autocast, monkeypatch):
    """On bfloat16 weights and hidden states, or on float32 ones that autocast would round; scored
    and as a plain head, gradients too. Else it is off by what bfloat16 leaves of a logit."""
    torch.manual_seed(0)
    monkeypatch.setattr(head, "CHUNK", chunk)
    dtype = torch.float32 if autocast else torch.bfloat16
    scoring = head.ScoringHead.of(torch.nn.Linear(24, 60, bias=False, dtype=dtype))
    scoring.requires_grad_(trained)
    hidden = (20 * torch.randn(11, 24)).to(dtype).requires_grad_()
    targets, upstream = torch.randint(60, (11,)), torch.randn(11)
    inputs = [hidden, scoring.weight][: 1 + trained]

    wide_hidden, wide_weight = (
        t.detach().double().requires_grad_() for t in (hidden, scoring.weight)
    )
    logits = wide_hidden @ wide_weight.T
    whole = logits.log_softmax(dim=1).gather(1, targets[:, None])[:, 0]
    wanted = torch.autograd.grad(whole @ upstream.double(), [wide_hidden, wide_weight])
    off = []
    for scoring.in_float32 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            plain = scoring(hidden)
            logprobs, _, _ = scoring(hidden, targets)
        off.append((logprobs - whole).abs().max())
        found = torch.autograd.grad(logprobs @ upstream, inputs)
    assert off[0] > 1e-3
    assert off[1] < 2e-5
    torch.testing.assert_close(plain.double(), logits, atol=2e-5, rtol=0)
    exact = 1e-4 if autocast else 0.02  # the gradient of a bfloat16 tensor is one
    for mine, theirs in zip(found, wanted, strict=False):
        assert (mine - theirs).norm() < exact * theirs.norm()


@pytest.mark.parametrize("trained", [False, True], ids=["frozen head", "trained head"])
@pytest.mark.parametrize("chunk", [1, 300, 10**6])
def test_chunks_give_the_scores_and_gradients_of_the_whole(trained, chunk, monkeypatch):
    """Of random hidden states, 11 targets of 60 words; a chunk of 300 logits is 5 targets."""
    torch.manual_seed(0)
    plain = torch.nn.Linear(24, 60, bias=False, dtype=torch.float64)
    plain.requires_grad_(trained)
    hidden = torch.randn(11, 24, dtype=torch.float64, requires_grad=True)
    targets, upstream = torch.randint(60, (11,)), torch.randn(11, dtype=torch.float64)
    chances = torch.distributions.Categorical(logits=plain(hidden) / 0.7)
    whole = chances.log_prob(targets)
    wanted = torch.autograd.grad(whole @ upstream, [hidden, plain.weight][: 1 + trained])

    monkeypatch.setattr(head, "CHUNK", chunk)
    scoring = head.ScoringHead.of(plain)
    logprobs, is_argmax, entropy = scoring(hidden, targets, 0.7, entropy=True, argmax=True)
    found = torch.autograd.grad(logprobs @ upstream, [hidden, plain.weight][: 1 + trained])
    torch.testing.assert_close(logprobs, whole, atol=1e-12, rtol=0)
    torch.testing.assert_close(entropy, chances.entropy(), atol=1e-12, rtol=0)
    assert torch.equal(is_argmax, chances.logits.argmax(dim=1) == targets)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)
    assert not entropy.requires_grad
    with torch.no_grad():
        assert torch.equal(scoring(hidden, targets, 0.7)[0], logprobs)
