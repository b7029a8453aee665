"""What an update of the 2B model computes and keeps, counted on the meta device.

Of a quarter of its layers; ``LAYERS=all`` takes them all, in four minutes.
"""

import os

import numpy as np
import pytest
import torch
from shapes import shape
from torch import nn
from transformers import AutoModelForImageTextToText

from kit.grpo.config import GrpoConfig
from kit.model import vision
from kit.model.attention import use_tree_attention
from kit.model.merged import sampling_weights
from kit.model.sampler import Prompt, Sampling, generate, seeded_noise
from kit.model.sharing import Branch, Tree, Trunk, pack
from kit.plan.flops import update_flops
from kit.plan.memory import activation_bytes, merged_bytes, sampling_bytes
from kit.plan.torch_internals import LiveBytes, fused_attention
from kit.train.policy import make_trainable

SHARE = 1 if os.environ.get("LAYERS") == "all" else 4


def policy() -> nn.Module:
    config = GrpoConfig(base_model="-", data="-", output_dir="-", gradient_checkpointing=True)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(
            shape("Qwen2-VL-2B", SHARE), attn_implementation="sdpa"
        )
        return make_trainable(use_tree_attention(model), config).train()


def prompts(side: int, config) -> list[Tree]:
    """2 prompts x 8 completions of 256 tokens, with images of so many pixels a side."""
    patches = side // 14
    ids = [config.image_token_id] * (patches // 2) ** 2 + [1] * 45
    trees = []
    for number in range(2):
        trunk = Trunk(
            torch.tensor(ids), config.image_token_id, str(number),
            torch.empty(patches**2, 3 * 2 * 14 * 14), torch.tensor([[1, patches, patches]]),
        )  # fmt: skip
        trees.append(Tree(trunk, (Branch.of([], [1] * 256),) * 8))
    return trees


@pytest.mark.slow
@pytest.mark.parametrize(("side", "saved"), [(448, 0.2), (1036, 0.35)])
def test_an_update_computes_what_is_needed(side, saved, monkeypatch):
    """Against matrices of all scores and a tower with gradients; its features are there from the
    rollout."""
    model = policy().to(torch.bfloat16)
    batch = pack(prompts(side, model.config), merge_size=2)
    first, after = update_flops(model, batch), update_flops(model, batch)
    monkeypatch.setattr(vision, "_is_trained", lambda tower: True)
    model.base_model.model.model.language_model.set_attn_implementation("sdpa")
    before = update_flops(model, batch)
    print(f"{side} px: {before / 1e12:.1f} TFLOP before, {first / 1e12:.1f}, {after / 1e12:.1f}")
    assert after < (1 - saved) * before


@pytest.mark.slow
@pytest.mark.parametrize("side", [448, 1036])
def test_logits_do_not_grow_with_the_targets(side):
    model = policy()
    batch = pack(prompts(side, model.config), merge_size=2)
    whole = len(batch.target_ids) * model.config.text_config.vocab_size * 4
    total = sum(activation_bytes(model, batch, bf16=True, entropy=True))
    print(f"{side} px: {total / 2**30:.2f} GiB, logits of all targets {whole / 2**30:.2f} GiB")
    assert total < whole


@pytest.mark.slow
def test_sampling_takes_what_the_preflight_says(monkeypatch):
    """Keys, values, scores and merged copies, when a quarter of the rows has ended."""
    model = policy().to(torch.bfloat16)
    config = GrpoConfig(base_model="-", data="-", output_dir="-")
    real, rows = torch.Tensor.tolist, 2 * config.num_generations
    n_new = config.max_completion_length

    def tolist(tensor):  # the host's reads
        if not tensor.is_meta:
            return real(tensor)
        if tensor.dtype == torch.bool and len(tensor) == rows:
            return [True] * (rows // 4) + [False] * (rows * 3 // 4)
        return np.ones(tensor.shape, int).tolist()

    monkeypatch.setattr(torch.Tensor, "tolist", tolist)
    monkeypatch.setattr(torch.Tensor, "__int__", lambda tensor: 0)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # not known of meta
    trunks = [Trunk(torch.ones(600, dtype=torch.int64), -1, "", None, None)] * 2
    living = LiveBytes(0)
    for tensor in (*model.parameters(), *model.buffers()):
        living.know(tensor)
    with fused_attention(), living, sampling_weights(model):
        generate(
            model, [Prompt(trunk, ((),) * config.num_generations) for trunk in trunks],
            Sampling(n_new, temperature=1.0), end_id=-1, unsampled_ids=[],
            noise=seeded_noise([(1,)] * rows, n_new),
        )  # fmt: skip
    told = sampling_bytes(model, [600] * 2, config, bf16=True) + merged_bytes(model, bf16=True)
    print(f"preflight {told / 2**30:.2f} GiB, {living.peak / 2**30:.2f}")
    assert told == pytest.approx(living.peak, rel=0.1)
