"""Micro-batches of equal work: which records of a step fall to which process.

Processes wait for the slowest of them, so a step takes as long as its heaviest micro-batches. The
records of a step are given; here they are dealt by the tokens that the device computes, padding
included: the rows of a micro-batch times the longest.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

_PARTED = 16  # rows at most that are parted to make the heaviest micro-batch lighter


@dataclass(frozen=True)
class Size:
    """Tokens of a record: of what the questions of its image share, and of its own."""

    shared: int
    own: int


@dataclass(frozen=True)
class Run:
    """Records that stand in one row, by their place in the step."""

    places: tuple[int, ...]
    length: int

    @classmethod
    def of(cls, places: Sequence[int], sizes: Sequence[Size]) -> Run:
        own = sum(sizes[place].own for place in places)
        return cls(tuple(places), sizes[places[0]].shared + own)

    def halves(self, sizes: Sequence[Size]) -> list[Run]:
        middle = len(self.places) // 2
        return [Run.of(part, sizes) for part in (self.places[:middle], self.places[middle:])]


def load(runs: Sequence[Run]) -> int:
    """What the device computes for a micro-batch, in tokens.

    >>> load([Run((0,), 30), Run((1, 2), 50)])
    100
    """
    return len(runs) * max(run.length for run in runs)


def deal(
    rows: Sequence[object], sizes: Sequence[Size], *, processes: int, accumulation: int
) -> list[list[list[int]]]:
    """The places of a step by micro-batch and process; none is empty, and none heavier than the
    heaviest would be if records were dealt out as they stand.

    ``rows[place]`` names the row of a record: those of one name share it where they are dealt
    together, as they are unless the heaviest micro-batch is lighter without. What each process
    gets in all is alike too, and so are the micro-batches that are computed at a time.

    >>> sizes = [Size(10, 1)] * 4 + [Size(40, 1), Size(10, 1)]
    >>> deal("aaabcd", sizes, processes=2, accumulation=1)
    [[[4], [0, 1, 2, 3, 5]]]
    """
    n_slots = processes * accumulation
    together: dict[object, list[int]] = {}
    for place, row in enumerate(rows):
        together.setdefault(row, []).append(place)
    runs = [Run.of(places, sizes) for places in together.values()]
    found = []
    while len(found) <= _PARTED:
        if len(runs) >= n_slots:
            dealt = _longest_first(runs, n_slots)
            found.append(
                [_joined([p for r in slot for p in r.places], rows, sizes) for slot in dealt]
            )
        shared = [run for run in runs if len(run.places) > 1]
        if not shared:
            break
        longest = max(shared, key=_weight)
        runs = [run for run in runs if run is not longest] + longest.halves(sizes)
    found.append(_as_they_stand(rows, sizes, n_slots))
    # of equals the first, with most records of a row together
    return _by_process(min(found, key=lambda slots: max(map(load, slots))), processes)


def _weight(run: Run) -> tuple[int, int]:
    return run.length, -run.places[0]


def _longest_first(runs: Sequence[Run], n_slots: int) -> list[list[Run]]:
    """Each to the micro-batch that is lightest with it. The first of each is its longest, so that
    one more of any length weighs as much as that."""
    slots: list[list[Run]] = []
    lightest: list[tuple[int, int]] = []
    for run in sorted(runs, key=_weight, reverse=True):
        if len(slots) < n_slots:
            number = len(slots)
            slots.append([run])
        else:
            _, number = heapq.heappop(lightest)
            slots[number].append(run)
        heapq.heappush(lightest, ((len(slots[number]) + 1) * slots[number][0].length, number))
    return slots


def _as_they_stand(rows: Sequence[object], sizes: Sequence[Size], n_slots: int) -> list[list[Run]]:
    size = len(rows) // n_slots
    starts = range(0, len(rows), size)
    return [_joined(range(start, start + size), rows, sizes) for start in starts]


def _joined(places: Sequence[int], rows: Sequence[object], sizes: Sequence[Size]) -> list[Run]:
    """The rows of a micro-batch: what was parted and came together again is one."""
    together: dict[object, list[int]] = {}
    for place in places:
        together.setdefault(rows[place], []).append(place)
    return [Run.of(own, sizes) for own in together.values()]


def _by_process(slots: Sequence[Sequence[Run]], processes: int) -> list[list[list[int]]]:
    """Micro-batches of like weight at a time, each of these to the process with least so far."""
    ordered = sorted(slots, key=load, reverse=True)
    so_far = [0] * processes
    dealt = []
    for start in range(0, len(ordered), processes):
        least = sorted(range(processes), key=so_far.__getitem__)
        own: list[list[int]] = [[] for _ in least]
        for process, slot in zip(least, ordered[start : start + processes], strict=True):
            own[process] = sorted(place for run in slot for place in run.places)
            so_far[process] += load(slot)
        dealt.append(own)
    return dealt
