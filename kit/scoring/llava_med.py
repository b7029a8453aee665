"""Scores as LLaVA-Med computes them (Li et al. 2023, arXiv 2306.00890; microsoft/LLaVA-Med,
``llava/eval/run_eval.py`` and ``llava/eval/eval_metrics``), quirks included.

- Open: token recall in which a right token counts as often as the *prediction* says it, so
  "lung lung lung" for "left lung" has recall 3/4.
- Closed: the gold answer is a substring of a prediction that has "yes" or "no" as a substring.
  So choice answers (Lung, T2, Left) cannot hit, unless the prediction happens to hold these
  letters ("abnormal" hits the gold answer "normal"), and "no" is found in "normal" and "not".
- The released script forgets to count closed predictions that hold yes or no but not the gold
  answer. The published figures do count them (84.19 is 229 of VQA-RAD's 272 closed questions,
  85.34 is 355 of SLAKE's 416), and so does this module.
- For English only: "yes" and "no" are found by their letters. Of Chinese gold answers
  ``kit.scoring.accuracy`` gives no such score.
"""

from __future__ import annotations

import re
from collections import Counter

_ARTICLES = ("a", "an", "the")
_COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(value) for value, word in enumerate(_COUNTS)} | {"none": "0"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS = re.compile(r"\d,\d")
_POINT = re.compile(r"\.(?!\d)")
_MOST_POINTS = 32  # the original passes re.UNICODE, which is 32, as the count of replacements

# fmt: off
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't
    mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've
    should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
    someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't
    what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's
    who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd
    you'd've you'll you're you've
"""
# fmt: on


def _spellings(word: str) -> list[str]:
    """A contraction as the original's table knows it misspelt: one apostrophe is missing."""
    places = [place for place, character in enumerate(word) if character == "'"]
    return [word[:place] + word[place + 1 :] for place in places]


_CONTRACTIONS = {spelling: word for word in _CONTRACTED.split() for spelling in _spellings(word)}
for _absent in ("shouldn'tve", "we'dve"):
    del _CONTRACTIONS[_absent]
_CONTRACTIONS["somebody'd"] = "somebodyd"  # the original has this pair the wrong way round


def normalise_words(text: str) -> str:
    """Text in the form in which LLaVA-Med compares it (its rules are those of the VQA challenge).

    A punctuation mark that stands beside a space anywhere in the text is removed everywhere, else
    it becomes a space; with a comma between digits all marks are removed. Points not before a
    digit go, number words become digits, articles go, apostrophes come back.

    >>> normalise_words("The X-ray, one of two."), normalise_words("non- contrast x-ray")
    ('x ray 1 of 2', 'non contrast xray')
    """
    remove_all = _THOUSANDS.search(text) is not None
    result = text
    for mark in _PUNCTUATION:
        removed = remove_all or f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if removed else " ")
    words = _POINT.sub("", result, count=_MOST_POINTS).lower().split()
    words = [_NUMBERS.get(word, word) for word in words]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def open_recall(prediction: str, gold: str) -> float:
    """Token recall in 0..1; 0 where one of the two has no token. Both are normalised twice, as in
    the original.

    >>> open_recall("the left lung", "left lung"), open_recall("lung lung lung", "left lung")
    (1.0, 0.75)
    """
    said = Counter(normalise_words(normalise_words(prediction.lower())).split())
    wanted = Counter(normalise_words(normalise_words(gold.lower())).split())
    hits = sum(count for word, count in said.items() if word in wanted)
    missed = sum(count for word, count in wanted.items() if word not in said)
    return hits / (hits + missed) if hits else 0.0


def closed_hit(prediction: str, gold: str) -> float:
    """1.0 or 0.0; see the module's docstring.

    >>> closed_hit("Yes, it is", "yes"), closed_hit("Is normal", "No"), closed_hit("Lung", "Lung")
    (1.0, 1.0, 0.0)
    """
    said = normalise_words(prediction.lower())
    decided = "yes" in said or "no" in said
    return float(decided and normalise_words(gold.lower()) in said)
