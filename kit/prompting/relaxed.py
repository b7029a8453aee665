"""Whether two answers are the same but for how they are written: the column ``relaxed``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kit.data.words import COUNTS, american, is_direction, stem
from kit.prompting.choices import choice_of
from kit.prompting.normal import as_set, folded, normal_words, same_text

_NUMBERS = {word: str(value) for value, word in enumerate(COUNTS)}
_CHINESE_COUNTS = {sign: str(value) for value, sign in enumerate("零一二三四五六七八九十")}
_CHINESE_COUNTS["两"] = "2"
_CHINESE_COUNT = re.compile(r"([零一二两三四五六七八九十]|\d+)[个只颗枚]?")
_CHINESE_SIDE = re.compile(r"(?<=[左右上下前后])[侧方部边面]$")
_UNITS = "[cmuμnk]?m|[cmd]?l|cc|[kmuμ]?g|mcg|[kmg]?hz|t|m?s|min|hr?|yr|years?|months?|weeks?|days?"
_UNIT = re.compile(rf"(?<=\d)(?=(?:{_UNITS})(?!\w))")
_X_RAY = re.compile(r"(?<!\w)x rays?(?!\w)|(?<!\w)xrays(?!\w)")
_APPROXIMATE = re.compile(r"~|(?<!\w)(?:about|approximately|around) (?=\d)")
_BARE_POINT = re.compile(r"(?<![\w.])\.(?=\d)")  # .5
_LAST_ZEROS = re.compile(r"(?<=\d)(?:\.0+|(?P<kept>\.\d*?[1-9])0+)(?!\d)")  # 3.0, 3.50
_EACH_SIDE = re.compile(r"(?<!\w)(left|right) (?:and|&) (left|right) (\w+)")
_LETTER_OF_SIDE = re.compile(r"^([lr])(?= [^\W\d])")  # R hemidiaphragm
_BOTH = re.compile(r"(?:both|bilateral) (?=\w)")
# fmt: off
_MODALITIES = frozenset(["ct", "mr", "mri", "pet", "xray", "ultrasound", "us", "cta", "mra"])
_PLANES = frozenset(["axial", "transverse", "coronal", "sagittal"])
# fmt: on
_ADD_NOTHING_TO_MODALITIES = frozenset(["scan", "image", "imaging", "film"])


def relaxed_answer(first: str, second: str, choices: Sequence[str] = ()) -> bool:
    """Whether two answers are the same, or would be if both were written in one way.

    Forgiven are number words (two, 2), British spelling and plurals, a unit without its space
    (3cm), forms of X-ray, "about", zeros that end a decimal, "side" after a direction, "scan" and
    "image" after a modality, "plane" after a plane, R and L for right and left before a word, and
    both for left and right ("both lungs"); in Chinese 侧 and 边 after a direction, and counts.
    Symmetric.

    >>> relaxed_answer("two", "2"), relaxed_answer("Right side", "right"), relaxed_answer("2", "3")
    (True, True, False)
    >>> relaxed_answer("both lungs", "Left Lung, Right Lung"), relaxed_answer("brain scan", "brain")
    (True, False)
    """
    named = [choice_of(said, choices, _same_but_for_writing) for said in (first, second)]
    if any(place is not None for place in named):
        return named[0] == named[1]
    return _same_but_for_writing(first, second)


def _same_but_for_writing(first: str, second: str) -> bool:
    return same_text(first, second) or _relaxed_set(first) == _relaxed_set(second)


def _relaxed_set(text: str) -> frozenset[str]:
    text = _EACH_SIDE.sub(r"\1 \3, \2 \3", american(folded(text)))
    found: set[str] = set()
    for item in as_set(text, _relaxed_item):
        both = _BOTH.match(item)
        rest = item[both.end() :] if both else ""
        found |= {f"left {rest}", f"right {rest}"} if both else {item}
    return frozenset(found)


def _relaxed_item(text: str) -> str:
    text = _X_RAY.sub("xray", normal_words(text))
    text = _LETTER_OF_SIDE.sub(lambda side: "left" if side[1] == "l" else "right", text)
    text = _LAST_ZEROS.sub(lambda end: end["kept"] or "", _BARE_POINT.sub("0.", text))
    text = _APPROXIMATE.sub("", _UNIT.sub(" ", text))
    kept: list[str] = []
    for word in text.split():
        word = _NUMBERS.get(word, stem(word))
        if not (kept and _adds_nothing(word, kept[-1])):
            kept.append(word)
    item = _CHINESE_SIDE.sub("", " ".join(kept))
    count = _CHINESE_COUNT.fullmatch(item)
    return _CHINESE_COUNTS.get(count[1], count[1]) if count else item


def _adds_nothing(word: str, before: str) -> bool:
    if word in ("side", "sided"):
        return is_direction(before)
    if word in _ADD_NOTHING_TO_MODALITIES:
        return before in _MODALITIES
    return word == "plane" and before in _PLANES
