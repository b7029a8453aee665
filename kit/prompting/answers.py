"""From model text to a parsed answer, and whether two answers are the same: the only place that
parses, normalises or compares what a model says.

``parse_answer`` never raises and takes time linear in the text. ``same_answer`` is the kit's own
rule for comparing answers; published scorers bring their own (``kit.scoring``).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from kit.data.words import CHINESE, HAN, chinese_polarity, directions_in, is_direction, is_polar
from kit.prompting.written_json import (
    FIELDS,
    as_list,
    complete_members,
    inner_object,
    is_box,
    text_of,
    unwrapped,
    whole_object,
    wrong_field,
)

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
        problem = problem or wrong_field(found, required)
        inner = unwrapped(found)
        if inner is None and not any(name in found for name in FIELDS):
            before = body
        found = inner or found
    answer = _tagged(after)
    if not answer or answer.startswith("{"):
        answer = text_of(found["answer"]) if "answer" in found else _answer_beside(before, body)
    caption = text_of(found.get("caption"))
    steps = [step for step in as_list(found.get("reasoning")) if isinstance(step, str)]
    boxes = [box for box in as_list(found.get("boxes")) if is_box(box)]
    if problem is None and any(_mend_surrogates(t) != t for t in (text, caption, answer, *steps)):
        problem = "a lone surrogate"
    return ParsedAnswer(
        text=fixed,
        valid_json=problem is None,
        caption=_mend_surrogates(caption),
        reasoning=tuple(_mend_surrogates(step) for step in steps),
        boxes=tuple(tuple(map(int, box)) for box in boxes),
        answer=_mend_surrogates(answer),
        problem=problem,
    )


_ARTICLES = frozenset(["a", "an", "the"])
_ONE_SIGN = str.maketrans("\u2212\u2010\u2011\u2012\u2013\u2014\u2044≧≦⩾⩽≈_", "------/≥≤≥≤~ ")
_APOSTROPHES = re.compile(r"['’‘`]")
_THOUSANDS = re.compile(r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?![\d,])")
# What is neither a letter nor a digit; in a group what is content, between them what is not.
_PUNCTUATION = re.compile(
    r"(?<![\w.])(?P<number>(?:\d*\.)?\d+)"
    r"(?:(?P<between>[-/])|\s+(?P<apart>[-/])\s+)(?=\.?\d)"  # 3-4, 1 / 2
    r"|(?P<mark>[<>≤≥~±])\s*(?=[+-]?\.?\d)"  # > 3
    r"|(?<=\w)(?<!\ba)(?<!\ban)(?<!\bthe)\s*(?P<relation>[<>≤≥])"
    r"(?=\s*(?:(?:an?|the)\s+)*(?!(?:an?|the)\b)[^\W\d])"  # left > right
    r"|(?<![\w)\]])(?P<sign>[+-])(?=\.?\d)"  # -5, but not T1-5
    r"|(?<=\w)(?P<plus>\++)(?!\w)"  # T1+
    r"|(?<=\d)(?P<minus>-)(?=[\s.!?)]*$)"  # CD4-
    r"|(?<=\d)\s*(?P<percent>%)"
    r"|[^\w.]|\.(?!\d)"
)
_SEPARATORS = re.compile(
    r"[,;、&\t\r\n]|\band\b|以及|(?<!饱)和|(?<!参)与|(?<![涉普])及"  # the last: of longer words
)
_CHINESE_SPACE = re.compile(rf"(?<={HAN})\s+(?={HAN})")
_SENTENCES = re.compile(r"[,;:.!?、。\t\r\n]")


def normalise(text: str) -> str:
    """An answer in the form in which answers are compared.

    In this order: NFKC; case folded; one character for all dashes and for each comparison sign;
    apostrophes and the commas of thousands removed; every other character that is not a letter or
    a digit becomes a space, but for what changes a number or says how two things compare: a point
    before a digit, a sign before or after it, "<", ">", "≤", "≥", "~", "±", "%", and the dash or
    slash between two numbers; articles (a, an, the) dropped unless nothing else is there; white
    space collapsed, and removed between Chinese characters.

    >>> normalise("  The X-Ray. "), normalise("3.5 cm"), normalise("Crohn's"), normalise("A")
    ('x ray', '3.5 cm', 'crohns', 'a')
    >>> [normalise(text) for text in (">= 3 cm", "-5", "T1+", "1,000", "3–4")]
    ['≥3 cm', '-5', 't1+', '1000', '3-4']
    """
    return normal_words(folded(text))


def as_set(text: str, item_of: Callable[[str], str] | None = None) -> frozenset[str]:
    """The normalised items of a list answer, whose order means nothing.

    Items are parted by commas, semicolons, tabs (which stand for commas in some VQA-RAD answers),
    line ends, "&", the word "and" and the Chinese ones. An item of nothing but direction words
    says where in the item before it, and belongs to that: "Left Lung, Right" is one location.
    Where all items are directions they are a list ("Left and top"). ``item_of`` gives the form in
    which a folded item is compared (default: ``normal_words``).

    >>> as_set("Lung, Spinal Cord") == as_set("spinal cord\\tlung.")
    True
    >>> [sorted(as_set(text)) for text in ("Left Lung, Right", "Left and top", "左肺, 右侧")]
    [['left lung right'], ['left', 'top'], ['左肺右侧']]
    """
    parts = _SEPARATORS.split(folded(text))
    items = [item for part in parts if (item := (item_of or normal_words)(part))]
    directions = [is_direction(item) for item in items]
    if all(directions):
        return frozenset(items)
    groups: list[list[str]] = []
    in_place = False  # whether the last group names a place that a direction can refine
    for item, directed in zip(items, directions, strict=True):
        if directed and in_place:
            groups[-1].append(item)
        else:
            groups.append([item])
            in_place = not directed
    return frozenset(_CHINESE_SPACE.sub("", " ".join(group)) for group in groups)


def yes_no(text: str) -> str | None:
    """``"yes"`` or ``"no"`` if exactly one of them stands in the text as a whole word.

    In Chinese a verb that affirms or denies (是的, 有, 包含; 不是, 没有, 不包含) is such a word.

    >>> yes_no("No."), yes_no("Yes, there is"), yes_no("normal"), yes_no("Yes, no")
    ('no', 'yes', None, None)
    >>> yes_no("是的。"), yes_no("不存在"), yes_no("不正常")
    ('yes', 'no', None)
    """
    said = {"yes", "no"} & set(normalise(text).split())
    if CHINESE.search(text):
        for item in _SENTENCES.split(folded(text)):
            said |= chinese_polarity(normal_words(item))
    return said.pop() if len(said) == 1 else None


def same_answer(first: str, second: str) -> bool:
    """Whether two answers are one: the kit's only meaning of it.

    Where one of them begins with yes or no, both must say that word and not the other one, and
    where both go on to name directions or numbers these must agree. Any other two are compared as
    sets of normalised items (``as_set``). Symmetric; two answers of nothing but punctuation are
    the same.

    >>> same_answer("Yes", "Yes, the liver is visible."), same_answer("Yes", "Liver")
    (True, False)
    >>> same_answer("spinal cord, lung", "Lung, Spinal Cord"), same_answer(">3 cm", "<3 cm")
    (True, False)
    >>> same_answer("Yes, on the left", "Yes, on the right"), same_answer("是", "包含")
    (False, True)
    """
    if _begins_with_yes_no(first) or _begins_with_yes_no(second):
        named = _places_and_numbers(first), _places_and_numbers(second)
        return yes_no(first) == yes_no(second) and (named[0] == named[1] or not all(named))
    return as_set(first) == as_set(second)


def _begins_with_yes_no(text: str) -> bool:
    """A "no" must stand alone: "No, it is gone" begins with it, "No mass" names a finding."""
    if yes_no(text) is None:
        return False
    parts = (normal_words(part) for part in _SENTENCES.split(folded(text)))
    start = next(filter(None, parts))
    return start == "no" or start.split()[0] == "yes" or is_polar(start)


def _places_and_numbers(text: str) -> set[str]:
    words = normalise(text)
    return directions_in(words) | {w for w in words.split() if any(map(str.isdigit, w))}


def folded(text: str) -> str:
    """NFKC, case folded, one character for each sign, numbers without commas."""
    text = unicodedata.normalize("NFKC", text).casefold().translate(_ONE_SIGN)
    text = _APOSTROPHES.sub("", text).replace(">=", "≥").replace("<=", "≤")
    return _THOUSANDS.sub(lambda found: found.group().replace(",", ""), text)


def normal_words(text: str) -> str:
    """The words of a folded text as ``normalise`` leaves them."""
    words = _PUNCTUATION.sub(_content, text).split()
    words = [word for word in words if word not in _ARTICLES] or words
    return _CHINESE_SPACE.sub("", " ".join(words))


def _content(found: re.Match) -> str:
    """What stays of a punctuation mark."""
    if found["number"]:
        return found["number"] + (found["between"] or found["apart"])
    if found["relation"]:
        return f" {found['relation']} "
    if before := found["mark"] or found["sign"]:
        return f" {before}"
    return found["plus"] or found["minus"] or found["percent"] or " "


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
