"""The published scorers, rewritten plainly from their published text, and thousands of awkward
answers."""

import math
import random
import re

VOCABULARY = [
    "yes", "no", "Yes", "No.", "no,", "normal", "abnormal", "not", "Yes, no", "left", "Left Lung",
    "right", "lung,", "spinal cord", "a", "the", "an", "one", "none", "two", "10", "3.5", "1,000",
    "x-ray", "x - ray", "(ct)", "T2", "dont", "don't", "...", ".", " ", ",", "\t", "\n", "?", "-",
    "answer is", "Answer:", "ring-enhancing", "mass.", "",
]  # fmt: skip


def pairs(count: int, seed: int):
    """Predictions and gold answers; a third of the predictions hold the gold answer."""
    draw = random.Random(seed)

    def text() -> str:
        parts = [draw.choice(VOCABULARY) for _ in range(draw.choice([0, 1, 1, 2, 3, 5, 8]))]
        return draw.choice([" ", " ", " ", "", "  "]).join(parts)

    for _ in range(count):
        prediction, gold = text(), text()
        if draw.random() < 0.33:
            prediction = draw.choice([gold, gold + " " + prediction, prediction + " " + gold])
        yield prediction, gold


def plain_words(text: str) -> list[str]:
    """LLaVA-Med's normalisation, character by character where the kit replaces in strings."""
    text = text.lower()
    thousands = any(
        text[i - 1].isdigit() and text[i] == "," and text[i + 1].isdigit()
        for i in range(1, len(text) - 1)
    )
    out = ""
    for character in text:
        if character in ';/[]{}"()=+\\_-><@`,?!':
            beside_space = (character + " ") in text or (" " + character) in text
            out += "" if thousands or beside_space else " "
        else:
            out += character
    points, kept = 0, ""
    for i, character in enumerate(out):
        if character == "." and not out[i + 1 : i + 2].isdigit() and points < 32:
            points += 1
        else:
            kept += character
    numbers = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight"]
    numbers += ["nine", "ten"]
    words = []
    for word in kept.split():
        if word in ("a", "an", "the"):
            continue
        word = "0" if word == "none" else word
        word = str(numbers.index(word)) if word in numbers else word
        words.append({"dont": "don't"}.get(word, word))
    return words


def plain_recall(prediction: str, gold: str) -> float:
    said = plain_words(" ".join(plain_words(prediction)))
    wanted = plain_words(" ".join(plain_words(gold)))
    right = len([word for word in said if word in wanted])
    missed = len([word for word in wanted if word not in said])
    return right / (right + missed) if right else 0.0


def plain_llava_closed(prediction: str, gold: str) -> float:
    said = " ".join(plain_words(prediction))
    if not re.search("yes|no", said):
        return 0.0
    return 1.0 if said.find(" ".join(plain_words(gold))) >= 0 else 0.0


def plain_final(text: str) -> str:
    text = text.lower()
    for lead in ("answer is", "answer:"):
        if lead in text:
            text = text[text.rindex(lead) + len(lead) :]
    return text.strip()


def plain_medevalkit_closed(prediction: str, gold: str) -> float:
    said = "".join(c for c in plain_final(prediction) if c not in ".\n")
    gold = gold.lower().strip()
    if gold == "yes":
        return 1.0 if said.count("yes") and not said.count("no") else 0.0
    if gold == "no":
        return 1.0 if said.count("no") and not said.count("yes") else 0.0
    return 1.0 if said == gold else 0.0


def plain_bleu(said: str, wanted: str, order: int) -> float:
    """Papineni et al. 2002 for one reference, no smoothing."""
    one = said.replace(".", " .").split(" ")
    two = wanted.replace(".", " .").split(" ")
    product = 1.0
    for n in range(1, order + 1):
        grams = [one[i : i + n] for i in range(len(one) - n + 1)]
        left = [two[i : i + n] for i in range(len(two) - n + 1)]
        hits = 0
        for gram in grams:
            if gram in left:
                left.remove(gram)
                hits += 1
        product *= hits / len(grams) if grams else 0.0
    brevity = 1.0 if len(one) > len(two) else math.exp(1 - len(two) / len(one))
    return brevity * product ** (1 / order)


def plain_f(common: int, said: int, wanted: int) -> float:
    return 2 * common / (said + wanted) if common else 0.0


def longest(one: list[str], two: list[str]) -> int:
    if not one or not two:
        return 0
    if one[0] == two[0]:
        return 1 + longest(one[1:], two[1:])
    return max(longest(one[1:], two), longest(one, two[1:]))


def plain_vqa(prediction: str, gold: str) -> float:
    """The VQA challenge's match: line ends and tabs to spaces, and LLaVA-Med's rules are its."""
    one, two = (
        plain_words(text.replace("\n", " ").replace("\t", " ").strip())
        for text in (prediction, gold)
    )
    return 1.0 if one == two else 0.0
