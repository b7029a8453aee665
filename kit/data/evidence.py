"""Which labelled boxes of an image bear on a question: SLAKE links none, so names decide.

A box is evidence when the question or the answer names its label: whole words, any case,
singular or plural. A side or kind that is said counts ("left lung" is not the right one); one
that is not said leaves both ("lung" is both). Where the question offers several to choose from,
what the answer names is evidence, and where it asks for the place of one, that one: not the
options, and no landmark. A question about something abnormal that names no label is borne out by
the lesions. Everything else has no evidence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kit.data.types import Region
from kit.data.words import CHINESE, stem

# fmt: off
LESION_WORDS = (
    "abscess", "aneurysm", "atelectasis", "calcification", "cancer", "cardiomegaly", "cavity",
    "consolidation", "contusion", "cyst", "edema", "effusion", "emphysema", "fibrosis", "fracture",
    "hematoma", "hemorrhage", "hernia", "infarct", "infiltrate", "infiltration", "lesion", "mass",
    "metastasis", "nodule", "opacity", "pneumonia", "pneumothorax", "polyp", "stone",
    "thickening", "tumor",
)
ORGANS = (
    "small bowel", "spinal cord", "temporal lobe", "brain stem", "femoral head", "humerus head",
    "pulmonary bronchus", "liver", "kidney", "spleen", "lung", "heart", "colon", "esophagus",
    "trachea", "rectum", "bladder", "eye", "ear", "tooth", "parotid", "larynx", "mandible",
    "stomach", "pancreas", "gallbladder", "duodenum", "intestine", "adrenal gland", "prostate",
    "uterus", "ventricle", "brain", "thyroid", "aorta",
)
# fmt: on

_ABNORMAL = frozenset(
    ["abnormal", "abnormality", "lesion", "disease", "unhealthy", "pathology", "anomaly"]
)
_QUALIFIERS = frozenset(["left", "right", "enhancing", "non-enhancing"])
_BETWEEN = frozenset(["lower", "upper", "middle", "side", "sided", "and", "or", "the"])
_SYNONYMS = {"infiltration": "infiltrate", "infarction": "infarct"}

# Longest terms win. The values are the English words that the matcher reads.
_CHINESE = {
    "肝癌": "liver cancer", "肝脏": "liver", "肝": "liver",
    "肺癌": "lung cancer", "肺不张": "atelectasis", "肺肿块": "mass", "肺结节": "nodule",
    "肺炎": "pneumonia", "肺浸润": "infiltrate", "肺部": "lung", "肺": "lung",
    "左肺": "left lung", "右肺": "right lung", "气胸": "pneumothorax",
    "胸腔积液": "effusion", "积液": "effusion", "浸润": "infiltrate", "肿块": "mass",
    "结节": "nodule", "心脏肥大": "cardiomegaly", "心脏增大": "cardiomegaly",
    "肾癌": "kidney cancer", "肾脏": "kidney", "肾": "kidney", "脾脏": "spleen", "脾": "spleen",
    "心脏": "heart", "结肠": "colon", "小肠": "small bowel", "直肠": "rectum", "膀胱": "bladder",
    "脊髓": "spinal cord", "食管": "esophagus", "食道": "esophagus", "气管": "trachea",
    "脑干": "brain stem", "颞叶": "temporal lobe", "眼睛": "eye", "眼": "eye",
    "耳朵": "ear", "耳": "ear", "牙齿": "tooth", "牙": "tooth", "腮腺": "parotid",
    "喉部": "larynx", "喉": "larynx", "下颌骨": "mandible", "下颌": "mandible", "下颚": "mandible",
    "股骨头": "femoral head", "肱骨头": "humerus head", "胃": "stomach",
    "肺支气管": "pulmonary bronchus", "支气管": "pulmonary bronchus", "大脑": "brain",
    "脑水肿": "brain edema", "水肿": "edema", "脑肿瘤": "brain tumor", "脑瘤": "brain tumor",
    "脑部": "brain", "脑": "brain", "非增强型": "non-enhancing", "非增强": "non-enhancing",
    "增强型": "enhancing", "增强": "enhancing", "肿瘤": "tumor", "癌": "cancer",
    "不健康": "unhealthy", "健康": "unhealthy", "异常": "abnormal", "不正常": "abnormal",
    "病变": "lesion", "疾病": "disease", "病灶": "lesion",
    "左侧": "left", "右侧": "right", "左": "left", "右": "right",
    "上": "upper", "下": "lower", "侧": "side", "和": "and", "或": "or",
    "心": "heart",
}  # fmt: skip
_CHINESE_TERM = re.compile("|".join(sorted(_CHINESE, key=len, reverse=True)))
_WORD = re.compile(r"[a-z]+(?:-[a-z]+)*|[^\sa-z]")
_OPTIONS = re.compile(r"\bor\b|或|还是|哪[个一](体积|更|最)")
_DENIAL = re.compile(
    r"\b(?:no|not|without|absen(?:t|ce)|free of)\b(?:(?!\b(?:but|with|showing|and there)\b)[^.;:])*"
    r"|(?:未见|未发现|没有|无)[^。；，]*"
)
_WHERE = re.compile(r"^where\b|\bwhere (is|are)\b|\blocated?\b|哪里|哪个位置|什么位置|哪个部位")


def find_evidence(
    regions: tuple[Region, ...], question: str, answer: str, content_type: str = ""
) -> tuple[Region, ...]:
    """The boxes that bear on the question, in their given order.

    >>> lungs = (Region("Left Lung", (5, 1, 9, 9)), Region("Right Lung", (1, 1, 4, 9)))
    >>> [r.label for r in find_evidence(lungs, "Is the lung healthy?", "No")]
    ['Left Lung', 'Right Lung']
    >>> [r.label for r in find_evidence(lungs, "Where is the abnormality?", "Lower Left Lung")]
    ['Left Lung']
    >>> [r.label for r in find_evidence(lungs, "异常病变在哪个位置?", "右肺")]
    ['Right Lung']
    >>> [r.label for r in find_evidence(lungs, "Which is bigger, left lung or right lung?", "Left")]
    ['Left Lung', 'Right Lung']
    """
    texts = [words_of(question), words_of(answer)]
    labels = {r.label for r in regions}
    named = _named(labels, texts)
    asked, answered = _named(labels, texts[:1]), _named(labels, texts[1:])
    if _OPTIONS.search(question.casefold()) and answered:
        named = answered
    elif _WHERE.search(question.casefold()) and asked and not answered <= asked:
        named = asked
    if named:
        return tuple(r for r in regions if r.label in named)
    said = {word for text in texts for word in text}
    kinds = said & _LESION_STEMS - {"cavity"}  # the pelvic cavity is none
    if kinds:
        same = tuple(r for r in regions if kinds & set(words_of(r.label)))
        if same:
            return same
    if content_type.casefold() == "abnormality" or said & _ABNORMAL_STEMS or kinds:
        return tuple(r for r in regions if is_lesion(r.label))
    return ()


def names_label(text: str, label: str) -> bool:
    """Whether a text names a box label; see the module's docstring for the rule.

    >>> names_label("Are the KIDNEYS normal?", "Left Kidney"), names_label("deliver", "Liver")
    (True, False)
    """
    return bool(_named({label}, [words_of(text)]))


def organs_named(text: str) -> list[str]:
    """The organs of the fixed list that a text names, in the list's order.

    >>> organs_named("Does the picture contain heart?")
    ['heart']
    """
    words = words_of(text)
    return [organ for organ in ORGANS if _mentions(tuple(words_of(organ)), words)]


def named_things(text: str) -> set[str]:
    """The organs and lesions that a text names, with the sides that it says of them.

    >>> sorted(named_things("Liver and left kidney with a cyst"))
    ['cyst', 'left kidney', 'liver']
    """
    words, found = words_of(text), set()
    for name in (*ORGANS, *_LESION_STEMS):
        for mention in _mentions(tuple(words_of(name)), words):
            found |= {f"{one} {name}" for one in mention.qualifiers} or {name}
    return found


def shows(text: str, thing: str) -> bool:
    """Whether a text says that a thing of :func:`named_things` is there; any lesion is a lesion.

    >>> shows("CT without a nodule, but a mass.", "nodule"), shows("A left mass.", "right mass")
    (False, False)
    >>> shows("CT showing a nodule.", "lesion"), shows("胸片未见结节。", "nodule")
    (True, False)
    """
    said = _DENIAL.sub(" ", text.casefold())
    if thing in _ABNORMAL_STEMS:
        return bool(set(words_of(said)) & _LESION_STEMS)
    return names_label(said, thing)


def speaks_of_lesions(text: str) -> bool:
    """Whether a text names a lesion or something abnormal.

    >>> speaks_of_lesions("Is there a cyst?"), speaks_of_lesions("Where is the liver?")
    (True, False)
    """
    return bool(set(words_of(text)) & (_LESION_STEMS | _ABNORMAL_STEMS))


def is_lesion(label: str) -> bool:
    """Whether a box label names a lesion and not an organ.

    >>> is_lesion("Brain Non-enhancing Tumor"), is_lesion("Left Kidney")
    (True, False)
    """
    return bool(set(words_of(label)) & _LESION_STEMS)


def words_of(text: str) -> list[str]:
    """Lower-case stems of a text's words; Chinese terms are read as their English names."""
    text = text.casefold()
    if CHINESE.search(text):
        text = _CHINESE_TERM.sub(lambda found: f" {_CHINESE[found.group()]} ", text)
    return [_stem(word) for word in _WORD.findall(text)]


def _stem(word: str) -> str:
    return word if word in _QUALIFIERS else _SYNONYMS.get(stem(word), stem(word))


_LESION_STEMS = frozenset(_stem(word) for word in LESION_WORDS)
_ABNORMAL_STEMS = frozenset(_stem(word) for word in _ABNORMAL)


@dataclass(frozen=True)
class _Mention:
    start: int
    end: int
    qualifiers: frozenset[str]

    def within(self, other: _Mention) -> bool:
        longer = other.end - other.start > self.end - self.start
        return longer and other.start <= self.start and self.end <= other.end


def _named(labels: set[str], texts: list[list[str]]) -> set[str]:
    """The labels that the texts name; "liver cancer" names no liver where it is a label too."""
    words = {label: words_of(label) for label in labels}
    kinds = {label: _QUALIFIERS & set(words[label]) for label in labels}
    cores = {label: tuple(w for w in words[label] if w not in _QUALIFIERS) for label in labels}
    mentions: dict[tuple[str, ...], list[frozenset[str]]] = {}
    for text in texts:
        here = {core: _mentions(core, text) for core in set(cores.values())}
        everything = [mention for found in here.values() for mention in found]
        for core, found in here.items():
            own = [m.qualifiers for m in found if not any(m.within(other) for other in everything)]
            mentions.setdefault(core, []).extend(own)
    named = set()
    for label in labels:
        found = mentions.get(cores[label], [])
        if any(found) and kinds[label]:  # one that says the side outranks one that does not
            found = [qualifiers for qualifiers in found if qualifiers & kinds[label]]
        if found:
            named.add(label)
    return named


def _mentions(core: tuple[str, ...], words: list[str]) -> list[_Mention]:
    """Each place where ``core`` stands in ``words``, with the qualifiers said there.

    Qualifiers may stand before it ("left and right kidney", "left lower lung") or within it
    ("brain enhancing tumor").
    """
    mentions = []
    for start in range(len(words)):
        qualifiers, position, matched = set(), start, 0
        while position < len(words) and matched < len(core):
            if words[position] == core[matched]:
                matched += 1
            elif matched and words[position] in _QUALIFIERS:
                qualifiers.add(words[position])
            else:
                break
            position += 1
        if not core or matched < len(core):
            continue
        before = start - 1
        while before >= 0 and (words[before] in _QUALIFIERS or words[before] in _BETWEEN):
            qualifiers |= {words[before]} & _QUALIFIERS
            before -= 1
        mentions.append(_Mention(start, position, frozenset(qualifiers)))
    return mentions
