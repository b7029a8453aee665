"""The JSON object in what a model wrote: as it is, within other text, or broken off; and its values
in the forms that they should have."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from kit.data.boxes import ON_GRID, Frame
from kit.files import strict_json

FIELDS = ("caption", "reasoning", "boxes", "answer")

MOST_ATTEMPTS = 32  # decodings that may fail at one end of a text; keeps the time linear
MOST_OBJECTS = 4  # broken objects that are looked into, from the end

_OBJECT = re.compile(r'\{\s*"')
_MEMBER = re.compile(r'"(caption|reasoning|boxes|answer)"\s*:\s*')
_KNOWN_OBJECT = re.compile(r"\{\s*" + _MEMBER.pattern)


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


def inner_object(body: str) -> tuple[dict | None, str, str]:
    """The final object within the text that has a known key, and the texts before and after it.

    One that holds an answer goes before those that hold none: a model may draft an object while
    it thinks. An object that is broken off after its answer is final too.
    """
    found: tuple[dict, int, int] | None = None
    for value, start, end in _objects(body):
        known = unwrapped(value)
        if known and (found is None or _answers(known) or not _answers(found[0])):
            found = known, start, end
    if found is None:
        return None, body, ""
    value, start, end = found
    late = _last_broken(body[end:])
    return (late, body, "") if late else (value, body[:start], body[end:])


def _objects(body: str) -> Iterator[tuple[dict, int, int]]:
    """The whole objects within a text but not within each other, and where each begins and ends.

    Of a text with many that cannot be read, those at its beginning and at its end.
    """
    starts = [match.start() for match in _OBJECT.finditer(body)]
    position = failures = 0
    for index, start in enumerate(starts):
        passed_by = failures >= MOST_ATTEMPTS and index < len(starts) - MOST_ATTEMPTS
        if start < position or passed_by:
            continue
        try:
            value, position = _LENIENT.raw_decode(body, start)
        except (ValueError, RecursionError):
            failures += 1
            continue
        yield value, start, position


def unwrapped(value: Any) -> dict | None:
    """The object with a known key, where others or lists are wrapped around it.

    >>> unwrapped({"response": [{"answer": "No"}]}), unwrapped({"response": "No"})
    ({'answer': 'No'}, None)
    """
    level = [value]
    while level:
        objects = [item for item in level if isinstance(item, dict)]
        known = [
            item
            for item in objects
            if any(name in item and not isinstance(item[name], dict) for name in FIELDS)
        ]
        if known:
            return next((item for item in reversed(known) if _answers(item)), known[-1])
        lists = [item for item in level if isinstance(item, list)]
        level = [inner for item in objects for inner in item.values()]
        level += [inner for item in lists for inner in item]
    return None


def _answers(value: dict) -> bool:
    return bool(text_of(value.get("answer")).strip())


def complete_members(body: str) -> tuple[dict, str]:
    """The known members of a broken object whose values are whole, and the text before it: of the
    last object that holds an answer, else of the whole text."""
    begun = _MEMBER.search(body)
    if begun is None:
        return {}, body
    brace = body.find("{", 0, begun.start())
    before = body[: begun.start() if brace < 0 else brace]
    return _last_broken(body) or _members(body), before


def _last_broken(body: str) -> dict | None:
    """The members of the last object of which an answer can be read; objects begin with a known
    key."""
    starts = [match.start() for match in _KNOWN_OBJECT.finditer(body)][-MOST_OBJECTS:]
    found = (_members(body[start:]) for start in reversed(starts))
    return next((members for members in found if _answers(members)), None)


def _members(body: str) -> dict:
    members: dict[str, Any] = {}
    for match in islice(_MEMBER.finditer(body), MOST_ATTEMPTS):
        with contextlib.suppress(ValueError, RecursionError):
            members[match.group(1)], _ = _LENIENT.raw_decode(body, match.end())
    return members


def is_box(value: Any, frames: Sequence[Frame] = (ON_GRID,)) -> bool:
    """Whether a JSON value is a box of the grid: a list of four integers in 0..1000, not inverted.

    ``frames``, one an image, say what the numbers count instead (``kit.data.boxes``). Of several
    images a box begins with the number of its own.

    >>> is_box([0, 0, 10.0, 20]), is_box([10, 0, 0, 20]), is_box([0, 0, 10.5, 20])
    (True, False, False)
    >>> [is_box([image, 0, 0, 10, 20], (ON_GRID, ON_GRID)) for image in (0, 2, 3)]
    [False, True, False]
    """
    frame = _frame_of(value, frames)
    return frame is not None and frame.holds(value[-4:])


def box_on_grid(box: list, frames: Sequence[Frame]) -> tuple[int, ...]:
    """A box of ``frames`` on the 0..1000 grid, of several images with the number of its own."""
    return (*map(int, box[:-4]), *_frame_of(box, frames).to_grid(box[-4:]))


def _frame_of(value: Any, frames: Sequence[Frame]) -> Frame | None:
    """What a list of as many numbers as it takes counts, or None."""
    several = len(frames) > 1
    if not _are_numbers(value, 5 if several else 4):
        return None
    if not several:
        return frames[0]
    return frames[int(value[0]) - 1] if value[0] in range(1, len(frames) + 1) else None


def _are_numbers(value: Any, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
    )


def bare_box(value: Any) -> Any:
    """What may be a box, without the object in which Qwen's models put one of their own accord.

    >>> bare_box({"bbox_2d": [1, 2, 3, 4], "label": "mass"}), bare_box([1, 2, 3, 4])
    ([1, 2, 3, 4], [1, 2, 3, 4])
    """
    return value.get("bbox_2d") if isinstance(value, dict) else value


def as_list(value: Any) -> list:
    """A list as it is; what stands without its list (one step, one box) as a list of one."""
    alone = _are_numbers(value, 4) or _are_numbers(value, 5)
    return value if isinstance(value, list) and not alone else [value]


def text_of(value: Any) -> str:
    """A JSON value that should have been text: numbers as written, lists of them with commas."""
    if isinstance(value, list):
        kept = [item for item in value if not isinstance(item, (list, dict, type(None)))]
        return ", ".join(text_of(item) for item in kept)
    if isinstance(value, str):
        return value
    return "" if value is None or isinstance(value, dict) else json.dumps(value)


_CHECKS: dict[str, Callable[[Any, Sequence[Frame]], bool]] = {
    "caption": lambda value, _: isinstance(value, str),
    "reasoning": lambda value, _: (
        isinstance(value, list) and all(isinstance(step, str) for step in value)
    ),
    "boxes": lambda value, frames: (
        isinstance(value, list) and all(is_box(box, frames) for box in value)
    ),
    "answer": lambda value, _: isinstance(value, str),
}


def wrong_field(
    found: dict, required: tuple[str, ...], frames: Sequence[Frame] = (ON_GRID,)
) -> str | None:
    for name in required:
        if name not in found:
            return f"lacks {name!r}"
        if not _CHECKS[name](found[name], frames):
            return f"{name!r} is of the wrong form"
    return None
