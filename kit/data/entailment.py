"""Does an answer follow from what the record shows of its question?

What the record shows is a sentence (``kit.data.targets``): where the evidence lies, that nothing
of the kind is marked, the modality, or the part of the body. An answer follows from it in four
ways alone: that something is there or not, how many there are, where it is, and by what modality
the image was taken. Everything else (healthy, bigger, what an organ does, its color) may be true
and is not said by boxes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from kit.data.evidence import is_lesion, organs_named, speaks_of_lesions, words_of
from kit.data.questions import RawQuestion
from kit.data.types import Region
from kit.data.words import CHINESE, COUNTS, chinese_polarity, denied

_PRESENCE = re.compile(
    r"\b(contain|exist|appear|includ|present|visible|have|has|show|see|observ|there)|[有含存看显]"
)
_QUALITY = re.compile(
    r"\b(healthy|unhealthy|normal|abnormal|enlarged|big|bigger|large|larger|look|belong|same)\b"
    r"|健康|正常|异常[吗么]|大(?!脑)|属于"
)
_YES = re.compile(r"yes\b")
_NO = re.compile(r"(no|not|none|zero|0)\b")
_FILLERS = frozenset(["in", "on", "at", "the", "of", "image", "side"])


def polarity(answer: str) -> bool | None:
    """Whether an answer says yes or no, by its first word.

    >>> polarity("Yes"), polarity("no."), polarity("Normal"), polarity("没有"), polarity("0")
    (True, False, None, False, False)
    """
    text = answer.strip().casefold()
    if CHINESE.search(text):
        said = chinese_polarity(text.rstrip("。."))
        return None if len(said) != 1 else said == {"yes"}
    if _NO.match(text):
        return False
    return True if _YES.match(text) else None


class Asked(NamedTuple):
    """A question, its answer and the evidence of it: as much of a :class:`RawQuestion` as says what
    is there, and how many of it."""

    question: str
    answer: str
    content_type: str
    evidence: Sequence[Region]


def answer_without(asked: Asked) -> str:
    """The answer to a question about an image from which its evidence is gone: nothing is there,
    and there are none of it. Empty where that cannot be told. What a question is about that names
    no ``content_type`` goes by its words.

    >>> liver = [Region("Liver", (5, 1, 9, 9))]
    >>> answer_without(Asked("Is there a liver in this image?", "Yes", "Organ", liver))
    'No'
    >>> answer_without(Asked("How many livers are there?", "1", "Quantity", liver))
    '0'
    >>> answer_without(Asked("Is the liver healthy?", "Yes", "Abnormality", liver))
    ''
    >>> answer_without(Asked("Does the liver contain a lesion?", "Yes", "Abnormality", liver))
    ''
    >>> answer_without(Asked("Is there a liver in this image?", "yes", "", liver))
    'no'
    >>> answer_without(Asked("图中有肝脏吗？", "有", "Organ", liver))
    '没有'
    """
    said = asked.answer.strip()
    if not asked.evidence:
        return ""
    if not asked.content_type.strip():
        asked = asked._replace(content_type="organ, abnormality")
        if re.match(r"how many\b", asked.question.strip().casefold()):
            asked = asked._replace(content_type="quantity")
    if is_there(asked):
        if CHINESE.search(said):
            return denied(said)
        return "No" if said[0].isupper() else "no"
    if is_counted(asked) and not CHINESE.search(said):
        return "0" if said.isdigit() else COUNTS[0]
    return ""


def is_there(raw: RawQuestion | Asked) -> bool:
    """Whether the answer that something is there follows from its being marked."""
    about = _rest_of(raw)
    if polarity(raw.answer) is not True or not _asks_presence(raw) or organs_named(about):
        return False
    return not speaks_of_lesions(raw.question) or all(is_lesion(r.label) for r in raw.evidence)


def is_absent(raw: RawQuestion) -> bool:
    """Whether the answer that something is not there, or none of it, follows from its not being
    marked."""
    if polarity(raw.answer) is not False:
        return False
    return _asks_presence(raw) or _kinds(raw) & {"quantity", "count"} != set()


def is_counted(raw: RawQuestion | Asked) -> bool:
    """Whether the answer is the number of boxes (of kinds, where these are asked for)."""
    if not _kinds(raw) & {"quantity", "count"}:
        return False
    labels = [region.label for region in raw.evidence]
    number = len(set(labels) if "kind" in words_of(raw.question) else labels)
    said = raw.answer.strip().casefold()
    return said == str(number) or (number < len(COUNTS) and said == COUNTS[number])


def is_placed(raw: RawQuestion, places: Sequence[str]) -> bool:
    """Whether the answer is the one place (``place_in_image``) of all the evidence."""
    if not _kinds(raw) & {"position", "pos"} or not _fits_kind(raw):
        return False
    return {_bare(place) for place in places} == {_bare(raw.answer)}


def is_named(raw: RawQuestion) -> bool:
    """Whether the answer is what the lesions of the evidence are called."""
    if not _kinds(raw) & {"abnormality", "abn", "pres"}:
        return False
    labels = {label.casefold() for label in (region.label for region in raw.evidence)}
    said = {part.strip().casefold() for part in re.split(r"[,、，]| and ", raw.answer)}
    return said == labels and all(map(is_lesion, labels))


def is_modality(raw: RawQuestion) -> bool:
    """Whether the answer follows from the modality: it names it, or agrees or disagrees with a
    question that does."""
    own = _bare(raw.modality)
    asked = {name for name in ("ct", "mri", "xray") if name in _bare(raw.question).split()}
    says = polarity(raw.answer)
    if says is None:
        return _bare(raw.answer) == own
    weighted = re.search(r"\bt[12]\b|weight|加权", raw.question.casefold())
    return bool(asked) and not weighted and says == (asked == {own}) and len(asked) == 1


def asks_presence(question: str) -> bool:
    """Whether a yes-or-no question asks if something is there, by its words.

    >>> asks_presence("Is there a mass?"), asks_presence("Is the liver healthy?")
    (True, False)
    """
    question = question.casefold()
    return bool(_PRESENCE.search(question)) and not _QUALITY.search(question)


def _asks_presence(raw: RawQuestion | Asked) -> bool:
    fitting = _kinds(raw) & {"organ", "abnormality", "pres", "abn"}
    return bool(fitting) and asks_presence(raw.question)


def _fits_kind(raw: RawQuestion) -> bool:
    return not speaks_of_lesions(raw.question) or all(is_lesion(r.label) for r in raw.evidence)


def _kinds(raw: RawQuestion | Asked) -> set[str]:
    return {kind.strip() for kind in raw.content_type.casefold().split(",")}


def _rest_of(raw: RawQuestion | Asked) -> str:
    """The words of a question that are no part of the evidence's labels."""
    named = {word for region in raw.evidence for word in words_of(region.label)}
    return " ".join(word for word in words_of(raw.question) if word not in named)


def _bare(text: str) -> str:
    words = text.casefold().replace("x-ray", "xray").replace("x ray", "xray")
    return " ".join(w for w in re.findall(r"\w+", words) if w not in _FILLERS)
