"""The form in which answers are compared, and whether two texts are the same in it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from kit.data.words import CHINESE, HAN, chinese_polarity, directions_in, is_direction, is_polar

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
_DENIED = re.compile(r"(?<!\w)not\s+(?:yes|no)(?!\w)")
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
    """``"yes"`` or ``"no"`` if exactly one of them stands in the text as a whole word, and not
    right after "not".

    In Chinese a verb that affirms or denies (是的, 有, 包含; 不是, 没有, 不包含) is such a word.

    >>> yes_no("No."), yes_no("Yes, there is"), yes_no("normal"), yes_no("Yes, no")
    ('no', 'yes', None, None)
    >>> yes_no("Not yes"), yes_no("No, not yes")
    (None, 'no')
    >>> yes_no("是的。"), yes_no("不存在"), yes_no("不正常")
    ('yes', 'no', None)
    """
    said = {"yes", "no"} & set(normal_words(_DENIED.sub(" ", folded(text))).split())
    if CHINESE.search(text):
        for item in _SENTENCES.split(folded(text)):
            said |= chinese_polarity(normal_words(item))
    return said.pop() if len(said) == 1 else None


def same_text(first: str, second: str) -> bool:
    """``same_answer`` where there is nothing to choose from."""
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
