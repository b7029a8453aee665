"""What a reward may ask of, and what several of them ask."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from kit.counterfactual.images import ImageCache
from kit.data.grpo_records import GrpoRecord
from kit.grpo.config import GrpoConfig
from kit.grpo.rollout import Group, Task
from kit.prompting.answers import ParsedAnswer
from kit.scoring.consistency import Consistency
from kit.scoring.exact import exact_match


@dataclass(frozen=True)
class Judge:
    """The policy itself as the ``model`` that is asked, within ``autocast``; ``consistency``
    compares texts, where a reward does."""

    model: nn.Module | None
    image_cache: ImageCache | None
    config: GrpoConfig
    consistency: Consistency | None = None
    autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext


def completions_of(groups: Sequence[Group]) -> Iterator[tuple[Task, ParsedAnswer]]:
    """Every completion of all groups, in order."""
    for group in groups:
        for parsed in group.parsed:
            yield group.task, parsed


def spread(
    groups: Sequence[Group], *measured: tuple[Sequence[int], Sequence[float | None]]
) -> list[float | None]:
    """A score for every completion of all groups, in order: what was ``measured`` of the
    completions of the groups with these numbers, absent where nothing was."""
    scores: list[list[float | None]] = [[None] * len(group.parsed) for group in groups]
    for numbers, values in measured:
        rest = iter(values)
        for n in numbers:
            scores[n] = [next(rest) for _ in groups[n].parsed]
    return [value for own in scores for value in own]


def is_right(parsed: ParsedAnswer, record: GrpoRecord) -> bool:
    """Whether an answer is the gold answer."""
    return exact_match(parsed.answer, record.gold, record.choices) == 1
