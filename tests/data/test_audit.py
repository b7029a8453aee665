"""Leaks, near duplicates and the question-only floor."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kit.data.audit import (
    OTHER_LANGUAGE,
    REPEAT,
    REWORDING,
    find_leaks,
    near_duplicates,
    normalize_question,
    question_only_floor,
    question_similarity,
    thumbnail,
)
from kit.data.questions import RawQuestion
from kit.data.records import SftRecord
from kit.data.slake import read_slake
from kit.data.vqa_rad import read_vqa_rad


def question(text, **changes) -> RawQuestion:
    values = {
        "dataset": "VQA_RAD", "qid": "1", "split": "train", "answer": "yes", "where": text,
        "answer_type": "CLOSED", "image": Path("a.jpg"), "image_size": (9, 9),
    }  # fmt: skip
    return RawQuestion(**(values | {"question": text} | changes))


TEST = question(
    "Is there evidence of a small bowel obstruction?",
    split="test",
    group="g1",
    rewordings=("Are the loops dilated?",),
)
LEAKS = [
    (question("is there evidence of a small  bowel obstruction"), REPEAT),
    (question("Is a small bowel obstruction present?"), REWORDING),
    (question("Are the loops DILATED"), REWORDING),
    (question("Anything?", group="g1"), REWORDING),
    (question("Hm?", rewordings=("Is there evidence of a small bowel obstruction?",)), REWORDING),
    (question("有梗阻吗?", language="zh"), OTHER_LANGUAGE),
    (question("Is there evidence of a large bowel perforation?"), None),
    (question("Is there evidence of a small bowel obstruction?", image=Path("b.jpg")), None),
    (question("Is there evidence of a small bowel obstruction?", dataset="SLAKE"), None),
    (question("Anything?", group="g1", image=Path("b.jpg")), None),
]


@pytest.mark.parametrize(("row", "kind"), LEAKS)
def test_kinds_of_leaks(row, kind):
    assert [leak.kind for leak in find_leaks([row], [TEST])] == ([kind] if kind else [])


PAIRS = [
    ("Is the left hemidiaphragm normal?", "Is the right hemidiaphragm normal?", False),
    ("Does the picture contain liver?", "Does the picture contain kidney?", False),
    ("Is it of normal contour?", "Is it of normal size?", False),
    ("Is this a T1 weighted MRI?", "Is this a T2 weighted MRI?", False),
    ("Are there gallstones?", "Are gallstones present?", True),
    (
        "What is in the right upper quadrant?",
        "What abnormalities are in the right upper quadrant?",
        True,
    ),
]


@pytest.mark.parametrize(("first", "second", "same"), PAIRS)
def test_rewordings_are_told_from_other_questions(first, second, same):
    leaks = find_leaks([question(first)], [question(second, split="test")])
    assert bool(leaks) == same


@given(st.text(max_size=60), st.text(max_size=60))
def test_similarity_is_symmetric_bounded_and_reflexive(first, second):
    similarity = question_similarity(first, second)
    assert 0 <= similarity <= 1
    assert similarity == question_similarity(second, first)
    assert question_similarity(first, first) in (0.0, 1.0)
    assert normalize_question(normalize_question(first)) == normalize_question(first)


def test_leaks_of_the_real_sample(realdata):
    root = realdata / "SLAKE"
    for language, count in (("en", 30), ("zh", 121)):
        train = [r for r in read_slake(root, "train", language)[0] if isinstance(r, RawQuestion)]
        test = [r for r in read_slake(root, "test", "both")[0] if isinstance(r, RawQuestion)]
        other = {r.image for r in test if r.language != language}
        expected = [r.where for r in train if r.image in other]
        leaks = find_leaks(train, test)
        assert [leak.row.where for leak in leaks] == expected
        assert Counter(leak.kind for leak in leaks) == {OTHER_LANGUAGE: count}
    train, test = (read_vqa_rad(realdata / "VQA_RAD", split)[0] for split in ("train", "test"))
    assert [(leak.kind, leak.row.question) for leak in find_leaks(train, test)] == [
        (REPEAT, "Where is the lesion located?"),
        (REWORDING, "What is the location of the primary lesion?"),
    ]


def noise(seed: int, shape=(90, 70)) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 200, (6, 6), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC))


def test_thumbnails_correlate_as_numpy_says():
    first, second = (Image.fromarray(noise(seed)) for seed in (1, 2))
    small = [np.asarray(i.resize((32, 32), Image.Resampling.BOX)).ravel() for i in (first, second)]
    assert thumbnail(first) @ thumbnail(second) == pytest.approx(np.corrcoef(small)[0, 1], abs=1e-5)
    assert not thumbnail(Image.new("RGB", (50, 50), (9, 9, 9))).any()


def test_near_duplicates_are_found_and_the_same_file_is_not_one():
    base = noise(3).astype(int)
    images = {
        "a": base,
        "brighter": np.clip(base + 30, 0, 255),
        "grainy": base + np.random.default_rng(0).integers(0, 12, base.shape),
        "other": noise(4),
        "flat": np.full((9, 9), 7),
    }
    small = {Path(n): thumbnail(Image.fromarray(v.astype(np.uint8))) for n, v in images.items()}
    test = {Path("a"): small[Path("a")], Path("flat"): small[Path("flat")]}
    assert near_duplicates(small, test) == {Path("brighter"): Path("a"), Path("grainy"): Path("a")}
    assert near_duplicates({}, test) == near_duplicates(small, {}) == {}


def record(text, answer, content_type="") -> SftRecord:
    return SftRecord("", "", "", "", text, answer, content_type=content_type)


def test_floor_prefers_the_very_question_then_the_type_then_everything():
    train = [
        record("Is it large?", "Yes", "SIZE"),
        record("is it LARGE", "yes", "SIZE"),
        record("Is it large?", "no", "SIZE"),
        record("What plane?", "axial", "PLANE"),
        record("Which plane?", "axial", "PLANE"),
        record("Where?", "no", "POS"),
        record("When?", "no", "POS"),
    ]
    test = [
        record("IS IT LARGE ?", ""),
        record("Name the plane", "", "PLANE"),
        record("Why?", "", "OTHER"),
    ]
    assert question_only_floor(train, test) == ["Yes", "axial", "no"]


@given(
    st.lists(st.tuples(st.sampled_from("pqr"), st.sampled_from(["a", "A", "b", "c"])), min_size=1)
)
def test_floor_does_not_depend_on_the_order(pairs):
    train = [record(text, answer) for text, answer in pairs]
    test = [record(text, "") for text in "pqrs"]
    floor = question_only_floor(train, test)
    assert floor == question_only_floor(train[::-1], test)
    for text, prediction in zip("pqr", floor, strict=False):
        own = Counter(a.casefold() for t, a in pairs if t == text)
        if own:
            assert own[prediction.casefold()] == max(own.values())


def test_floor_needs_training_records():
    with pytest.raises(ValueError, match="no training record"):
        question_only_floor([], [record("q", "")])


def test_leaks_name_the_test_row():
    (leak,) = find_leaks([question("a")], [dataclasses.replace(question("A"), where="t[3]")])
    assert (leak.row.where, leak.test_where) == ("a", "t[3]")
