"""A run that learns the form of an answer and nothing of what to answer: its format reward rises
while its answer reward stands still."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kit.run.state import Progress

FORMAT, ANSWER = "rewards/format/mean", "rewards/answer/mean"
BLOCKS = 5  # of each third of the steps: neighbouring steps are alike, means of blocks hardly
LEAST_RISE = 0.15  # of the format reward, on its scale of 0 to 1
CLEAR, POSSIBLE = 6.0, 3.0  # standard errors: of what is called a rise, and of what may yet be one
BEST = 0.9  # an answer reward that need not rise


@dataclass(frozen=True)
class Move:
    """From the first third of a series to its last, and the standard error of that."""

    start: float
    end: float
    error: float

    @property
    def rise(self) -> float:
        return self.end - self.start


def move(values: Sequence[float]) -> Move:
    """How a series (one value a step, at least ``3 * BLOCKS`` of them) moves. The error comes from
    how the means of neighbouring blocks of steps differ within a third (von Neumann), so that a
    trend there hardly counts as noise.

    >>> found = move([0.2] * 5 + [0.5] * 5 + [0.8, 0.9] * 3)
    >>> round(found.start, 2), round(found.end, 2), round(found.error, 3)
    (0.2, 0.86, 0.032)
    """
    size = len(values) // (3 * BLOCKS)
    length = size * BLOCKS
    thirds = [
        [statistics.fmean(part[at : at + size]) for at in range(0, length, size)]
        for part in (values[:length], values[-length:])
    ]
    start, end = map(statistics.fmean, thirds)
    jumps = [(b - a) ** 2 for third in thirds for a, b in itertools.pairwise(third)]
    return Move(start, end, math.sqrt(statistics.fmean(jumps) / BLOCKS))


def stands_still(format_rewards: Sequence[float], answer_rewards: Sequence[float]) -> bool:
    """Whether over these steps (a value each) the format reward clearly rises and the answer reward
    neither does, nor may have risen by half as much.

    >>> rising = [0.3 + 0.006 * step for step in range(100)]
    >>> stands_still(rising, [0.2, 0.3] * 50), stands_still(rising, rising)
    (True, False)
    >>> stands_still([0.9] * 100, [0.2, 0.3] * 50)
    False
    """
    form, answer = move(format_rewards), move(answer_rewards)
    return (
        form.rise >= LEAST_RISE
        and form.rise > CLEAR * form.error
        and answer.rise <= 2 * answer.error
        and answer.rise + POSSIBLE * answer.error < form.rise / 2
        and answer.end < BEST
    )


def watch(progress: Progress, metrics: Mapping[str, float], steps: int) -> str | None:
    """What is to be said after a step with these ``metrics``, once a spell: it is over when for
    ``steps`` steps nothing would have been said. Everything is in ``progress``, so a run that is
    resumed says what it would have said."""
    if not steps or not metrics.keys() >= {FORMAT, ANSWER}:
        return None
    progress.recent_rewards = [
        *progress.recent_rewards[1 - steps :], [metrics[FORMAT], metrics[ANSWER]],
    ]  # fmt: skip
    if len(progress.recent_rewards) < steps:
        return None
    form, answer = zip(*progress.recent_rewards, strict=True)
    if not stands_still(form, answer):
        return None
    if progress.stalls and progress.step - progress.stalls[-1][1] <= steps:
        progress.stalls[-1][1] = progress.step
        return None
    progress.stalls.append([progress.step, progress.step])
    moved = [f"{one.start:.2f} -> {one.end:.2f}" for one in (move(form), move(answer))]
    return (
        f"warning: step {progress.step}: for {steps} steps the format reward rises ({moved[0]}) "
        f"and the answer reward stands still ({moved[1]}): the policy learns how to write, not "
        "what to answer. Look at completions.jsonl; give the answer more of --weights, try "
        "--answer_scoring f1, or start from an adapter that was trained for longer"
    )


def how_to_read(parts: Sequence[str], beta: float) -> str:
    """What to look at while a run goes."""
    kl = "kl (how far from where it started), " if beta else ""
    return (
        "a loss near 0 is normal in GRPO: advantages of a group sum to 0. Watch instead: "
        f"rewards/<{'|'.join(parts)}>/mean, {kl}"
        "frac_reward_zero_std (the share of groups that teach nothing), completions/mean_length "
        "and completions/clipped_ratio (cut off at max_completion_length)"
    )
