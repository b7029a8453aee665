"""From model text to a parsed answer, and whether two answers are the same: the only place that
parses, normalises or compares what a model says.

``parse_answer`` never raises and takes time linear in the text. ``same_answer`` is the kit's own
rule for comparing answers; published scorers bring their own (``kit.scoring``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kit.data.boxes import ON_GRID, Frame
from kit.prompting.choices import choice_of
from kit.prompting.normal import as_set as as_set
from kit.prompting.normal import folded as folded
from kit.prompting.normal import normal_words as normal_words
from kit.prompting.normal import normalise as normalise
from kit.prompting.normal import same_text
from kit.prompting.normal import yes_no as yes_no
from kit.prompting.written_json import (
    FIELDS,
    as_list,
    bare_box,
    box_on_grid,
    complete_members,
    inner_object,
    is_box,
    text_of,
    unwrapped,
    whole_object,
    wrong_field,
)

Box = tuple[int, ...]

_ANSWER_TAG = re.compile(r"<answer>", re.IGNORECASE)
_ANSWER_END = re.compile(r"</answer>", re.IGNORECASE)


@dataclass(frozen=True)
class ParsedAnswer:
    """What a model said, taken apart.

    ``boxes`` are ``(x1, y1, x2, y2)`` on the 0..1000 grid, only the well-formed ones; of several
    images ``(image, x1, y1, x2, y2)``. Fields that the text does not give are empty. ``problem``
    is a short stable phrase that says why ``valid_json`` is false, and None where it is true.
    """

    text: str
    valid_json: bool
    caption: str
    reasoning: tuple[str, ...]
    boxes: tuple[Box, ...]
    answer: str
    problem: str | None


def parse_answer(
    text: str, required: tuple[str, ...] = FIELDS, frames: Sequence[Frame] = (ON_GRID,)
) -> ParsedAnswer:
    """Take model text apart; any text is accepted and none raises.

    Valid is a text that, but for white space at its ends, is exactly one JSON object with the
    ``required`` keys in their types (caption and answer text, reasoning a list of texts, boxes a
    list of four integers each in 0..1000 that are not inverted), no repeated key and only finite
    numbers. Keys beyond the required ones are let be. A Markdown fence or prose around the object
    is not valid. The grid is what the instruction asks for, and what the kit's training teaches; of
    a model that writes its boxes as it has learned to all the same, ``frames`` say what they count
    and are the rule for them: one an image, of several of which a box begins with its number.

    When not valid, fields are recovered from, in this order: the object itself; the final object
    within the text that has a known key, before all others one with an answer (a model may draft
    one while it thinks); the complete members of a broken or truncated object. Where another
    object or a list is wrapped around the one with known keys, from that. What stands in
    ``<answer>`` tags after the object is the answer; one that is then still missing is what stands
    in such tags before it, else empty if there was an object (a model that was cut off in its
    caption has not answered), else the whole text.

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
    before = after = ""  # of the object, where answer tags are no part of its texts
    if found is None:
        found, before, after = inner_object(body)
        if found is not None and (before + after).strip():
            problem = "text around the JSON object"
    if found is None:
        found, before = complete_members(body)
    else:
        problem = problem or wrong_field(found, required, frames)
        inner = unwrapped(found)
        if inner is None and not any(name in found for name in FIELDS):
            before = body
        found = inner or found
    answer = _tagged(after)
    if not answer or answer.startswith("{"):
        answer = text_of(found["answer"]) if "answer" in found else _answer_beside(before, body)
    caption = text_of(found.get("caption"))
    steps = [step for step in as_list(found.get("reasoning")) if isinstance(step, str)]
    boxes = [b for b in map(bare_box, as_list(found.get("boxes"))) if is_box(b, frames)]
    if problem is None and any(_mend_surrogates(t) != t for t in (text, caption, answer, *steps)):
        problem = "a lone surrogate"
    return ParsedAnswer(
        text=fixed,
        valid_json=problem is None,
        caption=_mend_surrogates(caption),
        reasoning=tuple(_mend_surrogates(step) for step in steps),
        boxes=tuple(box_on_grid(box, frames) for box in boxes),
        answer=_mend_surrogates(answer),
        problem=problem,
    )


def same_answer(first: str, second: str, choices: Sequence[str] = ()) -> bool:
    """Whether two answers are one: the kit's only meaning of it.

    Where one of them begins with yes or no, both must say that word and not the other one, and
    where both go on to name directions or numbers these must agree. Any other two are compared as
    sets of normalised items (``as_set``). Symmetric; two answers of nothing but punctuation are
    the same. Where there are ``choices`` and either answer names one, by text or by letter, the
    other must name it too (``choice_of``).

    >>> same_answer("Yes", "Yes, the liver is visible."), same_answer("Yes", "Liver")
    (True, False)
    >>> same_answer("spinal cord, lung", "Lung, Spinal Cord"), same_answer(">3 cm", "<3 cm")
    (True, False)
    >>> same_answer("Yes, on the left", "Yes, on the right"), same_answer("是", "包含")
    (False, True)
    >>> [same_answer(said, "Lung", ["Liver", "Lung"]) for said in ("b", "B. Lung", "A lung", "a")]
    [True, True, True, False]
    """
    named = choice_of(first, choices), choice_of(second, choices)
    if named != (None, None):
        return named[0] == named[1]
    return same_text(first, second)


def _mend_surrogates(text: str) -> str:
    """Surrogate pairs joined, lone ones as U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _answer_beside(outside: str, body: str) -> str:
    """The answer of a text whose object, if there is one, has none."""
    tagged = _tagged(outside)
    if tagged is None:
        return body if outside == body else ""
    return tagged


def _tagged(text: str) -> str | None:
    """What stands in the last ``<answer>`` tags of a text, if it has any."""
    tags = list(_ANSWER_TAG.finditer(text))
    if not tags:
        return None
    end = _ANSWER_END.search(text, tags[-1].end())
    return text[tags[-1].end() : end.start() if end else None].strip()
