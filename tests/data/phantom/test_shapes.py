"""The drawings of shapes: the layout, true answers, no medical word, little from text alone."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from kit.data.evidence import LESION_WORDS, ORGANS
from kit.data.phantom.layout import numbers
from kit.data.phantom.shapes import SHAPES, draw_shapes, write_shapes
from kit.data.records import RecordError
from kit.data.slake import read_slake


@pytest.fixture(scope="module")
def drawn():
    counts = {"train": 200, "test": 60}
    return {s: [draw_shapes(i, seed=0) for i in numbers(s, n)] for s, n in counts.items()}


def test_the_reader_takes_every_row(tmp_path):
    write_shapes(tmp_path, images={"train": 12, "test": 4}, seed=2)
    for split, count in (("train", 12), ("test", 4)):
        rows, mended = read_slake(tmp_path, split)
        assert not [row for row in rows if isinstance(row, RecordError)]
        assert not mended
        assert len({row.image for row in rows}) == count
        assert {(row.modality, row.location) for row in rows} == {("Drawing", "Canvas")}
        assert np.mean([bool(row.evidence) for row in rows]) > 0.5


def test_same_seed_same_bytes_and_prefix(tmp_path):
    trees = []
    for name, count in (("a", 5), ("b", 5), ("c", 7)):
        write_shapes(tmp_path / name, images={"train": count}, seed=2)
        root = tmp_path / name / "imgs"
        trees.append({str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.*")})
    assert trees[0] == trees[1]
    assert trees[0].items() < trees[2].items()


def test_answers_are_those_of_the_boxes(drawn):
    levels = defaultdict(list)
    checked = Counter()
    for picture, asked in drawn["train"]:
        height, width = picture.pixels.shape
        labels = [label for label, _ in picture.boxes]
        assert 1 <= len(labels) <= 4
        for label, (x, y, w, h) in picture.boxes:
            assert label in SHAPES
            assert min(x, y) >= 0
            assert x + w <= width
            assert y + h <= height
            assert max(w, h) >= 0.08 * min(width, height)
        for question in asked:
            words = question.question.rstrip("?").split()
            named = [label for label in SHAPES if label.lower() in words]
            if question.kind == "presence":
                assert question.answer == ("Yes" if named[0] in labels else "No")
            elif question.kind == "count" and "shapes" in words:
                assert question.answer == str(len(labels))
            elif question.kind == "color":
                x, y, w, h = dict(picture.boxes)[named[0]]
                if named[0] in ("Disc", "Square", "Ellipse", "Cross"):
                    patch = picture.pixels[y + h // 2 - 1 : y + h // 2 + 2, x + w // 2]
                    levels[question.answer].append(np.median(patch))
            elif question.kind == "quadrant" and named and labels.count(named[0]) == 1:
                x, y, w, h = dict(picture.boxes)[named[0]]
                rows = ("Upper", "Lower")[y + h / 2 > height / 2]
                assert question.answer == f"{rows} {('Left', 'Right')[x + w / 2 > width / 2]}"
            else:
                continue
            checked[question.kind] += 1
    assert min(checked[kind] for kind in ("presence", "count", "color", "quadrant")) > 60
    assert min(levels["White"]) > 180 > max(levels["Gray"])
    assert min(levels["Gray"]) > 80 > max(levels["Black"])


def test_no_medical_word(drawn):
    medical = {*ORGANS, *LESION_WORDS, "organ", "body", "patient", "modality"}
    for _, asked in drawn["train"]:
        for question in asked:
            for word in f"{question.question} {question.answer}".lower().rstrip("?").split():
                assert word not in medical, question


def test_question_text_alone_stays_below_the_floor(drawn):
    favourite = defaultdict(Counter)
    for _, asked in drawn["train"]:
        for question in asked:
            favourite[question.question][question.answer] += 1
    hits = [
        favourite[q.question].most_common(1)[0][0] == q.answer if q.question in favourite else False
        for _, asked in drawn["test"]
        for q in asked
    ]
    print(f"question-only floor {np.mean(hits):.3f}")
    assert np.mean(hits) < 0.45
