"""Teaching the embedded model's vision tower to see, before it learns to speak.

A language model that is trained end to end learns to see last and slowly. Here a linear head on
the image tokens predicts how much of each token's cell every labelled box covers; the head is
thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import trange

from kit.data.phantom.dataset import draw_phantom
from kit.data.phantom.layout import Picture
from kit.data.phantom.shapes import draw_shapes
from kit.model.processor import PreparedImage, Processor


@dataclass(frozen=True)
class Seen:
    """An image and what its tokens show: ``coverage`` (tokens, labels) float32 in 0..1."""

    image: PreparedImage
    coverage: Tensor


def draw_seen(processor: Processor, count: int, seed: int) -> tuple[list[Seen], list[str]]:
    """``count`` drawings of shapes and as many phantoms, and the names of their labels."""
    pictures = [draw(n, seed=seed)[0] for n in range(count) for draw in (draw_shapes, draw_phantom)]
    labels = sorted({label for picture in pictures for label, _ in picture.boxes})
    seen = []
    for picture in pictures:
        image = processor.prepare_image(Image.fromarray(picture.pixels).convert("RGB"), "")
        _, height, width = image.image_grid_thw[0].tolist()
        merge = processor.image_processor.merge_size
        seen.append(Seen(image, coverage(picture, labels, height // merge, width // merge)))
    return seen, labels


def coverage(picture: Picture, labels: Sequence[str], rows: int, columns: int) -> Tensor:
    """How much of each cell of a grid the boxes of each label cover, (cells, labels) in 0..1;
    of several boxes of one label, the most."""
    height, width = picture.pixels.shape
    result = torch.zeros(rows, columns, len(labels))
    for label, (x, y, w, h) in picture.boxes:
        down = _overlap(y * rows / height, (y + h) * rows / height, rows)
        across = _overlap(x * columns / width, (x + w) * columns / width, columns)
        part = result[:, :, labels.index(label)]
        part.copy_(torch.maximum(part, down[:, None] * across))
    return result.flatten(0, 1)


def _overlap(start: float, end: float, cells: int) -> Tensor:
    edges = torch.arange(cells, dtype=torch.float32)
    return (torch.clamp(edges + 1, max=end) - torch.clamp(edges, min=start)).clamp(min=0)


def teach_vision(
    model: nn.Module,
    processor: Processor,
    *,
    images: int,
    steps: int,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> list[float]:
    """Train the vision tower and its merger in place; returns the loss of each step."""
    seen, labels = draw_seen(processor, images // 2, seed)
    torch.manual_seed(seed)
    head = nn.Linear(model.config.text_config.hidden_size, len(labels))
    parameters = [*model.model.visual.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.1)
    losses = []
    batches = _batches(seen, batch_size, seed)
    bar = trange(steps, desc="vision", disable=None)
    for step in bar:
        batch = next(batches)
        features = model.model.get_image_features(
            torch.cat([s.image.pixel_values for s in batch]),
            torch.cat([s.image.image_grid_thw for s in batch]),
            return_dict=True,
        ).pooler_output
        target = torch.cat([s.coverage for s in batch])
        logits = head(torch.cat(list(features)))
        loss = nn.functional.binary_cross_entropy_with_logits(logits, target) * len(labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 100 == 99:
            print(
                f"vision step {step + 1}/{steps}  loss {sum(losses[-100:]) / 100:.4f}", flush=True
            )
    return losses


def _batches(seen: list[Seen], size: int, seed: int) -> Iterator[list[Seen]]:
    dice = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(seen), generator=dice).tolist()
        for start in range(0, len(order) - size + 1, size):
            yield [seen[i] for i in order[start : start + size]]
