"""Asking a model all the questions of a data file: which belong in one batch, and its answers."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from kit.counterfactual.images import ImageCache
from kit.data.boxes import ON_GRID, Convention, Frame
from kit.data.records import SftRecord
from kit.data.types import Shown, paths_of
from kit.evaluate.config import AnswerBoxes, ModelConfig
from kit.model.adapters import load_adapter
from kit.model.decoding import bytes_a_row
from kit.model.families import boxes_of
from kit.model.folders import named_base
from kit.model.lengths import require_room
from kit.model.load import load_base, load_processor
from kit.model.merged import is_float32, sampling_weights
from kit.model.processor import PreparedImage, Processor
from kit.model.sampler import Completion, Prompt, Sampling, generate, question_prompt
from kit.prompting.answers import ParsedAnswer, parse_answer
from kit.prompting.messages import REQUIRED_KEYS
from kit.run.process import bf16_support, device_name

A_BATCH = 32  # answers that are written together, where the configuration does not say
DECIMALS = 6  # of written probabilities; further ones depend on how many threads add them up


def load_model(config: ModelConfig, accelerator: Accelerator) -> tuple[nn.Module, Processor]:
    """The base, merged or adapted model in evaluation mode, and its processor, which makes images
    as large as they were in the adapter's training where the configuration does not say."""
    name = config.base_model or named_base(config.adapter)
    processor = load_processor(
        name,
        config.adapter,
        min_pixels=config.min_pixels,
        max_pixels=config.max_pixels,
        say=accelerator.print,
    )
    half = bf16_support() == "native" if config.bf16 is None else config.bf16
    precision = "bfloat16" if half else "float32"
    accelerator.print(f"computes on {device_name(accelerator)} in {precision}")
    model = load_base(
        name,
        quantization=config.quantization,
        dtype=torch.bfloat16 if half else torch.float32,
        device=accelerator.device,
    )
    if config.adapter:
        model = load_adapter(model, config.adapter)
    return model.eval(), processor


def rows_that_fit(model: nn.Module, n_columns: int) -> int:
    """How many answers of up to ``n_columns`` tokens, prompts included, are decoded at once where
    the configuration does not say: those that take a quarter of the device's whole memory, at
    most 128 on a GPU and 64 on a CPU. The same on every run of a machine."""
    parameter = next(model.parameters())
    if parameter.device.type == "cuda":
        memory, most = torch.cuda.get_device_properties(parameter.device).total_memory, 128
    else:
        memory, most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), 64
    taken = bytes_a_row(model.config.get_text_config(), n_columns)
    return max(1, min(most, memory // 4 // taken))


@dataclass(frozen=True)
class Request:
    """One image (or several that are shown together) in one mode with the records (by index) whose
    questions are asked of it."""

    image: Shown
    mode: str
    records: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """A record, the mode in which it was asked, and the answer to its whole image."""

    record: SftRecord
    mode: str
    parsed: ParsedAnswer


@dataclass(frozen=True)
class Predictor:
    """A model that is asked of images, its greedy answers, how many are decoded at once, and what
    the numbers of its boxes count."""

    model: nn.Module
    image_cache: ImageCache
    max_new_tokens: int
    batch_size: int
    answer_boxes: Convention = "grid_1000"

    @property
    def processor(self) -> Processor:
        return self.image_cache.processor

    def complete(self, prompts: Sequence[Prompt]) -> list[list[Completion]]:
        """Greedy completions of prompts."""
        return generate(
            self.model,
            prompts,
            Sampling(max_new_tokens=self.max_new_tokens),
            end_id=self.processor.end_of_turn_id,
            unsampled_ids=self.processor.unsampled_ids,
            max_rows=self.batch_size,
        )

    def answers(self, asks: Sequence[tuple[PreparedImage | None, str, str]]) -> list[str]:
        """The answer to each (image or None, question, mode), each distinct one asked once."""
        grouped: dict[tuple[str, str], dict[str, PreparedImage | None]] = {}
        for image, question, mode in asks:
            grouped.setdefault((image.key if image else "", mode), {})[question] = image
        places, prompts = [], []
        for (key, mode), images in grouped.items():
            questions = list(images)
            for start in range(0, len(questions), self.batch_size):
                part = questions[start : start + self.batch_size]
                places += [(key, mode, question) for question in part]
                prompts.append(question_prompt(self.processor, images[part[0]], part, mode))
        done = itertools.chain.from_iterable(self.complete(prompts))
        said = {
            place: self.parse(completion, place[1]).answer
            for place, completion in zip(places, done, strict=True)
        }
        return [said[image.key if image else "", mode, q] for image, q, mode in asks]

    def parse(self, completion: Completion, mode: str, shown: Shown | None = None) -> ParsedAnswer:
        """What a completion says of what it was ``shown``, taken apart, its boxes on the grid
        whatever they count. Without that, boxes are taken to be on the grid of one image."""
        text = self.processor.decode(list(completion.token_ids))
        frames = (ON_GRID,) if shown is None else self.frames(shown)
        return parse_answer(text, required=REQUIRED_KEYS[mode], frames=frames)

    def frames(self, shown: Shown) -> tuple[Frame, ...]:
        """What the numbers of boxes count, in each image of a question."""
        paths = paths_of(shown)
        if self.answer_boxes == "grid_1000":
            return (ON_GRID,) * len(paths)
        sizes = ((self.image_cache.size(path), self.resized(path)) for path in paths)
        return tuple(Frame(self.answer_boxes, size, resized) for size, resized in sizes)

    def resized(self, path: str) -> tuple[int, int]:
        """``(width, height)`` of an image as the model sees it."""
        _, height, width = self.image_cache.prepared(path).image_grid_thw[0].tolist()
        patch = self.processor.image_processor.patch_size
        return width * patch, height * patch


@contextlib.contextmanager
def loaded_predictor(
    config: ModelConfig,
    accelerator: Accelerator,
    records: Sequence[SftRecord],
    modes: Sequence[str],
    *,
    inpainting: str = "telea",
    images_dir: Path | None = None,
    answer_boxes: AnswerBoxes = "grid_1000",
) -> Iterator[Predictor]:
    """The model that is configured, ready to be asked of ``records``, its adapter merged for that
    long where that is exact.

    Args:
        inpainting: how parts are taken out of images.
        images_dir: where images without a part are kept, or None.
        answer_boxes: what the boxes in its answers count; said if that is not the grid.

    Raises:
        DataError: a prompt for which the model has no positions.
    """
    model, processor = load_model(config, accelerator)
    longest = require_room(records, processor, modes, model, config.max_new_tokens)
    at_once = config.per_device_eval_batch_size or rows_that_fit(model, longest)
    image_cache = ImageCache(processor, inpainting, images_dir)
    convention = convention_of(answer_boxes, model, config.adapter)
    if convention != "grid_1000":
        accelerator.print(f"boxes in answers count {convention}; converted to the 0..1000 grid")
    with sampling_weights(model, merge=is_float32(model)):
        yield Predictor(model, image_cache, config.max_new_tokens, at_once, convention)


def convention_of(told: AnswerBoxes, model: nn.Module, adapter: str | None) -> Convention:
    """What the boxes in a model's answers count: what is told, or where that is ``auto`` the grid
    of a model that the kit trained, and its family's own convention of any other."""
    if told != "auto":
        return told
    return "grid_1000" if adapter else boxes_of(model.config)


def plan(
    records: Sequence[SftRecord], modes: Sequence[str], batch_size: int | None
) -> list[list[Request]]:
    """Batches of at most ``batch_size`` answers (None: ``A_BATCH``); questions of one image stand
    together."""
    batch_size = batch_size or A_BATCH
    by_image: dict[Shown, list[int]] = {}
    for index, record in enumerate(records):
        by_image.setdefault(record.shown, []).append(index)
    asks = []
    for image, members in by_image.items():
        for start in range(0, len(members), batch_size):
            part = tuple(members[start : start + batch_size])
            asks += [Request(image, mode, part) for mode in modes]
    batches: list[list[Request]] = []
    room = 0
    for ask in asks:
        if not batches or len(ask.records) > room:
            batches.append([])
            room = batch_size
        batches[-1].append(ask)
        room -= len(ask.records)
    return batches


def answer(
    predictor: Predictor, records: Sequence[SftRecord], batch: Sequence[Request]
) -> list[tuple[int, str, Completion]]:
    """Greedy answers of one batch, with the index of the record and the mode."""
    images = predictor.image_cache.prepared_all([(ask.image, ()) for ask in batch])
    prompts = [
        question_prompt(
            predictor.processor, image, [records[i].question for i in ask.records], ask.mode
        )
        for image, ask in zip(images, batch, strict=True)
    ]
    return [
        (index, ask.mode, completion)
        for ask, group in zip(batch, predictor.complete(prompts), strict=True)
        for index, completion in zip(ask.records, group, strict=True)
    ]
