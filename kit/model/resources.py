"""What one process may take: memory for what it keeps, and cores."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, TypeVar

Value = TypeVar("Value")


class Kept:
    """What was used last, up to so many bytes; None stands for what is not kept.

    >>> kept = Kept(10)
    >>> for name in "abc":
    ...     _ = kept.put(name, name.upper(), 4)
    >>> kept.get("a"), kept.get("b"), kept.get("c"), kept.n_bytes
    (None, 'B', 'C', 8)
    """

    def __init__(self, limit: int):
        self.limit, self.n_bytes = limit, 0
        self._held: OrderedDict[Hashable, tuple[object, int]] = OrderedDict()

    def get(self, key: Hashable) -> Any:
        if key not in self._held:
            return None
        self._held.move_to_end(key)
        return self._held[key][0]

    def put(self, key: Hashable, value: Value, n_bytes: int) -> Value:
        """Keep a value, and give it back; those that were not used for longest go, itself if it
        is too large."""
        self.n_bytes += n_bytes - self._held.pop(key, (None, 0))[1]
        self._held[key] = value, n_bytes
        while self.n_bytes > self.limit:
            _, (_, oldest) = self._held.popitem(last=False)
            self.n_bytes -= oldest
        return value

    def clear(self) -> None:
        self._held.clear()
        self.n_bytes = 0


def own_cores() -> int:
    """The cores that this process may use, at least one. Those of its machine are shared by the
    processes that were launched on it, unless each is a task of SLURM's with cores of its own."""
    machine = os.cpu_count() or 1
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    share = int(os.environ.get("SLURM_CPUS_PER_TASK", 0))
    if share * processes > machine:  # of one task in which all were launched
        share = 0
    return max(1, min(here, max(share, here // processes)))
