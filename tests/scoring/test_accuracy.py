"""One answer under all conventions: what each says of answers that a person would write."""

import itertools
import json

import pytest

from kit.prompting.answers import same_answer, yes_no
from kit.prompting.relaxed import relaxed_answer
from kit.scoring.accuracy import KEYS, score_answer
from kit.scoring.exact import exact_match


def test_keys_are_stable_and_the_other_type_s_are_none():
    closed = score_answer("Lung", "lung", answer_type="CLOSED")
    opened = score_answer("Lung", "lung", answer_type="OPEN")
    unknown = score_answer("Lung", "lung", answer_type="")
    assert tuple(closed) == tuple(opened) == tuple(unknown) == KEYS
    assert {k for k, v in unknown.items() if v is not None} == {"exact", "relaxed"}
    both = {k for k in KEYS if closed[k] is not None and opened[k] is not None}
    assert both == {"exact", "relaxed", "medevalkit/total"}
    sided = score_answer("Left Lung", "right lung", answer_type="")
    assert sided["laterality_error"] == 1
    assert all(any(v[k] is not None for v in (closed, opened, sided)) for k in KEYS)
    assert closed["llava_med/closed_accuracy"] == 0
    assert closed["medevalkit/closed"] == closed["medevalkit/total"] == 1
    assert opened["medevalkit/open_exact"] == opened["medevalkit/total"] == 1


# Gold answers of the two datasets, what a model may say, and the three verdicts worked out from
# each convention's rules: exact (ours), LLaVA-Med, MedEvalKit.
CLOSED = [
    ("Yes", "yes", 1, 1, 1),
    ("Yes", "Yes, the liver is visible.", 1, 1, 1),
    ("Yes", "No.", 0, 0, 0),
    ("Yes", "Yes and no", 0, 1, 0),  # LLaVA-Med looks for the gold word alone
    ("Yes", "Unknown", 0, 0, 0),
    ("Yes", "", 0, 0, 0),
    ("No", "No, it is clear", 1, 1, 1),
    ("No", "Normal", 0, 1, 1),  # the published ones find "no" within it
    ("No", "It cannot be seen", 0, 1, 1),
    ("No", "Absent", 0, 0, 0),
    ("MRI", "mri", 1, 0, 1),  # LLaVA-Med counts nothing without a yes or a no
    ("MRI", "MRI.", 1, 0, 1),
    ("MRI", "The MRI", 1, 0, 0),
    ("MRI", "CT", 0, 0, 0),
    ("MRI", "MRI, not CT", 0, 1, 0),
    ("Left", "left", 1, 0, 1),
    ("Left", "right", 0, 0, 0),
    ("Left", "Left kidney", 0, 0, 0),
    ("abnormal", "normal", 0, 0, 0),
    ("X-Ray", "x-ray", 1, 0, 1),
    ("T2", "T1", 0, 0, 0),
]
OPEN = [
    ("Lung", "lung", 1, 1, 1),
    ("Lung", "liver", 0, 0, 0),
    ("Lung", "", 0, 0, 0),
    ("Lung, Spinal Cord", "spinal cord, lung", 1, 1, 0),
    ("Lung, Spinal Cord", "Lung and spinal cord", 1, 1, 0),
    ("Lung, Spinal Cord", "Lung, Spinal Cord.", 1, 1, 0),
    ("Lung, Spinal Cord", "lung, spinal cord, heart", 0, 1, 0),  # recall asks for no precision
    ("Lung, Spinal Cord", "lung", 0, 1 / 3, 0),
    ("Liver, Heart, Spleen, Lung", "Liver, Heart, Spleen", 0, 3 / 4, 0),
    ("Spinal Cord", "The answer is spinal cord", 0, 1, 1),
    ("Spinal Cord", "The answer is: cord", 0, 1 / 2, 0),
    ("the brain", "brain", 1, 1, 0),
    ("the brain", "The Brain", 1, 1, 1),
    ("Left Lung, Right", "left lung", 0, 2 / 3, 0),
    ("left temporal lobe", "right temporal lobe", 0, 2 / 3, 0),
    ("left temporal lobe", "lobe lobe lobe lobe", 0, 4 / 6, 0),  # counted as often as it is said
    ("2", "12", 0, 0, 0),
    ("2", "2", 1, 1, 1),
    ("Lung Cancer", "Liver Cancer", 0, 1 / 2, 0),
]


@pytest.mark.parametrize(("gold", "said", "exact", "llava_med", "medevalkit"), CLOSED)
def test_closed_answers(gold, said, exact, llava_med, medevalkit):
    scores = score_answer(said, gold, answer_type="CLOSED")
    names = ("exact", "llava_med/closed_accuracy", "medevalkit/closed", "medevalkit/total")
    expected = (exact, llava_med, medevalkit, medevalkit)
    assert tuple(scores[name] for name in names) == expected


@pytest.mark.parametrize(("gold", "said", "exact", "llava_med", "medevalkit"), OPEN)
def test_open_answers(gold, said, exact, llava_med, medevalkit):
    scores = score_answer(said, gold, answer_type="OPEN")
    names = ("exact", "llava_med/open_recall", "medevalkit/open_exact", "medevalkit/total")
    expected = (exact, llava_med, medevalkit, medevalkit)
    assert tuple(scores[name] for name in names) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("gold", "said", "error"),
    [
        ("Right", "left", 1),
        ("Right", "Left side.", 1),
        ("Right", "right side", 0),
        ("Right", "upper left", 0),
        ("Right", "", 0),
        ("Left Lung, Right", "Right Lung, Left", 1),
        ("Left Lung, Right", "Left Lung, Left", 0),
        ("R hemidiaphragm", "L hemidiaphragm", 1),
        ("R hemidiaphragm", "left hemidiaphragm", 1),
        ("Upper left lobe of the lung", "upper right lobe of lung", 1),
        ("Yes, in the left lung", "Yes, in the right lung", 1),
        ("Yes, in the left lung", "Yes", 0),
        ("左肺, 右侧", "右肺, 左侧", 1),
        ("左侧", "右边", 1),
        ("左侧", "左边", 0),
        ("Heart", "Right", None),
        ("Yes", "No", None),
        ("right lung, left lung", "Left Lung", None),
        ("左右对称", "对称", None),
        ("", "left", None),
    ],
)
def test_answers_that_are_right_but_for_left_and_right(gold, said, error):
    assert score_answer(said, gold, answer_type="OPEN")["laterality_error"] == error


def test_published_conventions_say_nothing_of_chinese():
    for values in (
        score_answer("是的", "是", answer_type="CLOSED"),
        score_answer("肺", "肺", answer_type="OPEN"),
        score_answer("CT", "CT", answer_type="OPEN", question="成像方式是什么?"),
    ):
        assert (values["exact"], values["relaxed"]) == (1, 1)
        assert {k for k, v in values.items() if v is not None} == {"exact", "relaxed"}


# ------------------------------------------------------------------------------ the real sample
@pytest.fixture(scope="module")
def golds(realdata) -> list[tuple[str, str]]:
    """Every English gold answer with its type."""
    found = []
    for split in ("train", "validate", "test"):
        for row in json.loads((realdata / "SLAKE" / f"{split}.json").read_text(encoding="utf-8")):
            if row["q_lang"] == "en":
                found.append((row["answer"], row["answer_type"]))
    public = realdata / "VQA_RAD" / "VQA_RAD Dataset Public.json"
    for row in json.loads(public.read_text(encoding="utf-8")):
        found.append((str(row["answer"]), row["answer_type"].strip()))
    assert len(found) > 500
    return [(answer, kind) for answer, kind in found if answer]


def test_chinese_gold_answers_are_compared_at_all(realdata):
    rows = json.loads((realdata / "SLAKE" / "train.json").read_text(encoding="utf-8"))
    chinese = {row["answer"] for row in rows if row["q_lang"] == "zh"}
    assert len(chinese) > 40
    for gold in chinese:
        assert exact_match(f" {gold}。", gold) == 1, gold
        wrong = ["", "驼鸟", *([] if yes_no(gold) else [f"{gold}驼鸟"])]  # 没有驼鸟 says no as well
        assert not any(exact_match(said, gold) for said in wrong), gold


def test_different_gold_answers_to_one_question_stay_different(realdata):
    """Both languages and datasets; those that are called the same are these, read one by one."""
    answers: dict[str, set[str]] = {}
    for name in ("SLAKE/train", "SLAKE/validate", "SLAKE/test", "VQA_RAD/VQA_RAD Dataset Public"):
        for row in json.loads((realdata / f"{name}.json").read_text(encoding="utf-8")):
            answers.setdefault(row["question"], set()).add(str(row["answer"]).strip())
    assert sum(len(golds) > 1 for golds in answers.values()) > 80
    one_answer = [
        {"Transverse  Plane", "Transverse Plane"}, {"Yes", "yes"}, {"No", "no"},
        {"Spinal Cord", "Spinal cord"}, {"否", "无异常"}, {"包含", "包括"}, {"是", "是的"},
        {"结肠, 小肠", "结肠,小肠"},
    ]  # fmt: skip
    for same in (same_answer, relaxed_answer):
        pairs = (p for golds in answers.values() for p in itertools.combinations(golds, 2))
        found = [set(pair) for pair in pairs if same(*pair)]
        assert all(pair in one_answer for pair in found)
        assert all(pair in found for pair in one_answer)
        assert all(same(gold, gold) for golds in answers.values() for gold in golds)


def test_only_spelling_makes_two_gold_answers_one(golds):
    """Of all pairs of distinct gold answers those that match are these, read one by one."""
    one_answer = [
        {"Axial", "axial"}, {"Brain", "the brain"}, {"Chest X-ray", "Chest x-ray"}, {"No", "no"},
        {"Spinal Cord", "Spinal cord"}, {"Transverse  Plane", "Transverse Plane"},
        {"Upper Left", "Upper left"}, {"Yes", "yes"},
    ]  # fmt: skip
    distinct = sorted({answer for answer, _ in golds})
    found = {pair for pair in itertools.permutations(distinct, 2) if exact_match(*pair)}
    expected = {pair for names in one_answer for pair in itertools.permutations(names, 2)}
    assert found == expected


def test_writings_of_each_gold_answer_match_and_other_answers_do_not(golds):
    turned = {"left": "right", "right": "left"}
    for gold, kind in golds:
        decided = gold.lower() in ("yes", "no")
        for said in (
            f"  {gold.upper()}",
            gold.lower() + ".",
            f"The {gold}",
            gold.replace(" ", "  "),
        ):
            assert exact_match(said, gold) == 1, (said, gold)
        wrong = ["", "Yes" if gold.lower() == "no" else "no", f"{gold} yes no"]
        wrong += [f"not {gold}", f"{gold} and an ostrich"] if not decided else []
        words = gold.lower().split()
        if {"left", "right"} & set(words):
            wrong.append(" ".join(turned.get(word, word) for word in words))
        for said in wrong:
            assert exact_match(said, gold) == 0, (said, gold)
        loud = score_answer(f"  {gold.upper()} ", gold, answer_type=kind)
        assert loud["medevalkit/total"] == 1, gold
        if kind == "OPEN":
            assert loud["llava_med/open_recall"] == 1, gold
        else:
            assert loud["llava_med/closed_accuracy"] == (decided or "no" in gold.lower()), gold
            listed = score_answer(f"{gold}, ostrich", gold, answer_type=kind)
            assert listed["medevalkit/total"] == decided, gold
