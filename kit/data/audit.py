"""What a split hides: test questions and test images among the training rows, and what a model
that never looks could score."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kit.data.choices import without_choices
from kit.data.questions import RawQuestion
from kit.data.types import SftRecord
from kit.data.words import HAN, american, directions_in

REPEAT = "repeats_test_question"
REWORDING = "rewords_test_question"
OTHER_LANGUAGE = "image_in_other_language_test"
LEAK_KINDS = (OTHER_LANGUAGE, REPEAT, REWORDING)

REWORDING_SIMILARITY = 0.75  # Jaccard similarity of the content words of two questions

# fmt: off
_STOP_WORDS = frozenset([
    "a", "an", "the", "is", "are", "was", "were", "be", "been", "do", "does", "did", "has", "have",
    "there", "this", "that", "these", "those", "it", "its", "in", "on", "of", "at", "to", "for",
    "by", "with", "as", "can", "could", "any", "some", "seen", "shown", "show", "see", "image",
    "picture", "photo", "scan", "patient", "evidence", "present", "visible", "what", "which",
])
# fmt: on
_LETTER = rf"(?:(?!{HAN})[^\W_])"  # of any script; a Chinese word is taken to be one character
_WORD = re.compile(rf"{_LETTER}+(?:[-']{_LETTER}+)*|{HAN}")


@dataclass(frozen=True)
class Leak:
    """A training row that gives away a test row, and how (one of ``LEAK_KINDS``)."""

    row: RawQuestion
    kind: str
    test_where: str


def find_leaks(train: Sequence[RawQuestion], test: Sequence[RawQuestion]) -> list[Leak]:
    """Training rows that leak the test split of their own dataset, in training order.

    A row leaks when its image is in the test split of another language (of those that ``test``
    holds), or when the test split asks the same on the same image: the same normalised text, a
    text that the dataset itself links as its rewording, or a ``question_similarity`` of at least
    ``REWORDING_SIMILARITY``. Each row is counted once, under the first kind that holds.
    """
    by_image: dict[tuple[str, Path], list[RawQuestion]] = defaultdict(list)
    for row in test:
        for path in row.images:
            by_image[row.dataset, path].append(row)
    leaks = []
    for row in train:
        for kind in LEAK_KINDS:
            asked = [other for path in row.images for other in by_image[row.dataset, path]]
            match = _first_match(row, asked, kind)
            if match is not None:
                leaks.append(Leak(row, kind, match.where))
                break
    return leaks


def normalize_question(text: str) -> str:
    """Lower-case words without punctuation, one space between; of no words the text itself.

    >>> normalize_question("Is there\\ta MASS, here ?"), normalize_question("Есть ли узел?")
    ('is there a mass here', 'есть ли узел')
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORD.findall(text)) or text.strip()


def question_similarity(first: str, second: str) -> float:
    """Jaccard similarity of two questions' content words, in 0..1: 0 where one has none, or where
    they name different directions.

    >>> question_similarity("Is there evidence of a mass?", "Is a mass present?")
    1.0
    >>> question_similarity("Is the liver normal?", "Is the spleen normal?")
    0.3333333333333333
    >>> question_similarity("Is the left hepatic lobe normal?", "Is the right hepatic lobe normal?")
    0.0
    """
    if directions_in(first.casefold()) != directions_in(second.casefold()):
        return 0.0
    one, other = _content_words(first), _content_words(second)
    return len(one & other) / len(one | other) if one and other else 0.0


def question_only_floor(train: Sequence[SftRecord], test: Sequence[SftRecord]) -> list[str]:
    """For each test record the answer of a model that never looks at the image.

    The most frequent training answer to that very question text (normalised), else to its
    content type, else over all. Answers are counted without regard to case; a tie goes to the
    answer that comes first in the alphabet. Of several choices it is the one that was most
    frequent in that way; where none of them was ever an answer, that at the most frequent place.

    Raises:
        ValueError: no training record.
    """
    if not train:
        raise ValueError("no training record to take answers from")
    answers: dict[tuple[str, str], list[str]] = defaultdict(list)
    places: Counter[int] = Counter()
    for record in train:
        for key in _guessed_by(record):
            answers[key].append(record.answer)
        if record.choices:
            places[record.choices.index(record.answer)] += 1
    tallies = {key: _tally(told) for key, told in answers.items()}
    most = {key: _most_frequent(tally) for key, tally in tallies.items()}
    commonest = min(places, key=lambda place: (-places[place], place), default=0)

    def guess(record: SftRecord) -> str:
        for key in filter(tallies.__contains__, _guessed_by(record)):
            among = [c.casefold() for c in record.choices if c.casefold() in tallies[key]]
            if not record.choices:
                return most[key]
            if among:
                return _most_frequent({choice: tallies[key][choice] for choice in among})
        return record.choices[min(commonest, len(record.choices) - 1)]

    return [guess(record) for record in test]


def _guessed_by(record: SftRecord) -> list[tuple[str, str]]:
    """What a guesser goes by, the closest first."""
    question = normalize_question(without_choices(record.question, record.choices))
    return [("question", question), ("type", record.content_type), ("all", "")]


def _first_match(row: RawQuestion, others: list[RawQuestion], kind: str) -> RawQuestion | None:
    checks = {OTHER_LANGUAGE: _other_language, REPEAT: _repeats, REWORDING: _rewords}
    return next((other for other in others if checks[kind](row, other)), None)


def _other_language(row: RawQuestion, other: RawQuestion) -> bool:
    return row.language != other.language


def _repeats(row: RawQuestion, other: RawQuestion) -> bool:
    return normalize_question(row.question) == normalize_question(other.question)


def _rewords(row: RawQuestion, other: RawQuestion) -> bool:
    if row.group and row.group == other.group:
        return True
    linked = {normalize_question(text) for text in other.rewordings}
    if normalize_question(row.question) in linked:
        return True
    if normalize_question(other.question) in {normalize_question(t) for t in row.rewordings}:
        return True
    return question_similarity(row.question, other.question) >= REWORDING_SIMILARITY


def _content_words(text: str) -> set[str]:
    words = set(_WORD.findall(american(text.casefold())))
    return {w[:-1] if len(w) > 3 and w.endswith("s") else w for w in words - _STOP_WORDS}


def _tally(answers: Iterable[str]) -> dict[str, Counter[str]]:
    """How often each answer was given, in any case, by its spellings."""
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for answer in answers:
        spellings[answer.casefold()][answer] += 1
    return spellings


def _most_frequent(spellings: Mapping[str, Counter[str]]) -> str:
    key = min(spellings, key=lambda k: (-spellings[k].total(), k))
    return min(spellings[key], key=lambda spelling: (-spellings[key][spelling], spelling))
