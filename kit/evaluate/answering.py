"""Asking a model all the questions of a data file: which belong in one batch, and its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from kit.counterfactual.gallery import Gallery
from kit.data.records import SftRecord
from kit.evaluate.config import AskingConfig
from kit.model.adapters import load_adapter, named_base
from kit.model.generation import Completion, Prompt, Sampling, generate, question_prompt
from kit.model.load import load_base, load_processor
from kit.model.processor import Processor


def load_model(config: AskingConfig, accelerator: Accelerator) -> tuple[nn.Module, Processor]:
    """The base, merged or adapted model in evaluation mode, and its processor."""
    name = config.base_model or named_base(config.adapter)
    processor = load_processor(name, min_pixels=config.min_pixels, max_pixels=config.max_pixels)
    half = config.bf16
    if half is None:
        half = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    model = load_base(
        name,
        quantization=config.quantization,
        dtype=torch.bfloat16 if half else torch.float32,
        attn_implementation=config.attn_implementation,
        device=accelerator.device,
    )
    if config.adapter:
        model = load_adapter(model, config.adapter)
    return model.eval(), processor


@dataclass(frozen=True)
class Ask:
    """One image in one mode with the records (by index) whose questions are asked of it."""

    image: str
    mode: str
    records: tuple[int, ...]


def plan(records: Sequence[SftRecord], modes: Sequence[str], batch_size: int) -> list[list[Ask]]:
    """Batches of at most ``batch_size`` answers; questions of one image stand together."""
    by_image: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        by_image.setdefault(record.image, []).append(index)
    asks = []
    for image, members in by_image.items():
        for start in range(0, len(members), batch_size):
            part = tuple(members[start : start + batch_size])
            asks += [Ask(image, mode, part) for mode in modes]
    batches: list[list[Ask]] = []
    room = 0
    for ask in asks:
        if not batches or len(ask.records) > room:
            batches.append([])
            room = batch_size
        batches[-1].append(ask)
        room -= len(ask.records)
    return batches


def answer(
    model: nn.Module,
    gallery: Gallery,
    records: Sequence[SftRecord],
    batch: Sequence[Ask],
    max_new_tokens: int,
) -> list[tuple[int, str, Completion]]:
    """Greedy answers of one batch, with the index of the record and the mode."""
    prompts = [
        question_prompt(
            gallery.processor,
            gallery.prepared(ask.image),
            [records[i].question for i in ask.records],
            ask.mode,
        )
        for ask in batch
    ]
    completions = complete(model, gallery.processor, prompts, max_new_tokens)
    return [
        (index, ask.mode, completion)
        for ask, group in zip(batch, completions, strict=True)
        for index, completion in zip(ask.records, group, strict=True)
    ]


def complete(
    model: nn.Module, processor: Processor, prompts: Sequence[Prompt], max_new_tokens: int
) -> list[list[Completion]]:
    """Greedy completions of prompts."""
    return generate(
        model,
        prompts,
        Sampling(max_new_tokens=max_new_tokens),
        end_id=processor.end_of_turn_id,
        unsampled_ids=processor.unsampled_ids,
    )
