"""What questions, answers and labels have in common: directions, numbers, spellings, Chinese yes
and no."""

from __future__ import annotations

import re

# fmt: off
DIRECTIONS = frozenset([
    "left", "right", "upper", "lower", "top", "bottom", "center", "centre", "central", "middle",
    "anterior", "posterior", "superior", "inferior", "medial", "lateral", "side",
])
# fmt: on
_CHINESE_DIRECTION = re.compile(r"[左右上下前后内外中顶底]+[侧方部边面角间央心端]?|[两双]侧")
_SIDES = {"left": "right", "right": "left", "l": "r", "r": "l", "左": "右", "右": "左"}
_SIDE = re.compile(
    r"左右|(?<![a-z0-9])(?:left|right|[LR](?= [a-z]))(?![a-z0-9])|[左右]", re.IGNORECASE
)
# fmt: off
_PLACES = DIRECTIONS - {"side"} | {
    "above", "below", "under", "behind", "proximal", "distal", "bilateral", "unilateral", "inner",
    "outer", "internal", "external",
}
# fmt: on
_PLACE = re.compile(r"[a-z]+|[左右][上下]?|[上下前后内外][侧方部边面叶]|[顶底]部")

# fmt: off
COUNTS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve",
)
# fmt: on

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

# British beginnings, middles and ends of words, and how they are written in America.
# fmt: off
_BRITISH = {
    "aemi": "emi", "aesthe": "esthe", "aetiol": "etiol", "behaviour": "behavior", "caec": "cec",
    "calibre": "caliber", "centre": "center", "colour": "color", "faec": "fec", "fibre": "fiber",
    "foet": "fet", "grey": "gray", "gynaec": "gynec", "haem": "hem", "isation": "ization",
    "ised": "ized", "litre": "liter", "metre": "meter", "oedem": "edem", "oesoph": "esoph",
    "oestr": "estr", "paed": "ped", "rrhoea": "rrhea", "tumour": "tumor",
}
_PLURALS = {
    "teeth": "tooth", "feet": "foot", "metastase": "metastasi", "vertebrae": "vertebra",
    "diagnose": "diagnosi", "hemithorace": "hemithorax", "bronchi": "bronchu",
}
# fmt: on
_BRITISH_PART = re.compile("|".join(_BRITISH))


def american(text: str) -> str:
    """A lower-case text with its British spellings as in America.

    >>> american("oesophageal tumour, haemorrhage")
    'esophageal tumor, hemorrhage'
    """
    return _BRITISH_PART.sub(lambda part: _BRITISH[part.group()], text)


def stem(word: str) -> str:
    """What a lower-case word, its plural and its British spelling have in common.

    >>> stem("tumours"), stem("masses"), stem("opacities"), stem("teeth"), stem("oesophagus")
    ('tumor', 'mass', 'opacity', 'tooth', 'esophagu')
    """
    word = american(word)
    if len(word) < 4:
        return word
    if word.endswith("sses"):
        word = word[:-2]
    elif word.endswith("ies"):
        word = word[:-3] + "y"
    elif word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    return _PLURALS.get(word, word)


def exchange_sides(text: str) -> str:
    """The text with left for right and right for left.

    >>> [exchange_sides(text) for text in ("Left Lung, Right", "R hemidiaphragm", "左肺")]
    ['right Lung, left', 'l hemidiaphragm', '右肺']
    """
    return _SIDE.sub(lambda found: _SIDES.get(found.group().lower(), found.group()), text)


def is_direction(phrase: str) -> bool:
    """Whether a phrase of lower-case words says where and nothing else.

    >>> is_direction("upper left"), is_direction("left lung"), is_direction("右下侧")
    (True, False, True)
    """
    return all(word in DIRECTIONS or _CHINESE_DIRECTION.fullmatch(word) for word in phrase.split())


def directions_in(text: str) -> set[str]:
    """The words and characters of a lower-case text that say where; "side" does not.

    >>> sorted(directions_in("on the upper left side")), sorted(directions_in("右上肺在图中吗"))
    (['left', 'upper'], ['上', '右'])
    """
    found = set()
    for word in _PLACE.findall(american(text)):
        if word in _PLACES:
            found.add(word)
        elif CHINESE.match(word):
            found |= set(word) - set("侧方部边面叶")
    return found


def is_polar(item: str) -> bool:
    """Whether a Chinese phrase is a yes or a no and nothing else."""
    return _POLAR_ITEM.fullmatch(item) is not None


def denied(said: str) -> str:
    """The Chinese answer that denies what one affirms; empty where it is none of the usual ones.

    >>> denied("有"), denied("是的。"), denied("包含"), denied("左肺")
    ('没有', '不是', '不包含', '')
    """
    verb = said.strip("。. 的了")
    if verb not in _AFFIRMED:
        return ""
    return "没有" if verb == "有" else f"不{verb}"


def chinese_polarity(item: str) -> set[str]:
    """Which of ``"yes"`` and ``"no"`` a Chinese phrase without punctuation says.

    >>> chinese_polarity("不包含"), chinese_polarity("图中没有肝脏"), chinese_polarity("对称")
    ({'no'}, {'no'}, set())
    """
    whole = _POLAR_ITEM.fullmatch(item)
    found = [whole] if whole else _POLAR_WORD.finditer(item)
    return {match.lastgroup for match in found if match.lastgroup}
