"""From model text to a parsed answer: the only place that parses or normalises what a model says.

``parse_answer`` never raises and takes time linear in the text. ``normalise``, ``as_set`` and
``yes_no`` are the kit's own rules for comparing answers; published scorers bring their own
(``kit.scoring``).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kit.data.boxes import GRID
from kit.prompting.written_json import FIELDS, complete_members, inner_object, whole_object

Box = tuple[int, int, int, int]

_ANSWER_TAG = re.compile(r"<answer>", re.IGNORECASE)
_ANSWER_END = re.compile(r"</answer>", re.IGNORECASE)


@dataclass(frozen=True)
class ParsedAnswer:
    """What a model said, taken apart.

    ``boxes`` are ``(x1, y1, x2, y2)`` on the 0..1000 grid, only the well-formed ones. Fields that
    the text does not give are empty. ``problem`` is a short stable phrase that says why
    ``valid_json`` is false, and None where it is true.
    """

    text: str
    valid_json: bool
    caption: str
    reasoning: tuple[str, ...]
    boxes: tuple[Box, ...]
    answer: str
    problem: str | None


def parse_answer(text: str, required: tuple[str, ...] = FIELDS) -> ParsedAnswer:
    """Take model text apart; any text is accepted and none raises.

    Valid is a text that, but for white space at its ends, is exactly one JSON object with the
    ``required`` keys in their types (caption and answer text, reasoning a list of texts, boxes a
    list of four integers each in 0..1000 that are not inverted), no repeated key and only finite
    numbers. Keys beyond the required ones are let be. A Markdown fence or prose around the object
    is not valid.

    When not valid, fields are recovered from, in this order: the object itself; the first object
    within the text that has a known key; the complete members of a broken or truncated object.
    An answer that is then still missing is what stands in ``<answer>`` tags outside the object,
    else empty if there was an object (a model that was cut off in its caption has not answered),
    else the whole text.

    Lone surrogates, which no file can hold, become U+FFFD everywhere, also in ``text``.

    >>> text = '{"reasoning": ["A mass."], "answer": "Yes"}'
    >>> parse_answer(text, required=("reasoning", "answer")).valid_json
    True
    >>> parsed = parse_answer('```json\\n{"answer": "Yes"}\\n```')
    >>> parsed.valid_json, parsed.answer, parsed.problem
    (False, 'Yes', 'text around the JSON object')
    """
    fixed = _mend_surrogates(text)
    body = fixed.strip()
    found, problem = whole_object(body)
    outside = ""  # of the object, where answer tags are no part of its texts
    if found is None:
        found, outside = inner_object(body)
        if found is not None and outside.strip():
            problem = "text around the JSON object"
    if found is None:
        found, outside = complete_members(body)
    elif not any(name in found for name in FIELDS):
        outside = body
    caption = _text_of(found.get("caption"))
    answer = _text_of(found["answer"]) if "answer" in found else _answer_beside(outside, body)
    steps = [step for step in _as_list(found.get("reasoning")) if isinstance(step, str)]
    boxes = [box for box in _as_list(found.get("boxes")) if is_box(box)]
    problem = problem or _wrong_field(found, required)
    if problem is None and any(_mend_surrogates(t) != t for t in (text, caption, answer, *steps)):
        problem = "a lone surrogate"
    return ParsedAnswer(
        text=fixed,
        valid_json=problem is None,
        caption=_mend_surrogates(caption),
        reasoning=tuple(_mend_surrogates(step) for step in steps),
        boxes=tuple(tuple(box) for box in boxes),
        answer=_mend_surrogates(answer),
        problem=problem,
    )


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


_ARTICLES = frozenset(["a", "an", "the"])
_APOSTROPHES = re.compile(r"['’‘`]")
_PUNCTUATION = re.compile(r"[^\w.]|_|\.(?!\d)")
_SEPARATORS = re.compile(r"[,;、&\t\r\n]|\band\b")
# fmt: off
_DIRECTIONS = frozenset([
    "left", "right", "upper", "lower", "top", "bottom", "center", "centre", "central", "middle",
    "anterior", "posterior", "superior", "inferior", "medial", "lateral", "side",
])
# fmt: on


def normalise(text: str) -> str:
    """An answer in the form in which answers are compared.

    In this order: NFKC; case folded; apostrophes removed; every other character that is not a
    letter or a digit becomes a space, but for a point that stands before a digit; articles (a,
    an, the) dropped unless nothing else is there; white space collapsed.

    >>> normalise("  The X-Ray. "), normalise("3.5 cm"), normalise("Crohn's"), normalise("A")
    ('x ray', '3.5 cm', 'crohns', 'a')
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = _PUNCTUATION.sub(" ", _APOSTROPHES.sub("", folded)).split()
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def as_set(text: str) -> frozenset[str]:
    """The normalised items of a list answer, whose order means nothing.

    Items are parted by commas, semicolons, tabs (which stand for commas in some VQA-RAD answers),
    line ends, "&" and the word "and". An item of nothing but direction words says where in the
    item before it, and belongs to that: "Left Lung, Right" is one location. Where all items are
    directions they are a list ("Left and top").

    >>> as_set("Lung, Spinal Cord") == as_set("spinal cord\\tlung.")
    True
    >>> sorted(as_set("Left Lung, Right")), sorted(as_set("Left and top"))
    (['left lung right'], ['left', 'top'])
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    items = [item for part in _SEPARATORS.split(folded) if (item := normalise(part))]
    directions = [_DIRECTIONS.issuperset(item.split()) for item in items]
    if all(directions):
        return frozenset(items)
    groups: list[list[str]] = []
    in_place = False  # whether the last group names a place that a direction can refine
    for item, is_direction in zip(items, directions, strict=True):
        if is_direction and in_place:
            groups[-1].append(item)
        else:
            groups.append([item])
            in_place = not is_direction
    return frozenset(" ".join(group) for group in groups)


def yes_no(text: str) -> str | None:
    """``"yes"`` or ``"no"`` if exactly one of them stands in the text as a whole word.

    >>> yes_no("No."), yes_no("Yes, there is"), yes_no("normal"), yes_no("Yes, no")
    ('no', 'yes', None, None)
    """
    words = set(normalise(text).split())
    said = [word for word in ("yes", "no") if word in words]
    return said[0] if len(said) == 1 else None


def _mend_surrogates(text: str) -> str:
    """Surrogate pairs joined, lone ones as U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _answer_beside(outside: str, body: str) -> str:
    """The answer of a text whose object, if there is one, has none."""
    tags = list(_ANSWER_TAG.finditer(outside))
    if tags:
        end = _ANSWER_END.search(outside, tags[-1].end())
        return outside[tags[-1].end() : end.start() if end else None].strip()
    return body if outside == body else ""


def _as_list(value: Any) -> list:
    """A list as it is; what stands without its list (one step, one box) as a list of one."""
    return value if isinstance(value, list) and not is_box(value) else [value]


def _text_of(value: Any) -> str:
    """A JSON value that should have been text: numbers as written, lists of them with commas."""
    if isinstance(value, list):
        kept = [item for item in value if not isinstance(item, (list, dict, type(None)))]
        return ", ".join(_text_of(item) for item in kept)
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


def _wrong_field(found: dict, required: tuple[str, ...]) -> str | None:
    for name in required:
        if name not in found:
            return f"lacks {name!r}"
        if not _CHECKS[name](found[name]):
            return f"{name!r} is of the wrong form"
    return None
