"""Metrics of a step, summed and counted over all ranks before anything is divided."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator

from accelerate import Accelerator
from accelerate.utils import gather_object

from kit.run import process


class Meters:
    """Collects values by name on this rank; ``reduce`` gives their means over all ranks."""

    def __init__(self):
        self._sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
        self.seconds: dict[str, float] = defaultdict(float)
        self._speeds: dict[str, float] = {}

    def add(self, name: str, values: Iterable[float]) -> None:
        """Values of one metric, in any number of calls."""
        entry = self._sums[name]
        for value in values:
            entry[0] += 1
            entry[1] += value
            entry[2] += value * value

    def add_sum(self, name: str, total: float, count: float) -> None:
        """The same for values of which only the sum is known; no spread can be asked for."""
        self._sums[name][0] += count
        self._sums[name][1] += total

    def merge(self, other: Meters) -> None:
        """Add the values that another has collected."""
        for name, entry in other._sums.items():
            self._sums[name] = [a + b for a, b in zip(self._sums[name], entry, strict=True)]

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds that a part of the step takes to ``time/<name>``."""
        start = time.perf_counter()
        yield
        self.seconds[f"time/{name}"] += time.perf_counter() - start

    def record_speed(self, name: str, amount: float) -> None:
        """An amount of this rank over the seconds noted so far; ranks add up."""
        self._speeds[name] = amount / sum(self.seconds.values())

    def reduce(self, accelerator: Accelerator, spreads: Iterable[str] = ()) -> dict[str, float]:
        """The mean of each metric that has any value, times of this rank, and for names in
        ``spreads`` the standard deviation, as ``rewards/<name>/std`` beside ``.../mean``."""
        merged: dict[str, list[float]] = {}
        for part in gather_object([dict(self._sums)]):
            for name, entry in part.items():
                mine = merged.setdefault(name, [0.0, 0.0, 0.0])
                for i, value in enumerate(entry):
                    mine[i] += value
        means = {name: total / count for name, (count, total, _) in merged.items() if count}
        for name in spreads:
            if name in means:
                means[name.removesuffix("/mean") + "/std"] = pooled_std(*merged[name])
        speeds = {
            name: process.total(accelerator, speed)[0] for name, speed in self._speeds.items()
        }
        return means | speeds | dict(self.seconds)


def window_means(steps: list[dict[str, float]]) -> dict[str, float]:
    """Metrics over several steps; loss and accuracy are weighted by tokens."""
    tokens = sum(m["tokens"] for m in steps)
    means = {
        name: sum(m[name] * m["tokens"] for m in steps) / tokens
        for name in ("loss", "token_accuracy")
        if steps
    }
    return means | ({"grad_norm": mean_metrics(steps)["grad_norm"]} if steps else {})


def mean_metrics(steps: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over the steps that have it.

    >>> mean_metrics([{"kl": 1.0, "reward": 2.0}, {"reward": 4.0}])
    {'kl': 1.0, 'reward': 3.0}
    """
    values: dict[str, list[float]] = {}
    for step in steps:
        for name, value in step.items():
            values.setdefault(name, []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}


def pooled_std(count: float, total: float, total_of_squares: float) -> float:
    """The unbiased standard deviation of ``count`` values from their sum and sum of squares, which
    can be added up over ranks.

    >>> round(pooled_std(3, 6.0, 14.0), 6)
    1.0
    """
    if count < 2:
        return 0.0
    return max(0.0, (total_of_squares - total * total / count) / (count - 1)) ** 0.5
