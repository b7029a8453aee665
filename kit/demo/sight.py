"""Teaching the embedded model to see, before it learns to talk.

A language model that is trained on long answers learns to see last and slowly, and Qwen2-VL gives
an image token no absolute position at all: where a token lies shows only in its distance from the
text before the image. So it first learns the short of it, all in one loss: image tokens come to
resemble the words for what they show, and tell where they lie and the box of the smallest thing on
them; and the questions about a picture are answered at once, without a sentence around the answer,
as is where its parts are. The heads that read the tokens are thrown away afterwards.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import trange

from kit.data.boxes import pixels_to_grid, xywh_to_xyxy
from kit.data.evidence import find_evidence
from kit.data.phantom.dataset import draw_phantom
from kit.data.phantom.layout import Picture, Question
from kit.data.questions import RawQuestion
from kit.data.records import Region, SftRecord
from kit.data.targets import to_sft_record
from kit.model.attention import mask_for
from kit.model.processor import PreparedImage, Processor
from kit.model.sharing import Branch, Tree, pack
from kit.model.vision import embed, encode_images

MODE = "caption_reason_answer"
LAYERS = 2  # of the language model, after which image tokens know where they lie
SIDES = ("left", "right", "upper", "lower")
BINS = 16  # of a side of the image
COVERED = 0.3  # how much of a cell a thing must cover for the cell to tell its box


@dataclass(frozen=True)
class Lesson:
    """A picture, what its tokens show, and short questions with their answers.

    ``coverage`` (tokens, labels) float32 in 0..1. ``places`` (tokens, 6) float32, as parts of the
    image's sides: the middle of the token's cell (x, y) and the box (x1, y1, x2, y2) of the
    smallest thing that covers it, NaN where none does. ``branches`` continue the image's trunk.
    """

    image: PreparedImage
    coverage: Tensor
    places: Tensor
    branches: tuple[Branch, ...]


def draw_lessons(processor: Processor, count: int, seed: int) -> tuple[list[Lesson], list[str]]:
    """``count`` phantoms, and the names of their labels."""
    drawn = [draw_phantom(number, seed=seed) for number in range(count)]
    labels = sorted({label for picture, _ in drawn for label, _ in picture.boxes})
    lessons = [_lesson(processor, n, *one, labels) for n, one in enumerate(drawn)]
    return lessons, labels


def _lesson(
    processor: Processor,
    number: int,
    picture: Picture,
    questions: Sequence[Question],
    labels: Sequence[str],
) -> Lesson:
    """All questions answered at once, one of them in full too, and one label's place."""
    rng = random.Random(number)
    image = Image.fromarray(picture.pixels).convert("RGB")
    prepared = processor.prepare_image(image)
    _, height, width = prepared.image_grid_thw[0].tolist()
    merge = processor.image_processor.merge_size
    rows, columns = height // merge, width // merge
    branches = [Branch.of(*processor.encode_direct(q.question, MODE, q.answer)) for q in questions]
    question = rng.choice(questions)
    branches.append(
        Branch.of(
            processor.encode_question(question.question, MODE),
            processor.encode_answer(record_of(picture, question).output),
        )
    )
    branches.append(_where(processor, picture, rng.choice(picture.boxes)[0]))
    return Lesson(
        image=prepared,
        coverage=coverage(picture, labels, rows, columns),
        places=places(picture, rows, columns),
        branches=tuple(branches),
    )


def record_of(picture: Picture, question: Question) -> SftRecord:
    """The record that the reader of the SLAKE layout would make of a question."""
    height, width = picture.pixels.shape
    regions = tuple(Region(label, xywh_to_xyxy(box)) for label, box in picture.boxes)
    asked = (question.question, question.answer, question.content_type)
    raw = RawQuestion(
        dataset="SLAKE", qid="", split="train", question=question.question,
        answer=question.answer, answer_type=question.answer_type, image=Path("drawn"),
        image_size=(width, height), where="", content_type=question.content_type,
        modality=picture.modality, location=picture.location, regions=regions,
        evidence=find_evidence(regions, *asked),
    )  # fmt: skip
    return to_sft_record(raw, ".")


def _where(processor: Processor, picture: Picture, label: str) -> Branch:
    """Where a label is: all its boxes, as answers give them."""
    height, width = picture.pixels.shape
    boxes = [
        pixels_to_grid(xywh_to_xyxy(box), (width, height))
        for other, box in picture.boxes
        if other == label
    ]
    question = processor.encode_question(f"Where is the {label.lower()}?", MODE)
    start = processor.encode('{"boxes": ')
    return Branch.of(question + start, processor.encode(json.dumps(boxes) + "}"))


def coverage(picture: Picture, labels: Sequence[str], rows: int, columns: int) -> Tensor:
    """How much of each cell of a grid the boxes of each label cover, (cells, labels) in 0..1;
    of several boxes of one label, the most."""
    result = torch.zeros(rows * columns, len(labels))
    for label, box in picture.boxes:
        part = result[:, labels.index(label)]
        part.copy_(torch.maximum(part, _cover(box, picture, rows, columns)))
    return result


def _cover(box: tuple[int, ...], picture: Picture, rows: int, columns: int) -> Tensor:
    height, width = picture.pixels.shape
    x, y, w, h = box
    down = _overlap(y * rows / height, (y + h) * rows / height, rows)
    across = _overlap(x * columns / width, (x + w) * columns / width, columns)
    return (down[:, None] * across).flatten()


def _overlap(start: float, end: float, cells: int) -> Tensor:
    edges = torch.arange(cells, dtype=torch.float32)
    return (torch.clamp(edges + 1, max=end) - torch.clamp(edges, min=start)).clamp(min=0)


def places(picture: Picture, rows: int, columns: int) -> Tensor:
    """Where each cell of a grid and the smallest thing on it lie, as :class:`Lesson` says."""
    height, width = picture.pixels.shape
    result = torch.full((rows * columns, 6), float("nan"))
    result[:, 0] = ((torch.arange(columns) + 0.5) / columns).repeat(rows)
    result[:, 1] = ((torch.arange(rows) + 0.5) / rows).repeat_interleave(columns)
    by_size = sorted(picture.boxes, key=lambda part: part[1][2] * part[1][3], reverse=True)
    for _, (x, y, w, h) in by_size:
        box = torch.tensor([x / width, y / height, (x + w) / width, (y + h) / height])
        result[_cover((x, y, w, h), picture, rows, columns) >= COVERED, 2:] = box
    return result


def soft_bins(values: Tensor) -> Tensor:
    """Numbers in 0..1 as weights of the two nearest of ``BINS`` bins, (..., BINS).

    >>> soft_bins(torch.tensor([0.5]))[0, 6:10].tolist()
    [0.0, 0.5, 0.5, 0.0]
    """
    place = values.clamp(0, 1)[..., None] * BINS - 0.5
    place = place.clamp(0, BINS - 1)
    return (1 - (place - torch.arange(BINS)).abs()).clamp(min=0)


class Heads(nn.Module):
    """What reads image tokens while the model learns to see, and the loss of what it reads.

    What covers a cell is read as the likeness of its token to the words' own embeddings, so that a
    question's word finds the place that it names, and the place gives the word for an answer.
    Where things lie is read by a linear layer.
    """

    def __init__(self, model: nn.Module, processor: Processor, labels: Sequence[str]):
        super().__init__()
        self.embedding = model.get_input_embeddings()
        self.words = [torch.tensor(processor.encode(f" {label.lower()}")) for label in labels]
        self.sides = [torch.tensor(processor.encode(f" {side}")) for side in SIDES]
        self.scale = nn.Parameter(torch.tensor([4.0, 4.0]))
        self.bias = nn.Parameter(torch.tensor([-3.0, 0.0]))
        self.places = nn.Linear(model.config.text_config.hidden_size, 6 * BINS)

    def likeness(self, hidden: Tensor, words: Sequence[Tensor], which: int) -> Tensor:
        """(tokens, words): cosines of tokens with words, scaled to logits."""
        meant = torch.stack([self.embedding(ids).mean(dim=0) for ids in words])
        cosine = nn.functional.normalize(hidden, dim=1) @ nn.functional.normalize(meant, dim=1).T
        return cosine * self.scale[which].exp() + self.bias[which]

    def forward(
        self, shown: Tensor, placed: Tensor, coverage: Tensor, places: Tensor
    ) -> dict[str, Tensor]:
        """``shown`` (tokens, hidden_size) are image tokens as the vision tower gives them,
        ``placed`` the same after ``LAYERS`` layers; the rest is as :class:`Lesson` says."""
        binary = nn.functional.binary_cross_entropy_with_logits
        logged = self.places(placed).unflatten(-1, (6, BINS)).log_softmax(dim=-1)
        missed = -(soft_bins(places.nan_to_num()) * logged).sum(dim=-1)
        there = ~places.isnan()
        x, y = places[:, 0], places[:, 1]
        sides = torch.stack([x < 0.5, x > 0.5, y < 0.5, y > 0.5], dim=1).float()
        return {
            "coverage": binary(self.likeness(shown, self.words, 0), coverage) * len(self.words),
            "sides": binary(self.likeness(placed, self.sides, 1), sides),
            "cell": missed[:, :2].mean(),
            "box": (missed[:, 2:] * there[:, 2:]).sum() / there[:, 2:].sum(),
        }


def teach_sight(
    model: nn.Module,
    processor: Processor,
    *,
    pictures: int,
    steps: int,
    batch_size: int = 12,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> list[float]:
    """Train the whole model in place on ``pictures`` phantoms; returns the loss of each step."""
    lessons, labels = draw_lessons(processor, pictures, seed)
    torch.manual_seed(seed)
    heads = Heads(model, processor, labels)
    parameters = list({id(p): p for p in (*model.parameters(), *heads.parameters())}.values())
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.1)
    losses: list[float] = []
    logged: dict[str, float] = {}
    batches = _batches(lessons, batch_size, seed)
    for step in trange(steps, desc="sight", disable=None):
        parts = lesson_losses(model, processor, heads, next(batches))
        loss = sum(parts.values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        for name, part in parts.items():
            logged[name] = logged.get(name, 0.0) + part.item() / 100
        if step % 100 == 99:
            words = "  ".join(f"{name} {value:.4f}" for name, value in logged.items())
            print(f"sight step {step + 1}/{steps}  {words}", flush=True)
            logged.clear()
    return losses


def lesson_losses(
    model: nn.Module, processor: Processor, heads: Heads, lessons: Sequence[Lesson]
) -> dict[str, Tensor]:
    """The loss of each head, and of the answers."""
    batch = pack(
        [Tree(processor.encode_trunk(lesson.image, MODE), lesson.branches) for lesson in lessons],
        merge_size=processor.image_processor.merge_size,
    )
    images = encode_images(model, *batch.images())
    output = model.model.language_model(
        **embed(model, batch.input_ids, images),
        **mask_for(model, batch.tree_mask, batch.group),
        position_ids=batch.position_ids,
        use_cache=False,
        output_hidden_states=True,
    )
    seen = output.hidden_states[LAYERS][batch.input_ids == model.config.image_token_id]
    logged = heads(
        images[0],
        seen,
        torch.cat([lesson.coverage for lesson in lessons]),
        torch.cat([lesson.places for lesson in lessons]),
    )
    logits = model.lm_head(output.last_hidden_state.flatten(0, 1)[batch.predictor_index])
    answers = nn.functional.cross_entropy(logits, batch.target_ids)
    return {**logged, "answers": answers}


def _batches(lessons: list[Lesson], size: int, seed: int) -> Iterator[list[Lesson]]:
    rng = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(lessons), generator=rng).tolist()
        for start in range(0, len(order) - size + 1, size):
            yield [lessons[i] for i in order[start : start + size]]
