"""What a split hides: test questions and test images among the training rows, and what a model
that never looks could score."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from kit.data.choices import without_choices
from kit.data.images import open_image
from kit.data.questions import RawQuestion
from kit.data.types import SftRecord
from kit.data.words import american, directions_in

REPEAT = "repeats_test_question"
REWORDING = "rewords_test_question"
OTHER_LANGUAGE = "image_in_other_language_test"
LEAK_KINDS = (OTHER_LANGUAGE, REPEAT, REWORDING)

REWORDING_SIMILARITY = 0.75  # Jaccard similarity of the content words of two questions
NEAR_DUPLICATE_CORRELATION = 0.99  # of 32x32 thumbnails
THUMBNAIL = 32

# fmt: off
_STOP_WORDS = frozenset([
    "a", "an", "the", "is", "are", "was", "were", "be", "been", "do", "does", "did", "has", "have",
    "there", "this", "that", "these", "those", "it", "its", "in", "on", "of", "at", "to", "for",
    "by", "with", "as", "can", "could", "any", "some", "seen", "shown", "show", "see", "image",
    "picture", "photo", "scan", "patient", "evidence", "present", "visible", "what", "which",
])
# fmt: on
_WORD = re.compile(r"[a-z0-9]+(?:[-'][a-z0-9]+)*|[㐀-鿿]")


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
    """Lower-case words without punctuation, one space between.

    >>> normalize_question("Is there\\ta MASS, here ?")
    'is there a mass here'
    """
    return " ".join(_WORD.findall(text.casefold()))


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


def thumbnail(image: Image.Image) -> np.ndarray:
    """``[1024]`` float32: the 32x32 greyscale of an image, centred and of unit length, so that
    the dot product of two is their correlation (all zeros for an image of one colour)."""
    small = image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    values = np.asarray(small, dtype=np.float32).ravel()
    values = values - values.mean()
    length = np.linalg.norm(values)
    return values / length if length > 0 else values


def near_duplicates(
    train: Mapping[Path, np.ndarray], test: Mapping[Path, np.ndarray]
) -> dict[Path, Path]:
    """Training images whose thumbnail correlates above ``NEAR_DUPLICATE_CORRELATION`` with that
    of another file in the test split, each with the nearest such file."""
    if not train or not test:
        return {}
    train_paths, test_paths = list(train), list(test)
    correlation = (
        np.stack([train[p] for p in train_paths]) @ np.stack([test[p] for p in test_paths]).T
    )
    columns = {path: index for index, path in enumerate(test_paths)}
    for row, path in enumerate(train_paths):
        if path in columns:
            correlation[row, columns[path]] = -1
    best = correlation.argmax(axis=1)
    return {
        path: test_paths[best[row]]
        for row, path in enumerate(train_paths)
        if correlation[row, best[row]] > NEAR_DUPLICATE_CORRELATION
    }


def volumes(thumbnails: Mapping[Path, np.ndarray]) -> dict[Path, str]:
    """The volume of each image: images whose thumbnails correlate above
    ``NEAR_DUPLICATE_CORRELATION`` are slices of one, and so are those that a chain of such joins.

    A volume has the name of its first image in the order of paths (``folder/file``), so that an
    image that is like no other is a volume of its own, and no order of the images matters.
    """
    paths = sorted(thumbnails)
    names: dict[Path, str] = {}
    if not paths:
        return names
    small = np.stack([thumbnails[path] for path in paths])
    left = np.ones(len(paths), dtype=bool)
    taken: set[str] = set()
    for first, path in enumerate(paths):
        if not left[first]:
            continue
        short = f"{path.parent.name}/{path.name}"
        name = str(path) if short in taken else short
        taken.add(name)
        left[first] = False
        waiting = [first]
        while waiting:
            index = waiting.pop()
            names[paths[index]] = name
            near = left & (small @ small[index] > NEAR_DUPLICATE_CORRELATION)
            left &= ~near
            waiting.extend(np.flatnonzero(near))
    return {path: names[path] for path in thumbnails}


def volumes_of(
    records: Sequence[SftRecord], thumbnails: Mapping[Path, np.ndarray] | None = None
) -> dict[str, str]:
    """The volume of each image: neighbouring slices of one scan are not independent, and count as
    one (:func:`volumes`), within their dataset. ``thumbnails``: where they are known already; an
    image without one is a volume of its own."""
    by_dataset: dict[str, set[str]] = {}
    for record in records:
        by_dataset.setdefault(record.dataset, set()).add(record.image)
    found = {}
    for dataset, images in by_dataset.items():
        paths = [Path(image) for image in sorted(images)]
        if thumbnails is None:
            small = {path: thumbnail(open_image(path)) for path in paths}
        else:
            small = {path: thumbnails[path] for path in paths if path in thumbnails}
        names = {path: str(path) for path in paths} | volumes(small)
        found |= {str(path): f"{dataset}/{names[path]}" for path in paths}
    return found


def held_out(thumbnails: Mapping[Path, np.ndarray], share: float) -> set[Path]:
    """The images of about that share (0..1) that are set apart for validation.

    A hash of the name of its volume's first file decides, so that an image stays where it is
    whatever the order, the folder and the other images, and all slices of a volume stay together.
    """
    first: dict[str, str] = {}
    found = volumes(thumbnails)
    for path, volume in found.items():
        first[volume] = min(path.name, first.get(volume, path.name))
    chosen = {volume for volume, name in first.items() if fraction(name) < share}
    return {path for path, volume in found.items() if volume in chosen}


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


def fraction(name: str) -> float:
    """A number in 0..1 that only the name decides."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


def _tally(answers: Iterable[str]) -> dict[str, Counter[str]]:
    """How often each answer was given, in any case, by its spellings."""
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for answer in answers:
        spellings[answer.casefold()][answer] += 1
    return spellings


def _most_frequent(spellings: Mapping[str, Counter[str]]) -> str:
    key = min(spellings, key=lambda k: (-spellings[k].total(), k))
    return min(spellings[key], key=lambda spelling: (-spellings[key][spelling], spelling))
