"""Multiple choice: a letter is as good as its text, and within a word it is none."""

import pytest

from kit.data.audit import question_only_floor
from kit.data.choices import with_choices
from kit.data.records import SftRecord
from kit.prompting.answers import same_answer
from kit.scoring.accuracy import score_answer
from kit.scoring.faithfulness import answer_score

CHOICES = ("Pleural effusion", "Lung", "A lung mass", "No")
GOLD = "Lung"
# fmt: off
RIGHT = (
    "B", "b", "(B)", "B.", "b)", "[B]", "Option B", "The answer is B.", "Answer: B", "lung",
    "Lung.", "B. Lung", "(b) lung", "B: the lung", "the lung",
)
WRONG = (
    "A", "C", "D", "E", "A. Lung", "C. Lung", "Both", "bilateral", "a lung mass", "Blood",
    "Vitamin B", "hepatitis B", "B or C", "A, B", "no lung", "B. A lung mass", "", ".",
)
# fmt: on


@pytest.mark.parametrize("said", RIGHT)
def test_a_letter_is_as_good_as_its_text(said):
    scores = score_answer(said, GOLD, answer_type="CLOSED", choices=CHOICES)
    assert (scores["exact"], scores["relaxed"]) == (1.0, 1.0)
    assert answer_score(said, GOLD, "f1", CHOICES) == 1.0
    assert same_answer(GOLD, said, CHOICES), "symmetric"
    assert scores["medevalkit/total"] is None, "no convention of theirs knows letters"


@pytest.mark.parametrize("said", WRONG)
def test_a_letter_within_a_text_is_no_hit(said):
    scores = score_answer(said, GOLD, answer_type="CLOSED", choices=CHOICES)
    assert (scores["exact"], scores["relaxed"]) == (0.0, 0.0)
    assert answer_score(said, GOLD, "f1", CHOICES) == 0.0


def test_what_could_be_two_choices_names_none():
    alike = ("Left lung", "left-lung.", "Heart")
    assert not same_answer("left lung!", alike[0], alike)
    assert score_answer("left  lung", alike[1], answer_type="CLOSED", choices=alike)["exact"] == 0
    assert same_answer("heart!", "Heart", alike)


def test_without_choices_a_letter_is_a_letter():
    assert not same_answer("B", GOLD)
    assert same_answer("B", "b")


def record(question: str, answer: str, *choices: str) -> SftRecord:
    return SftRecord("{}", "i.png", with_choices(question, choices), answer, choices=choices)


def test_the_floor_guesses_among_the_choices():
    train = [
        record("Which organ?", "Lung", "Liver", "Lung", "Heart"),
        record("Which organ?", "Lung", "Heart", "Lung"),
        record("Which organ?", "Heart", "Heart", "Liver"),
        record("What is it?", "Mass", "Cyst", "Mass"),
        record("Which side?", "Mass"),
    ]
    asked = [
        record("Which organ?", "Heart", "Heart", "Lung"),  # the same question
        record("Which organ?", "Heart", "Heart", "Spleen"),  # whose most frequent is no choice
        record("Anything?", "x", "Cyst", "Lung", "Mass"),  # another one: of all, Lung and Mass tie
        record("Anything?", "x", "Bone", "Skin"),  # never an answer: the commonest place
        record("Anything?", "x"),
    ]
    assert question_only_floor(train, asked) == ["Lung", "Heart", "Lung", "Skin", "Lung"]
