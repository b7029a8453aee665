"""Reward functions of the user's own, called as TRL calls them."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import math
import numbers
import operator
import os
import sys
import traceback
import weakref
from collections.abc import (
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Set,
)
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import cached_property, partial

import numpy as np

from kit.data.grpo_records import GrpoRecord
from kit.errors import ConfigError, UserError
from kit.grpo.rollout import Group
from kit.grpo.terms import REWARDS

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

        A function gets those of :func:`arguments_of` that it takes, in lists of its own. Each is
        called once for all completions; what is to be awaited is awaited together.

        Raises:
            UserError: one raises, or gives something else than a finite number or None for each.
        """
        records = [group.task.record for group in groups for _ in group.completions]
        found, waiting = {}, {}
        with contextlib.ExitStack() as unless_awaited:
            for name, path, function in zip(self.names, self.paths, self._functions, strict=True):
                with explained(path, records):
                    found[name] = given = function(**_taken(function, arguments_of(groups)))
                if inspect.isawaitable(given):
                    waiting[name] = (given, path, records)
                if inspect.iscoroutine(given):
                    unless_awaited.callback(given.close)
            if waiting:
                found |= zip(waiting, self._gathered(waiting.values()), strict=True)
        columns = [
            checked(found[name], path, records)
            for name, path in zip(self.names, self.paths, strict=True)
        ]
        return [dict(zip(self.names, values, strict=True)) for values in zip(*columns, strict=True)]

    def _gathered(self, waiting: Iterable[tuple]) -> list:
        async def together():
            return await asyncio.gather(*(_awaited(*w) for w in waiting), return_exceptions=True)

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
        "choices": [record.choices for record, _, _ in rows],
        "caption": [parsed.caption for _, _, parsed in rows],
        "boxes": [parsed.boxes for _, _, parsed in rows],
        "answer": [parsed.answer for _, _, parsed in rows],
        "record": [record for record, _, _ in rows],
    }


def load_function(path: str) -> RewardFunction:
    """The function at a dotted path like ``package.module:function``. Modules in the folder where
    the command is run are found too, after all others: they take no other's place.

    Raises:
        ConfigError: there is none, or it takes what there is not.
    """
    module, _, attribute = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        function = operator.attrgetter(attribute)(importlib.import_module(module))
    except (Exception, SystemExit) as error:  # a module of the user's may raise anything
        raise ConfigError(
            f"no reward function {path!r}: {type(error).__name__}: {error}",
            where="reward_funcs",
            fix="give package.module:function, importable from where the command is run",
        ) from error
    if not callable(function) or isinstance(function, type):
        raise ConfigError(f"{path!r} is not a function", where="reward_funcs", fix="name one")
    known = arguments_of([])
    try:
        inspect.signature(function).bind(**_taken(function, known))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the reward function {path!r} cannot be called: {error}",
            where="reward_funcs",
            fix=f"let it take, by name, only what there is: {', '.join(known)}",
        ) from error
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
        name = path if short in (*REWARDS, *names) else short
        if path in paths[:place]:
            name = f"{names[paths.index(path)]}#{paths[:place].count(path) + 1}"
        names.append(name)
    return names


def checked(values: object, path: str, records: Sequence[GrpoRecord]) -> list[float | None]:
    """What a function gave, as floats and None: numbers of any library, arrays of one number, and
    None or a masked item of numpy's for what is absent.

    Raises:
        UserError: there are more or fewer than completions, in no order, or one is no finite
            number.
    """
    what = f"the reward function must give {len(records)} finite numbers or None: {values!r:.200}"
    unordered = isinstance(values, (str, bytes, bytearray, Mapping, Set))
    if unordered or not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        raise UserError(what, where=_where(path, records), fix="fix the function")
    with explained(path, records):
        values = list(values)
    if len(values) != len(records):
        raise UserError(what, where=_where(path, records), fix="fix the function")
    result = [
        None if value is None or value is np.ma.masked else _number(value) for value in values
    ]
    for value, number, record in zip(values, result, records, strict=True):
        if number is not None and not math.isfinite(number):
            what = f"the reward function must give finite numbers or None, not {value!r:.200}"
            raise UserError(what, where=_where(path, [record]), fix="fix the function")
    return result


def _number(value: object) -> float:
    """NaN for what is none, infinity for what is too large."""
    if hasattr(value, "item") and math.prod(getattr(value, "shape", ())) == 1:
        value = value.item()  # of numpy, torch or another library
    try:
        return float(value) if isinstance(value, (numbers.Real, Decimal)) else math.nan
    except OverflowError:
        return math.inf


@contextlib.contextmanager
def explained(path: str, records: Sequence[GrpoRecord]) -> Iterator[None]:
    """Say which function raised, where in it, and on what. It is not called again to find out on
    which completion: it may ask a model that is paid by the call."""
    try:
        yield
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        places = [f": {f.filename}, line {f.lineno}" for f in frames if f.filename != __file__]
        raise UserError(
            f"the reward function raised {type(error).__name__}: {error}",
            where=_where(path, records),
            fix=f"fix the function{next(iter(places), '')}",
        ) from error


async def _awaited(given: Awaitable, path: str, records: Sequence[GrpoRecord]) -> object:
    with explained(path, records):
        return await given


def _taken(function: RewardFunction, known: dict[str, list]) -> dict[str, list]:
    parameters = inspect.signature(function).parameters
    preset = getattr(function, "keywords", {}) if isinstance(function, partial) else {}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {
        key: value
        for key, value in known.items()
        if (takes_all or key in parameters) and key not in preset
    }


def _where(path: str, records: Sequence[GrpoRecord]) -> str:
    distinct = list(dict.fromkeys(f"{r.image} (qid {r.qid}): {r.question[:80]}" for r in records))
    rest = f" and {len(distinct) - 1} more" if len(distinct) > 1 else ""
    return f"reward function {path}, record {distinct[0]}{rest}"
