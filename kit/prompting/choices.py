"""Which of several choices an answer names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kit.data.choices import LETTERS, letter_alone, letter_and_text
from kit.prompting.normal import normalise, same_text


def choice_of(
    answer: str, choices: Sequence[str], same: Callable[[str, str], bool] = same_text
) -> int | None:
    """The place of the choice that an answer names, or None: by its text, by its letter alone, or
    by both where they agree. A letter within a longer text names nothing.

    >>> choices = ["Liver", "Left lung", "Lung"]
    >>> [choice_of(said, choices) for said in ("b", "(C)", "The answer is A.", "left lung.")]
    [1, 2, 0, 1]
    >>> [choice_of(said, choices) for said in ("C. Lung", "A. Lung", "A mass", "b or c", "D", "")]
    [2, None, None, None, None, None]
    """
    written = [text.casefold() for text in choices]
    if (said := answer.strip().casefold()) in written:
        return written.index(said)
    if letter := letter_alone(answer):
        return _place(letter, choices)
    if lettered := letter_and_text(answer):  # before articles go: "A. Lung" is not "a lung"
        place = _place(lettered[0], choices)
        return place if place is not None and same(lettered[1], choices[place]) else None
    for alike in (lambda a, b: normalise(a) == normalise(b), same):
        found = [place for place, text in enumerate(choices) if said and alike(answer, text)]
        if len(found) == 1:
            return found[0]
    return None


def chosen(answer: str, choices: Sequence[str]) -> str:
    """The text of the choice that an answer names, else the answer itself.

    >>> chosen("b", ["Liver", "Lung"]), chosen("Heart", ["Liver", "Lung"]), chosen("b", [])
    ('Lung', 'Heart', 'b')
    """
    place = choice_of(answer, choices)
    return answer if place is None else choices[place]


def _place(letter: str, choices: Sequence[str]) -> int | None:
    place = LETTERS.index(letter)
    return place if place < len(choices) else None
