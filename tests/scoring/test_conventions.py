"""The published conventions against plain rewritings of them, on thousands of awkward answers."""

import random
import warnings
from itertools import pairwise

import pytest
from plain_scorers import (
    longest,
    pairs,
    plain_bleu,
    plain_f,
    plain_final,
    plain_llava_closed,
    plain_medevalkit_closed,
    plain_recall,
    plain_vqa,
    plain_words,
)

from kit.scoring import llava_med, medevalkit
from kit.scoring.exact import exact_match
from kit.scoring.vqa_challenge import vqa_hit


def test_llava_med_agrees_with_a_plain_rewriting():
    for prediction, gold in pairs(6000, seed=1):
        shown = (prediction, gold)
        assert llava_med.normalise_words(prediction.lower()).split() == plain_words(prediction), (
            shown
        )
        assert llava_med.open_recall(prediction, gold) == plain_recall(prediction, gold), shown
        assert llava_med.closed_hit(prediction, gold) == plain_llava_closed(prediction, gold), shown


def test_medevalkit_agrees_with_a_plain_rewriting():
    for prediction, gold in pairs(4000, seed=2):
        shown = (prediction, gold)
        expected = plain_medevalkit_closed(prediction, gold)
        assert medevalkit.closed_hit(prediction, gold) == expected, shown
        scores = medevalkit.open_scores(prediction, gold)
        said, wanted = plain_final(prediction), gold.lower().strip()
        assert scores["open_exact"] == (1.0 if said == wanted else 0.0), shown
        for order in (1, 2, 3, 4):
            close = pytest.approx(plain_bleu(said, wanted, order), abs=1e-12)
            assert scores[f"bleu{order}"] == close, shown
        one, two = said.split(), wanted.split()
        common = len([word for word in dict.fromkeys(one) if word in two])
        f1 = plain_f(common, len(dict.fromkeys(one)), len(dict.fromkeys(two)))
        assert scores["f1"] == pytest.approx(f1, abs=1e-12), shown
        assert scores["precision"] == pytest.approx(common / max(1, len(set(one)))), shown
        assert scores["recall"] == pytest.approx(common / max(1, len(set(two)))), shown


def test_the_vqa_challenge_agrees_with_a_plain_rewriting():
    hits = 0
    for prediction, gold in pairs(4000, seed=6):
        assert vqa_hit(prediction, gold) == plain_vqa(prediction, gold), (prediction, gold)
        hits += vqa_hit(prediction, gold)
    assert 400 < hits < 3000


def test_rouge_of_single_sentences_without_repeats():
    """Where neither rouge's sets nor its sentences matter it is the textbook's."""
    draw = random.Random(3)
    for _ in range(1500):
        one = draw.sample("abcdefg", draw.randint(1, 6))
        two = draw.sample("abcdefg", draw.randint(1, 6))
        scores = medevalkit.rouge(" ".join(one), " ".join(two))
        grams = [list(pairwise(words)) for words in (one, two)]
        common = len([g for g in grams[0] if g in grams[1]])
        f1 = plain_f(len([w for w in one if w in two]), len(one), len(two))
        f2 = plain_f(common, len(grams[0]), len(grams[1]))
        close = {"abs": 1e-7}
        assert scores["rouge1"] == pytest.approx(f1, **close)
        assert scores["rouge2"] == pytest.approx(f2, **close)
        expected = plain_f(longest(one, two), len(one), len(two))
        assert scores["rougeL"] == pytest.approx(expected, **close)


def test_rouge_counts_repeats_once_and_joins_sentences():
    assert medevalkit.rouge("lung lung lung", "lung")["rouge1"] == pytest.approx(1, abs=1e-7)
    assert medevalkit.rouge("b. a", "a b")["rougeL"] == pytest.approx(1, abs=1e-7)
    assert medevalkit.rouge("b a", "a b")["rougeL"] == pytest.approx(0.5, abs=1e-7)
    assert medevalkit.rouge("", "a") == {"rouge1": 0, "rouge2": 0, "rougeL": 0}


@pytest.mark.parametrize(
    ("said", "wanted", "expected"),
    [
        ("c c b b c", "a b a c c", (0.8, 0.25, 0.4)),
        ("c . c c a a", "a c b", (0.8, 0.0, 0.4)),
        (". a a b b", "b a c b", (0.8, 0.0, 0.8)),
        ("c a . c", "b a a c", (0.8, 0.4, 0.4)),
        ("a a b .", "a b c a", (0.8, 0.4, 0.4)),
        ("a. . b", "a b", (0.8, 0.0, 0.8)),  # a sentence of a space holds an empty word
    ],
)
def test_rouge_takes_the_subsequence_that_the_package_takes(said, wanted, expected):
    """Numbers of the package rouge 1.0.1, for texts of several longest common subsequences."""
    assert tuple(medevalkit.rouge(said, wanted).values()) == pytest.approx(expected, abs=1e-6)


def test_bleu_is_nltk_s():
    nltk_bleu = pytest.importorskip("nltk.translate.bleu_score")
    for prediction, gold in pairs(400, seed=4):
        said, wanted = medevalkit.final_part(prediction), gold.lower().strip()
        tokens = [text.replace(".", " .").split(" ") for text in (said, wanted)]
        for order, ours in enumerate(medevalkit.bleu(said, wanted), 1):
            with warnings.catch_warnings(action="ignore"):
                theirs = nltk_bleu.sentence_bleu(tokens[1:], tokens[0], weights=[1 / order] * order)
            assert ours == pytest.approx(theirs, abs=1e-12), (said, wanted, order)


def test_exact_agrees_with_a_plain_rewriting():
    """On lists of single words, where no rule but order and the two words plays."""
    draw = random.Random(5)
    vocabulary = ["yes", "no", "normal", "not", "lung", "heart", "10", "No.", "LUNG"]
    for _ in range(3000):
        gold = [draw.choice(vocabulary) for _ in range(draw.randint(1, 3))]
        said = [draw.choice(vocabulary) for _ in range(draw.randint(0, 3))]
        clean_gold = {word.lower().strip(".") for word in gold}
        clean_said = {word.lower().strip(".") for word in said}
        decided = [words & {"yes", "no"} for words in (clean_gold, clean_said)]
        begun = [words[0].lower().strip(".") if words else "" for words in (gold, said)]
        if any(kind == {start} for kind, start in zip(decided, begun, strict=True)):
            expected = decided[0] == decided[1]
        else:
            expected = clean_gold == clean_said
        assert exact_match(" , ".join(said), ", ".join(gold)) == float(expected), (said, gold)


@pytest.mark.parametrize(
    ("prediction", "gold", "hit"),
    [
        ("Lung", "Lung", 0),  # choices never hit
        ("T2", "T2", 0),
        ("The lung, no doubt", "Lung", 1),  # unless the letters are there
        ("abnormal", "normal", 1),
        ("It is normal", "No", 1),  # "no" is found in "normal"
        ("It is not", "no", 1),
        ("Yes, it is normal", "No", 1),  # saying both hits either
        ("yes", "Yes.", 1),
        ("None", "no", 0),  # "none" becomes 0 first
        ("", "yes", 0),
        ("yes", "no", 0),
    ],
)
def test_llava_med_closed_quirks(prediction, gold, hit):
    assert llava_med.closed_hit(prediction, gold) == hit


@pytest.mark.parametrize(
    ("prediction", "gold", "hit"),
    [
        ("The left lung.", "left lung", 1),
        ("Two", "2", 1),
        ("none", "0", 1),
        ("yes\t", "Yes!", 1),
        ("x-ray", "x ray", 1),  # a dash within a word is a space
        ("x - ray", "xray", 0),  # one beside a space is nothing, and the spaces stay
        ("1,000", "1000", 1),
        ("dont know", "don't know", 1),
        ("left lung", "lung, left", 0),
        ("lungs", "lung", 0),
        ("", "the", 1),
    ],
)
def test_vqa_challenge_quirks(prediction, gold, hit):
    assert vqa_hit(prediction, gold) == hit


@pytest.mark.parametrize(
    ("prediction", "gold", "recall"),
    [
        ("left lung", "Left Lung", 1),
        ("in the left lung", "left lung", 1),  # words too many cost nothing
        ("left", "left lung", 1 / 2),
        ("left left left", "left lung", 3 / 4),  # the prediction's counts are counted
        ("left", "left lung lung", 1 / 3),
        ("2", "Two", 1),
        ("0", "None", 1),
        ("xray", "x-ray", 0),
        ("x ray", "x-ray", 1),
        ("", "lung", 0),
        ("the", "a", 0),
    ],
)
def test_llava_med_recall_quirks(prediction, gold, recall):
    assert llava_med.open_recall(prediction, gold) == pytest.approx(recall)


def test_llava_med_removes_32_points_at_a_time():
    assert llava_med.normalise_words("." * 40) == "." * 8
    assert llava_med.normalise_words("3.5 cm.") == "3.5 cm"


@pytest.mark.parametrize(
    ("word", "normal"),
    [
        ("dont", "don't"),
        ("oclock", "o'clock"),
        ("wouldnt've", "wouldn't've"),
        ("yall'd've", "y'all'd've"),
        ("yalld've", "yalld've"),  # two apostrophes are missing
        ("shouldn'tve", "shouldn'tve"),  # not in the original's table
        ("somebody'd", "somebodyd"),  # the wrong way round in it
        ("well", "well"),
        ("shed", "shed"),
    ],
)
def test_llava_med_contractions(word, normal):
    assert llava_med.normalise_words(word) == normal


@pytest.mark.parametrize(
    ("prediction", "gold", "hit"),
    [
        ("Yes.", "yes", 1),
        ("yes it is", "Yes", 1),
        ("It is normal", "No", 1),  # "no" is found in "normal"
        ("Yes, it is normal", "Yes", 0),  # and spoils a yes
        ("yes and no", "no", 0),
        ("maybe", "no", 0),
        ("Lung.", "lung", 1),
        ("Lu\nng", "lung", 1),
        ("the lung", "lung", 0),
        ("3.5", "3.5", 0),  # points go from the prediction only
        ("Yes? The answer is no", "No", 1),
        ("", "yes", 0),
    ],
)
def test_medevalkit_closed_quirks(prediction, gold, hit):
    assert medevalkit.closed_hit(prediction, gold) == hit


def test_medevalkit_gives_precision_and_recall_their_own_names():
    scores = medevalkit.open_scores("the left lung lung", "left lung")
    assert scores["precision"] == pytest.approx(2 / 3)
    assert scores["recall"] == 1
    assert scores["f1"] == pytest.approx(0.8)


def test_medevalkit_bleu_is_zero_above_the_answer_s_length():
    assert medevalkit.bleu("lung", "lung") == pytest.approx([1, 0, 0, 0])
    assert medevalkit.bleu("", "lung") == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("prediction", "gold", "hit"),
    [
        ("no", "No", 1),
        ("It is normal", "No", 0),
        ("Yes, no", "No", 0),
        ("Yes: an abnormal finding", "yes", 1),
        ("Spinal Cord, lung", "Lung, Spinal Cord", 1),
        ("Right Lung, Left", "Left Lung, Right", 0),
        ("The X-ray.", "x ray", 1),
        ("lungs", "lung", 0),
        ("", "lung", 0),
        ("?", "?", 0),
        ("", "", 0),
    ],
)
def test_exact_quirks(prediction, gold, hit):
    assert exact_match(prediction, gold) == hit
