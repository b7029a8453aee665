"""The JSON object in what a model wrote: as it is, within other text, or broken off; and its values
in the forms that they should have."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from itertools import islice
from typing import Any

from kit.data.boxes import GRID
from kit.data.fields import strict_json

FIELDS = ("caption", "reasoning", "boxes", "answer")

MOST_ATTEMPTS = 32  # places of one text where decoding is tried; keeps the time linear

_OBJECT = re.compile(r'\{\s*"')
_MEMBER = re.compile(r'"(caption|reasoning|boxes|answer)"\s*:\s*')


def whole_object(body: str) -> tuple[dict | None, str | None]:
    """The JSON object that the text is, if it is one, and what is wrong with the text as JSON."""
    if not body:
        return None, "empty"
    try:
        value = strict_json(body)
        repeated = _repeats_a_key(body)
    except RecursionError:
        return None, "nested too deeply"
    except json.JSONDecodeError:
        return None, "broken JSON" if _OBJECT.search(body) else "no JSON object"
    except ValueError:
        return None, "a number that is not finite or too long"
    if not isinstance(value, dict):
        return None, "no JSON object"
    return value, "a repeated key" if repeated else None


def _repeats_a_key(body: str) -> bool:
    repeats = []

    def check(pairs: list[tuple[str, Any]]) -> None:
        repeats.append(len({key for key, _ in pairs}) < len(pairs))

    json.loads(body, object_pairs_hook=check)
    return any(repeats)


def _short_integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= 18 else None


def _finite_number(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


# Reads what strict JSON refuses (line ends in strings, numbers without a value) so that one flaw
# does not lose the other fields.
_LENIENT = json.JSONDecoder(
    strict=False,
    parse_int=_short_integer,
    parse_float=_finite_number,
    parse_constant=lambda _: None,
)


def inner_object(body: str) -> tuple[dict | None, str]:
    """The first object within the text that has a known key, and the text outside it."""
    for match in islice(_OBJECT.finditer(body), MOST_ATTEMPTS):
        try:
            value, end = _LENIENT.raw_decode(body, match.start())
        except (ValueError, RecursionError):
            continue
        if any(name in value for name in FIELDS):
            return value, f"{body[: match.start()]}\n{body[end:]}"
    return None, body


def complete_members(body: str) -> tuple[dict, str]:
    """The known members of a broken object whose values are whole, and the text before it."""
    members: dict[str, Any] = {}
    begun = _MEMBER.search(body)
    if begun is None:
        return members, body
    for match in islice(_MEMBER.finditer(body), MOST_ATTEMPTS):
        try:
            members[match.group(1)], _ = _LENIENT.raw_decode(body, match.end())
        except (ValueError, RecursionError):
            continue
    brace = body.find("{", 0, begun.start())
    return members, body[: begun.start() if brace < 0 else brace]


def is_box(value: Any) -> bool:
    """Whether a JSON value is a box of the grid: four integers in 0..1000, not inverted.

    >>> is_box([0, 0, 10, 20]), is_box([10, 0, 0, 20]), is_box([0, 0, 10.0, 20])
    (True, False, False)
    """
    if not isinstance(value, list) or len(value) != 4:
        return False
    if any(isinstance(v, bool) or not isinstance(v, int) or not 0 <= v <= GRID for v in value):
        return False
    return value[0] < value[2] and value[1] < value[3]


def as_list(value: Any) -> list:
    """A list as it is; what stands without its list (one step, one box) as a list of one."""
    return value if isinstance(value, list) and not is_box(value) else [value]


def text_of(value: Any) -> str:
    """A JSON value that should have been text: numbers as written, lists of them with commas."""
    if isinstance(value, list):
        kept = [item for item in value if not isinstance(item, (list, dict, type(None)))]
        return ", ".join(text_of(item) for item in kept)
    if isinstance(value, str):
        return value
    return "" if value is None or isinstance(value, dict) else json.dumps(value)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "caption": lambda value: isinstance(value, str),
    "reasoning": lambda value: (
        isinstance(value, list) and all(isinstance(step, str) for step in value)
    ),
    "boxes": lambda value: isinstance(value, list) and all(is_box(box) for box in value),
    "answer": lambda value: isinstance(value, str),
}


def wrong_field(found: dict, required: tuple[str, ...]) -> str | None:
    for name in required:
        if name not in found:
            return f"lacks {name!r}"
        if not _CHECKS[name](found[name]):
            return f"{name!r} is of the wrong form"
    return None
