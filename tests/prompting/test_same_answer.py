"""Whether two answers are the same, by a table of pairs and by what holds of all."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.data.words import exchange_sides
from kit.prompting.answers import same_answer
from kit.prompting.relaxed import relaxed_answer

# Two answers, and whether they are the same.
PAIRS = [
    ("Yes", "Yes, the liver is visible.", True),
    ("Yes, it is.", "Yes, the liver is visible.", True),
    ("No", "There is no mass.", True),
    ("No", "No, the lungs are clear", True),
    ("Yes", "No", False),
    ("Yes", "Yes and no", False),
    ("Yes", "Liver", False),
    ("No", "Normal", False),
    ("No", "Nodule", False),
    ("No mass", "No effusion", False),
    ("Yes, on the left", "Yes, on the right", False),
    ("Yes, 3 cm", "Yes, 4 cm", False),
    ("Yes, on the left", "Yes", True),
    (">3 cm", "<3 cm", False),
    (">3 cm", "3 cm", False),
    (">3 cm", "> 3 cm.", True),
    ("mass >3 cm", "mass > 3 cm", True),
    (">= 3 cm", "≥3 cm", True),
    (">= 3 cm", "> 3 cm", False),
    ("<= 3 cm", "≥ 3 cm", False),
    ("right > left", "right < left", False),
    ("the right > the left", "right>left", True),
    ("-5", "5", False),
    ("−5", "-5", True),
    ("+5", "-5", False),
    ("T1+", "T1", False),
    ("CD4-", "CD4+", False),
    ("1,000", "1000", True),
    ("1,000", "1, 000", False),
    ("1,000", "000, 1", False),
    ("3.5 cm", "35 cm", False),
    ("3-4 cm", "3 – 4 cm", True),
    ("3-4 cm", "3 cm, 4 cm", False),
    ("3-4", "4", False),
    ("1/2", "1-2", False),
    ("L4-5", "L4/5", True),
    ("L hemidiaphragm", "R hemidiaphragm", False),
    ("50%", "50", False),
    ("X-ray", "x ray", True),
    ("non-contrast", "Non contrast", True),
    ("the Brain", "brain", True),
    ("Lung, Spinal Cord", "spinal cord and the lung", True),
    ("Lung, Spinal Cord", "lung", False),
    ("Left Lung, Right", "Right Lung, Left", False),
    ("left lung", "right lung", False),
    ("left lung", "lung", False),
    ("twice", "two", False),
    ("brain scan", "brain", False),
    ("CT scan", "MRI scan", False),
    ("right lung", "both lungs", False),
    ("side", "right side", False),
    ("Both", "Both lungs", False),
    ("2 cm", "2 mm", False),
    ("3.05", "3.5", False),
    ("100", "10", False),
    ("mass", "masse", False),
    ("", "?!", True),
    ("", "Liver", False),
    ("是", "是的。", True),
    ("是", "有", True),
    ("包含", "包括", True),
    ("包含", "不包含", False),
    ("没有", "不存在", True),
    ("否", "不可以", True),
    ("没有", "图片中没有肝脏", True),
    ("有", "没有", False),
    ("无", "无法判断", False),
    ("对", "对称", False),
    ("是否存在", "存在", False),
    ("正常", "不正常", False),
    ("有", "正常", False),
    ("肝脏、肺", "肺和肝脏", True),
    ("肝脏，肺", "肺及肝脏", True),
    ("肺与肝脏;心脏", "心脏, 肝脏, 肺", True),
    ("左肺, 右侧", "左肺右侧", True),
    ("左肺, 右侧", "右侧, 左肺", False),
    ("左肺, 右侧", "右肺, 左侧", False),
    ("左侧和顶部", "顶部, 左侧", True),
    ("左侧", "右侧", False),
    ("饱和", "饱", False),
    ("大于3cm", "3cm", False),
]  # fmt: skip
# Two answers that are the same only where their writing is forgiven.
RELAXED = [
    ("2", "two"),
    ("two eyes", "2 eyes"),
    ("Brain Tumour", "brain tumor"),
    ("oedema", "edema"),
    ("haemorrhages", "Hemorrhage"),
    ("Centre", "center"),
    ("Lungs", "Lung"),
    ("Opacities", "opacity"),
    ("Teeth", "tooth"),
    ("3cm", "3 cm"),
    ("> 3cm", ">3 cm"),
    ("3.0 cm", "3 cm"),
    ("3.50", "3.5"),
    (".5", "0.5"),
    ("~3 cm", "about 3 cm"),
    ("Xray", "X-Ray"),
    ("Chest x-rays", "chest Xray"),
    ("X-ray image", "X-ray"),
    ("CT scan", "CT"),
    ("CT scans", "CT image"),
    ("Right side", "Right"),
    ("right-sided", "Right"),
    ("Right-sided effusion", "right effusion"),
    ("Axial plane", "axial"),
    ("R hemidiaphragm", "Right hemidiaphragm"),
    ("both lungs", "Left Lung, Right Lung"),
    ("Bilateral lungs", "Both Lung"),
    ("left and right kidneys", "right kidney, left kidney"),
    ("Left Lung, Right side", "Left Lung, Right"),
    ("左侧", "左"),
    ("右边", "右侧"),
    ("左肺, 右侧", "左肺, 右"),
    ("两个", "2"),
    ("3个", "三"),
]


@pytest.mark.parametrize(("first", "second", "same"), PAIRS)
def test_pairs(first, second, same):
    assert same_answer(first, second) is same_answer(second, first) is same
    assert relaxed_answer(first, second) is relaxed_answer(second, first) is same


@pytest.mark.parametrize(("first", "second"), RELAXED)
def test_pairs_that_differ_in_their_writing(first, second):
    assert not same_answer(first, second)
    assert relaxed_answer(first, second)
    assert relaxed_answer(second, first)


PIECES = [
    "yes", "no", "Yes,", "No.", "left", "right", "liver", "and", ",", " ", "3", "-", ">", "<=", "+",
    ".", "1,000", "/", "%", "(", ")", "side", "the", "是的", "没有", "不",
    "包含", "左", "肺", "和", "、",
]  # fmt: skip
texts = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=8).map("".join))


@settings(max_examples=400, deadline=None)
@given(texts, texts)
def test_it_is_the_same_both_ways_and_every_answer_is_itself(first, second):
    assert same_answer(first, second) is same_answer(second, first)
    assert same_answer(first, first)
    assert relaxed_answer(first, second) is relaxed_answer(second, first)
    assert relaxed_answer(first, second) or not same_answer(first, second)
    assert relaxed_answer(exchange_sides(first), exchange_sides(second)) is relaxed_answer(
        first, second
    )


@pytest.mark.slow
def test_a_long_answer_is_compared_in_proportion():
    start = time.process_time()
    units = (
        "a,",
        "no. ",
        "'",
        "\ud800",
        "left, ",
        "1-",
        "1,000",
        "> ",
        "+",
        "不",
        "存在",
        "没有、",
    )
    for unit in units:
        text = unit * (40_000 // len(unit))
        relaxed_answer(text, text + "x")
    assert time.process_time() - start < 8
