"""Rollouts: groups of completions of one prompt each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from kit.counterfactual.images import ImageCache
from kit.counterfactual.regions import Boxes
from kit.data.boxes import ON_GRID
from kit.data.grpo_records import GrpoRecord
from kit.grpo.config import GrpoConfig
from kit.model.merged import sampling_weights
from kit.model.processor import PreparedImage, Processor
from kit.model.sampler import Completion, Prompt, Sampling, generate, seeded_noise
from kit.model.sharing import Branch, Tree, Trunk
from kit.prompting.answers import ParsedAnswer, parse_answer

MODE = "caption_reason_answer"
View = Literal["whole", "without_evidence", "without_control"]


@dataclass(frozen=True)
class Task:
    """A record to be answered. ``prompt_index`` is where it stands in the run's endless sequence of
    prompts, whatever process it falls to. ``view`` says how its image is shown, and ``without``
    what is taken out of it."""

    prompt_index: int
    record: GrpoRecord
    view: View = "whole"
    without: Boxes = ()


@dataclass(frozen=True)
class Group:
    """The completions of one prompt, and what they say. ``trunk`` is the whole prompt, question
    included."""

    task: Task
    trunk: Trunk
    completions: tuple[Completion, ...]
    parsed: tuple[ParsedAnswer, ...]

    def tree(self) -> Tree:
        """The prompt with the completions as its branches, every token of them a target."""
        return Tree(self.trunk, tuple(Branch.of([], c.token_ids) for c in self.completions))


def sampling_of(config: GrpoConfig) -> Sampling:
    """How completions are sampled in training."""
    return Sampling(config.max_completion_length, config.temperature, config.top_p, config.top_k)


def roll_out(
    model: nn.Module,
    image_cache: ImageCache,
    tasks: Sequence[Task],
    sampling: Sampling,
    *,
    num_generations: int,
    seed: int,
    attempt: int = 0,
    merge: bool = False,
) -> list[Group]:
    """Complete each prompt ``num_generations`` times, in one batch.

    A completion follows from the model, the record, ``seed``, its place, its number in the
    group and ``attempt``, and not from what is sampled beside it. ``merge``: see
    :func:`kit.model.merged.sampling_weights`.
    """
    processor = image_cache.processor
    images = image_cache.prepared_all([(task.record.shown, task.without) for task in tasks])
    trunks = [
        _whole_prompt(processor, image, task.record)
        for image, task in zip(images, tasks, strict=True)
    ]
    seeds = [
        (seed, t.prompt_index, attempt, number) for t in tasks for number in range(num_generations)
    ]
    noise = seeded_noise(seeds, sampling.max_new_tokens) if sampling.temperature else None
    with sampling_weights(model, merge=merge):
        completed = generate(
            model,
            [Prompt(trunk, ((),) * num_generations) for trunk in trunks],
            sampling,
            end_id=processor.end_of_turn_id,
            unsampled_ids=processor.unsampled_ids,
            noise=noise,
        )
    return [
        Group(
            task,
            trunk,
            tuple(completions),
            _parsed(processor, completions, len(task.record.images)),
        )
        for task, trunk, completions in zip(tasks, trunks, completed, strict=True)
    ]


def _parsed(
    processor: Processor, completions: Sequence[Completion], n_images: int
) -> tuple[ParsedAnswer, ...]:
    texts = (processor.decode(list(completion.token_ids)) for completion in completions)
    return tuple(parse_answer(text, frames=(ON_GRID,) * n_images) for text in texts)


def _whole_prompt(processor: Processor, image: PreparedImage, record: GrpoRecord) -> Trunk:
    trunk = processor.encode_trunk(image, MODE)
    question = torch.tensor(processor.encode_question(record.question, MODE))
    return dataclasses.replace(trunk, input_ids=torch.cat([trunk.input_ids, question]))
