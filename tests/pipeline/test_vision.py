"""The targets that teach the vision tower to see."""

import numpy as np
import torch
from transformers import Qwen2VLForConditionalGeneration

from kit.data.phantom.layout import Picture
from kit.model.tiny import tiny_config
from kit.pipeline.vision import coverage, draw_seen, teach_vision


def test_coverage_by_counting_pixels():
    dice = np.random.default_rng()
    for _ in range(20):
        height, width = 60, 80
        x, y = int(dice.integers(0, 60)), int(dice.integers(0, 40))
        w, h = int(dice.integers(5, 81 - x)), int(dice.integers(5, 61 - y))
        pixels = np.zeros((height, width), np.uint8)
        pixels[y : y + h, x : x + w] = 1
        picture = Picture(pixels, "CT", "Abdomen", (("Liver", (x, y, w, h)),), None)
        counted = pixels.reshape(6, 10, 8, 10).mean(axis=(1, 3)).flatten()
        covered = coverage(picture, ["Heart", "Liver"], 6, 8)
        assert covered[:, 0].sum() == 0
        np.testing.assert_allclose(covered[:, 1].numpy(), counted, atol=1e-5)


def test_cells_are_the_image_tokens(processor):
    seen, labels = draw_seen(processor, 3, seed=0)
    for item in seen:
        assert item.coverage.shape == (item.image.n_tokens, len(labels))
        assert 0 <= item.coverage.min() <= item.coverage.max() <= 1
        assert item.coverage.sum() > 0


def test_teaching_lowers_the_loss_and_touches_the_tower_alone(processor):
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(tiny_config(processor.tokenizer))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = teach_vision(model, processor, images=24, steps=20, batch_size=8)
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == ("visual" not in name), name
