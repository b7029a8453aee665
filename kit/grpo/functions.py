"""Reward functions of the user's own, called as TRL calls them."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import math
import numbers
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
import torch

from kit.data.grpo_records import GrpoRecord
from kit.errors import ConfigError, UserError
from kit.grpo.rollout import Group
from kit.scoring.settings import COMPONENTS

RewardFunction = Callable[..., Sequence[float | None]]


class RewardFunctions:
    """The functions at dotted paths like ``package.module:function``; ``names`` are those of the
    parts that they add.

    Raises:
        ConfigError: one cannot be found.
    """

    def __init__(self, paths: Sequence[str]):
        self.paths = list(paths)
        self.names = part_names(paths)
        self._functions = [load_function(path) for path in paths]

    def __call__(self, groups: Sequence[Group]) -> list[dict[str, float | None]]:
        """The parts of each completion, in the order of the groups.

        A function gets those of :func:`arguments_of` that it takes. Each is called once for all
        completions; those defined with ``async`` are awaited together.

        Raises:
            UserError: one raises, or gives something else than a finite number or None for each.
        """
        known = arguments_of(groups)
        records = known["record"]

        async def awaited(path: str, function: RewardFunction) -> list:
            with explained(path, records):
                return list(await function(**_taken(function, known)))

        found: dict[str, list] = {}
        coroutines = {}
        for name, path, function in zip(self.names, self.paths, self._functions, strict=True):
            if _is_async(function):
                coroutines[name] = (path, function)
                continue
            with explained(path, records):
                found[name] = list(function(**_taken(function, known)))
        if coroutines:
            found |= zip(coroutines, self._gathered(awaited, coroutines.values()), strict=True)
        columns = [
            checked(found[name], path, records)
            for name, path in zip(self.names, self.paths, strict=True)
        ]
        return [dict(zip(self.names, values, strict=True)) for values in zip(*columns, strict=True)]

    def _gathered(self, awaited, calls) -> list[list]:
        async def together():
            return await asyncio.gather(*(awaited(*call) for call in calls), return_exceptions=True)

        with ThreadPoolExecutor(1) as pool:  # a notebook's own loop runs in this thread
            found = pool.submit(self._loop.run_until_complete, together()).result()
        for error in found:
            if isinstance(error, BaseException):
                raise error
        return found

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        """One for all steps, to which clients that functions keep open are bound."""
        loop = asyncio.new_event_loop()
        weakref.finalize(self, loop.close)
        return loop


def arguments_of(groups: Sequence[Group]) -> dict[str, list]:
    """What reward functions may ask for, lists that have one item a completion."""
    rows = [
        (group.task.record, completion, parsed)
        for group in groups
        for completion, parsed in zip(group.completions, group.parsed, strict=True)
    ]
    return {
        "prompts": [record.question for record, _, _ in rows],
        "completions": [parsed.text for _, _, parsed in rows],
        "completion_ids": [list(completion.token_ids) for _, completion, _ in rows],
        "question": [record.question for record, _, _ in rows],
        "gold": [record.gold for record, _, _ in rows],
        "caption": [parsed.caption for _, _, parsed in rows],
        "boxes": [parsed.boxes for _, _, parsed in rows],
        "answer": [parsed.answer for _, _, parsed in rows],
        "record": [record for record, _, _ in rows],
    }


def load_function(path: str) -> RewardFunction:
    """The function at a dotted path like ``package.module:function``.

    Raises:
        ConfigError: there is none.
    """
    module, _, attribute = path.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"no reward function {path!r}: {error}",
            where="reward_funcs",
            fix="give package.module:function, importable from where the command is run",
        ) from error
    if not callable(function):
        raise ConfigError(f"{path!r} is not a function", where="reward_funcs", fix="name one")
    return function


def part_names(paths: Sequence[str]) -> list[str]:
    """A name of its own for each: that of the function where neither the kit nor an earlier one
    has it, else the whole path, and a number where a path comes again.

    >>> part_names(["mine:brevity", "yours:brevity", "mine:format", "mine:brevity"])
    ['brevity', 'yours:brevity', 'mine:format', 'brevity#2']
    """
    names: list[str] = []
    for place, path in enumerate(paths):
        short = path.partition(":")[2]
        name = path if short in (*COMPONENTS, *names) else short
        if path in paths[:place]:
            name = f"{names[paths.index(path)]}#{paths[:place].count(path) + 1}"
        names.append(name)
    return names


def checked(values: list, path: str, records: Sequence[GrpoRecord]) -> list[float | None]:
    """What a function gave, as floats and None.

    Raises:
        UserError: there are more or fewer than completions, or one is no finite number.
    """
    what = f"the reward function must give {len(records)} finite numbers or None: {values!r:.200}"
    if len(values) != len(records):
        raise UserError(what, where=_where(path, records), fix="fix the function")
    result = []
    for value, record in zip(values, records, strict=True):
        if isinstance(value, (np.generic, np.ndarray, torch.Tensor)) and value.ndim == 0:
            value = value.item()
        if value is not None and not (isinstance(value, numbers.Real) and math.isfinite(value)):
            raise UserError(what, where=_where(path, [record]), fix="fix the function")
        result.append(None if value is None else float(value))
    return result


@contextlib.contextmanager
def explained(path: str, records: Sequence[GrpoRecord]) -> Iterator[None]:
    """Say which function raised, where in it, and on what. It is not called again to find out on
    which completion: it may ask a model that is paid by the call."""
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        places = [f": {f.filename}, line {f.lineno}" for f in frames if f.filename != __file__]
        raise UserError(
            f"the reward function raised {type(error).__name__}: {error}",
            where=_where(path, records),
            fix=f"fix the function{next(iter(places), '')}",
        ) from error


def _taken(function: RewardFunction, known: dict[str, list]) -> dict[str, list]:
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return known
    return {key: value for key, value in known.items() if key in parameters}


def _is_async(function: RewardFunction) -> bool:
    called = type(function).__call__
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


def _where(path: str, records: Sequence[GrpoRecord]) -> str:
    distinct = list(dict.fromkeys(f"{r.image} (qid {r.qid}): {r.question[:80]}" for r in records))
    rest = f" and {len(distinct) - 1} more" if len(distinct) > 1 else ""
    return f"reward function {path}, record {distinct[0]}{rest}"
