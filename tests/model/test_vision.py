"""The vision tower: what it is spared, and that nothing of it is stale."""

import pytest
import torch
from PIL import Image

from kit.model import vision
from kit.model.adapters import add_lora
from kit.model.load import load_base, load_processor
from kit.model.logprobs import token_logprobs
from kit.model.sharing import Branch, Tree, pack
from kit.plan.memory import feature_bytes

MODE = "caption_reason_answer"


def batch_of(processor, *images):
    branch = Branch.of([1, 2], [3, 4, 5])
    trunks = [processor.encode_trunk(processor.prepare_image(image), MODE) for image in images]
    return pack([Tree(trunk, (branch,)) for trunk in trunks], merge_size=2)


def noise(size=(90, 60), seed=0) -> Image.Image:
    torch.manual_seed(seed)
    pixels = torch.randint(256, (size[1], size[0], 3), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


@pytest.fixture
def runs(monkeypatch) -> list[int]:
    """How many images each run of a tower had."""
    found, run = [], vision._run

    def counted(model, pixel_values, grids_I3):
        found.append(len(grids_I3))
        return run(model, pixel_values, grids_I3)

    monkeypatch.setattr(vision, "_run", counted)
    return found


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_no_gradient_passes_a_frozen_tower(family, frozen, checkpointing):
    fresh_model, processor = load_base(family), load_processor(family)
    if checkpointing:
        fresh_model.activation_checkpointing_enable({"use_reentrant": False})
    model = add_lora(fresh_model, r=2, alpha=2, dropout=0.0, freeze_vision_tower=frozen).train()
    fired = []
    for block in fresh_model.model.visual.blocks:
        block.register_full_backward_hook(lambda *_: fired.append(1))
    token_logprobs(model, batch_of(processor, noise())).logprobs.sum().backward()
    assert len(fired) == (0 if frozen else len(fresh_model.model.visual.blocks))
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_an_image_passes_a_frozen_tower_once(exact, runs):
    """And gives from the cache what it gives without one."""
    model, processor = exact.model.requires_grad_(False), exact.processor
    first = token_logprobs(model, batch_of(processor, noise(), noise(seed=1))).logprobs
    again = token_logprobs(model, batch_of(processor, noise(seed=1), noise(), noise())).logprobs
    assert runs == [1, 1]
    torch.testing.assert_close(again[:3], first[3:], atol=exact.near, rtol=0)
    model.requires_grad_(True)
    trained = token_logprobs(model, batch_of(processor, noise(), noise(seed=1))).logprobs
    assert runs == [1, 1, 2]
    torch.testing.assert_close(trained, first, atol=exact.near, rtol=0)


def test_nothing_is_stale(fresh_model, processor, runs):
    """Another image of the same size, other bounds, other weights, another precision."""
    model, small = fresh_model.requires_grad_(False), load_processor("tiny", max_pixels=28 * 28 * 4)

    def score(by=processor, **how):
        return token_logprobs(model, batch_of(by, noise(**how))).logprobs

    first = score()
    assert not torch.equal(score(seed=1), first)
    score(by=small, size=(200, 200))
    score(size=(200, 200))
    assert len(runs) == 4
    with torch.autocast("cpu", dtype=torch.bfloat16):
        score()
    assert torch.equal(score(), first)
    assert len(runs) == 5
    weight = next(model.model.visual.parameters())
    with torch.no_grad():
        weight.mul_(1.5)
    assert not torch.equal(score(), first)
    model.model.visual.load_state_dict(
        {name: torch.zeros_like(w) for name, w in model.model.visual.state_dict().items()}
    )
    score()
    assert len(runs) == 7


def test_an_adapter_in_the_tower_switched_off_is_another_tower(fresh_model, processor):
    model = add_lora(fresh_model, r=2, alpha=2, dropout=0.0, freeze_vision_tower=False)
    for name, parameter in model.named_parameters():
        if "visual" in name and "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.requires_grad_(False)
    batch = batch_of(processor, noise())
    adapted = token_logprobs(model, batch).logprobs
    with model.disable_adapter():
        assert not torch.equal(token_logprobs(model, batch).logprobs, adapted)


def test_what_is_kept_is_bounded(family, runs):
    """To two images, each as large as the preflight says; the one that was not seen for longest
    goes."""
    model, processor = load_base(family).requires_grad_(False), load_processor(family)
    batch = batch_of(processor, noise())
    token_logprobs(model, batch)
    (cache,) = [vision._CACHES[model.model.visual]]
    n_tokens = int((batch.input_ids == processor.image_token_id).sum())
    assert cache.n_bytes == feature_bytes(model, n_tokens, 1, bf16=False)
    cache.limit = 2 * cache.n_bytes
    for seed, n_runs in ((1, 2), (0, 2), (2, 3), (0, 3), (1, 4)):
        token_logprobs(model, batch_of(processor, noise(seed=seed)))
        assert len(runs) == n_runs
        assert cache.n_bytes <= cache.limit
