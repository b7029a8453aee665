"""Leaks, near duplicates and the question-only floor."""

import dataclasses
import time
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
    normalize_question,
    question_only_floor,
    question_similarity,
)
from kit.data.likeness import held_out, near_duplicates, thumbnail, volumes
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


@pytest.mark.parametrize(
    ("asked", "other"),
    [
        ("Есть ли узел?", "Какой орган?"),
        ("هل توجد كتلة؟", "ما العضو؟"),
        ("종괴가 있습니까?", "어떤 장기?"),
    ],
)
def test_questions_in_any_script_are_told_apart(asked, other):
    """Without their letters they would all be the same question, and train on the test split."""
    (leak,) = find_leaks([question(asked)], [question(asked.upper(), split="test")])
    assert leak.kind == REPEAT
    assert find_leaks([question(other)], [question(asked, split="test")]) == []
    records = [SftRecord("{}", "a.png", text, text) for text in (asked, other)]
    assert question_only_floor(records, records) == [asked, other]


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
        "Is the left hepatic lobe normal in size?",
        "Is the right hepatic lobe normal in size?",
        False,
    ),
    ("Is there a mass in the upper lobe?", "Is there a mass in the lower lobe?", False),
    ("Is the mass above the diaphragm?", "Is the mass below the diaphragm?", False),
    ("Is there a mass in the lobe?", "Is there a mass in the left lobe?", False),
    ("Is the mass in the centre?", "Is there a mass in the center?", True),
    ("右肺是否存在异常病变?", "左肺是否存在异常病变?", False),
    ("图中右肺是否异常?", "图片中右肺是否异常?", True),
    ("图像上方是什么器官?", "图像下方是什么器官?", False),
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


def test_a_link_of_the_dataset_holds_whatever_the_directions():
    test = question("Is the left lobe normal?", split="test", group="g")
    (leak,) = find_leaks([question("Is the right lobe normal?", group="g")], [test])
    assert leak.kind == REWORDING


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


def pictures(*names: str) -> dict[Path, np.ndarray]:
    """Thumbnails of pictures by ``letter`` and ``letter`` with a number: those of one letter are
    near duplicates."""
    found = {}
    for name in names:
        grain = np.random.default_rng(len(name) + ord(name[-1])).integers(0, 12, (90, 70))
        image = noise(ord(name[0])).astype(int) + grain
        found[Path("folder", f"{name}.png")] = thumbnail(Image.fromarray(image.astype(np.uint8)))
    return found


def test_volumes_join_what_looks_alike():
    small = pictures("b2", "a1", "c1", "b1", "b3")
    flat = {Path("x/flat1.png"): np.zeros(1024), Path("x/flat2.png"): np.zeros(1024)}
    found = volumes(small | flat)
    assert list(found) == list(small | flat)
    assert {path.name: volume for path, volume in found.items()} == {
        "b2.png": "folder/b1.png",
        "a1.png": "folder/a1.png",
        "c1.png": "folder/c1.png",
        "b1.png": "folder/b1.png",
        "b3.png": "folder/b1.png",
        "flat1.png": "x/flat1.png",
        "flat2.png": "x/flat2.png",
    }
    assert volumes(dict(reversed(small.items()))) == volumes(small)
    assert volumes({}) == {}


def test_volumes_are_chains():
    """Each is like the next one, the ends are not; and files of one name stay apart."""
    angles = np.arccos(0.995) * np.arange(4)
    small = {
        Path(f"{n}/v/a.png"): np.eye(1, 1024)[0] * np.cos(a) + np.eye(1, 1024, 1)[0] * np.sin(a)
        for n, a in enumerate(angles)
    }
    far = {Path("9/v/a.png"): np.eye(1, 1024, 2)[0]}
    assert set(volumes(small).values()) == {"v/a.png"}
    assert small[Path("0/v/a.png")] @ small[Path("3/v/a.png")] < 0.99
    assert volumes(small | far)[Path("9/v/a.png")] == "9/v/a.png"


def test_thousand_images_are_joined_quickly():
    rng = np.random.default_rng(0)
    base = rng.standard_normal((250, 1024)).repeat(4, axis=0)
    values = base + 0.02 * rng.standard_normal(base.shape)
    values = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
    start = time.process_time()
    found = volumes({Path(f"{n:04}.png"): v for n, v in enumerate(values)})
    assert time.process_time() - start < 8
    assert len(set(found.values())) == 250


def test_held_out_images_stay_held_out():
    names = [f"{letter}{number}" for letter in "abcdefghijklmnopqrst" for number in (1, 2)]
    small = pictures(*names)
    held = held_out(small, 0.3)
    assert 4 <= len(held) <= 20
    assert {path.name[0] for path in held}.isdisjoint(path.name[0] for path in small.keys() - held)
    assert held_out(dict(reversed(small.items())), 0.3) == held
    assert held <= held_out(small, 0.6)
    fewer = {path: value for path, value in small.items() if path.name[0] in "abcdefghij"}
    assert held_out(fewer, 0.3) == held & fewer.keys()
    moved = {Path("elsewhere", path.name): value for path, value in small.items()}
    assert {path.name for path in held_out(moved, 0.3)} == {path.name for path in held}


def record(text, answer, content_type="") -> SftRecord:
    return SftRecord("", "", text, answer, content_type=content_type)


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
