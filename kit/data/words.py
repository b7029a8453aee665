"""Words that datasets, questions and answers have in common: directions, spellings, yes and no."""

from __future__ import annotations

import re

# fmt: off
DIRECTIONS = frozenset([
    "left", "right", "upper", "lower", "top", "bottom", "center", "centre", "central", "middle",
    "anterior", "posterior", "superior", "inferior", "medial", "lateral", "side",
])
# fmt: on
_CHINESE_DIRECTION = re.compile(r"[左右上下前后内外中顶底]+[侧方部边面角间央心端]?|[两双]侧")
_DIRECTION_WORD = re.compile(r"[a-z]+|[左右上下前后内外中顶底]")

HAN = "[㐀-鿿]"
CHINESE = re.compile(HAN)

# Chinese answers to a yes-or-no question repeat its verb, and their negation says no.
# fmt: off
_AFFIRMED = (
    "是", "对", "有", "存在", "包含", "包括", "含有", "能", "能够", "可以", "可见", "会", "属于",
    "正确", "需要",
)
_DENIED = ("否", "没有", "没", "无", "不", "未见", "无异常")
# fmt: on
_YES = "|".join(sorted(_AFFIRMED, key=len, reverse=True))
_NO = "|".join(sorted([*_DENIED, *(f"不{verb}" for verb in _AFFIRMED)], key=len, reverse=True))
_POLAR_ITEM = re.compile(rf"(?:(?P<no>{_NO})|(?P<yes>{_YES}))[的了]?")
# Those that are whole words wherever they stand; "无法" and "对称" hold others that say neither.
_POLAR_WORD = re.compile(
    r"是否(?:存在|包[含括]|含有)?|有没有|(?P<no>没有|不存在|不包[含括]|不含有|未见|无异常)|(?P<yes>存在|包[含括]|含有)"
)


def is_direction(phrase: str) -> bool:
    """Whether a phrase of lower-case words says where and nothing else.

    >>> is_direction("upper left"), is_direction("left lung"), is_direction("右下侧")
    (True, False, True)
    """
    return all(word in DIRECTIONS or _CHINESE_DIRECTION.fullmatch(word) for word in phrase.split())


def directions_in(text: str) -> set[str]:
    """The direction words of a lower-case text; "side" names none.

    >>> sorted(directions_in("the upper left side")), directions_in("右肺")
    (['left', 'upper'], {'右'})
    """
    words = set(_DIRECTION_WORD.findall(text))
    return {w for w in words if w in DIRECTIONS or CHINESE.match(w)} - {"side"}


def is_polar(item: str) -> bool:
    """Whether a Chinese phrase is a yes or a no and nothing else."""
    return _POLAR_ITEM.fullmatch(item) is not None


def chinese_polarity(item: str) -> set[str]:
    """Which of ``"yes"`` and ``"no"`` a Chinese phrase without punctuation says.

    >>> chinese_polarity("不包含"), chinese_polarity("图中没有肝脏"), chinese_polarity("对称")
    ({'no'}, {'no'}, set())
    """
    whole = _POLAR_ITEM.fullmatch(item)
    found = [whole] if whole else _POLAR_WORD.finditer(item)
    return {match.lastgroup for match in found if match.lastgroup}
