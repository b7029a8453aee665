"""Multiple choice: the choices of a question, how they are shown, and which one an answer names.

They are shown after the question, a line each, with their letters ("A. Liver"). A record's answer
is the text of a choice; data may give it by text or by letter.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from typing import Any

from kit.data.fields import bad_field, check_text
from kit.files import strict_json

LETTERS = string.ascii_uppercase

# A letter that stands alone, as an option's: "B", "(b)", "B.", "Option B", "The answer is: B."
_ALONE = re.compile(
    r"\s*(?:the\s+)?(?:(?:correct|right|best|final)\s+)?(?:answer|option|choice)?(?:\s+is)?\s*:?\s*"
    r"(?:option\s+|choice\s+|(?:答案[是为]?|选[项择]?)\s*:?\s*)?"
    r"[(\[]?(?P<letter>[a-z])[)\]]?\s*[.:)。、]?\s*",
    re.IGNORECASE,
)
# A letter and what it stands for: "B. Liver", "(B) Liver", "b: liver"
_LETTERED = re.compile(
    r"\s*(?:option\s+|选项?)?(?:[(\[](?P<bracketed>[a-z])[)\]]|(?P<letter>[a-z])\s*[.:)、。])"
    r"[.:]?\s*(?P<text>\S.*)",
    re.IGNORECASE | re.DOTALL,
)
_KEY = re.compile(r"(?:option|choice)?[ _-]*([a-z]|\d{1,2})", re.IGNORECASE)


def parse_choices(value: Any, where: str, field: str = "choices") -> dict[str, str]:
    """Choices by their keys, which are A, B, C, ... where the data gives a list.

    A list, a mapping of letters or numbers to texts, or either as JSON text.

    Raises:
        RecordError: another form, fewer than two, more than 26, an empty one, or two alike.

    >>> parse_choices('["Liver", "Lung"]', "w"), parse_choices({"1": "yes", "2": "no"}, "w")
    ({'A': 'Liver', 'B': 'Lung'}, {'1': 'yes', '2': 'no'})
    """
    if isinstance(value, str):
        value = _of_text(value, where, field)
    if isinstance(value, dict):
        keys = {str(key): _KEY.fullmatch(str(key).strip()) for key in value}
        if wrong := [key for key, found in keys.items() if not found]:
            what = f"has the key {wrong[0]!r}; keys are letters or numbers"
            raise bad_field(where, field, what, "bad_choices")
        named = {keys[str(key)][1].upper(): text for key, text in value.items()}
        value = dict(sorted(named.items(), key=lambda item: (len(item[0]), item[0])))
    elif isinstance(value, (list, tuple)):
        value = dict(zip(LETTERS, value, strict=False)) if len(value) <= len(LETTERS) else {}
    else:
        what = f"must be a list, or letters with their texts, not {type(value).__name__}"
        raise bad_field(where, field, what, "bad_choices")
    texts = [plain(text, where, field) for text in value.values()]
    if not 2 <= len(texts) <= len(LETTERS):
        raise bad_field(
            where, field, f"must be 2 to {len(LETTERS)}, not {len(texts)}", "bad_choices"
        )
    for text in texts:
        check_text(text, where, "choices")
    folded = [text.casefold() for text in texts]
    if twice := [text for text in texts if folded.count(text.casefold()) > 1]:
        raise bad_field(where, field, f"holds {twice[0]!r} twice", "bad_choices")
    return dict(zip(value, texts, strict=True))


def of_record(text: dict[str, str], value: Any, where: str, answer: str = "answer") -> dict:
    """The text fields of a prepared record that has ``choices``, with these: its question shows
    them, and its ``answer`` is the text of one.

    Raises:
        RecordError: as :func:`parse_choices` and :func:`named_choice`.
    """
    if not value:
        return text
    choices = parse_choices(value, where)
    texts = tuple(choices.values())
    named = {"question": with_choices(text["question"], texts), "choices": texts}
    return text | named | {answer: named_choice(text[answer], choices, where)}


def with_choices(question: str, choices: Sequence[str]) -> str:
    """A question as it is asked, with its choices; one that shows them already stays as it is.

    >>> print(with_choices("Which organ is this?", ["Liver", "Lung"]))
    Which organ is this?
    A. Liver
    B. Lung
    """
    block = _block(choices)
    return question if not choices or question.endswith(block) else question + block


def without_choices(question: str, choices: Sequence[str]) -> str:
    """The question alone.

    >>> without_choices(with_choices("Which organ?", ["Liver", "Lung"]), ["Liver", "Lung"])
    'Which organ?'
    """
    return question.removesuffix(_block(choices)) if choices else question


def letter_alone(text: str) -> str | None:
    """The letter that is all that an answer names; a word of one letter in a longer text is none.

    >>> [letter_alone(text) for text in ("(b).", "The answer is C", "A mass", "Vitamin B")]
    ['B', 'C', None, None]
    >>> [letter_alone(text) for text in ("**B**", "（B）", "Ｂ。", "答案：B", "选B", "维生素B")]
    ['B', 'B', 'B', 'B', 'B', None]
    """
    found = _ALONE.fullmatch(_plainly(text))
    return found["letter"].upper() if found else None


def letter_and_text(text: str) -> tuple[str, str] | None:
    """The letter that begins an answer, and what it is said to stand for.

    >>> letter_and_text("B. Liver"), letter_and_text("(b) liver"), letter_and_text("a liver")
    (('B', 'Liver'), ('B', 'liver'), None)
    """
    found = _LETTERED.fullmatch(_plainly(text))
    return ((found["letter"] or found["bracketed"]).upper(), found["text"]) if found else None


def _plainly(text: str) -> str:
    """Without emphasis, and full-width characters as their plain ones."""
    return unicodedata.normalize("NFKC", text).replace("*", "")


def named_choice(answer: str, choices: dict[str, str], where: str) -> str:
    """The text of the choice that data gives as the answer: by its text, its key, or both.

    Raises:
        RecordError: it names none of them, or by its text another one than by its letter.

    >>> [named_choice(a, {"A": "Liver", "B": "Lung"}, "w") for a in ("B", "lung", "b) Lung")]
    ['Lung', 'Lung', 'Lung']
    """
    texts = {text.casefold(): text for text in choices.values()}
    letter, both = letter_alone(answer), letter_and_text(answer)
    by_text = texts.get(answer.casefold())
    by_key = choices.get(answer.upper()) or choices.get(letter or "")
    if both and not by_text and choices.get(both[0], "").casefold() == both[1].casefold():
        by_key = choices[both[0]]
    if by_text and by_key and by_text != by_key:
        what = f"{answer!r} is a choice's text and another one's letter: give the letter's text"
        raise bad_field(where, "answer", what, "bad_choices")
    if not (found := by_text or by_key):
        shown = "; ".join(f"{key}: {text}" for key, text in choices.items())
        what = f"{answer!r} is none of the choices ({shown}): give a text or letter of theirs"
        raise bad_field(where, "answer", what, "bad_choices")
    return found


def plain(value: Any, where: str, field: str) -> str:
    """A text, number or truth value of a table as text, white space collapsed.

    >>> [plain(value, "w", "answer") for value in (" a  b", 3.0, 2.5, True)]
    ['a b', '3', '2.5', 'yes']
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, (str, int, float)):
        raise bad_field(where, field, f"must be text, not {type(value).__name__}", "wrong_type")
    clean = " ".join(str(value).split())
    if not clean:
        raise bad_field(where, field, "is empty", f"empty_{field}")
    return clean


def _block(choices: Sequence[str]) -> str:
    return "".join(f"\n{key}. {text}" for key, text in zip(LETTERS, choices, strict=False))


def _of_text(written: str, where: str, field: str) -> Any:
    try:
        return strict_json(written)
    except (ValueError, RecursionError):
        what = f"is no JSON list of texts: {written[:80]}"
        raise bad_field(where, field, what, "bad_choices") from None
