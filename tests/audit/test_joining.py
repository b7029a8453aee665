"""Which row counts where several could be a record's, and answers in the words of the data."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kit.audit.wording import Wording, wording_of
from kit.data.columns import Layout
from kit.data.records import read_sft_records
from kit.errors import DataError

N = 12


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder with twelve images in each of two folders."""
    for number in range(2 * N):
        path = tmp_path / ("train", "test")[number % 2] / f"{number // 2}.png"
        path.parent.mkdir(exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 255, (16, 16, 3))
        Image.fromarray(noise.astype(np.uint8)).save(path)
    return tmp_path


def table(path: Path, values: list[dict]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(values[0]))
        writer.writeheader()
        writer.writerows(values)
    return path


MASS = "Is there a mass?"
OTHERS = {
    "another question": ("test", "Is there a mass in the left lung?"),
    "another image of that name": ("train", MASS),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("other", OTHERS)
def test_predictions_of_a_larger_set(other, first, images, audited):
    """All of the test are right, all others wrong, whichever come first."""
    asked = [{"image": f"test/{n}.png", "question": MASS} for n in range(N)]
    data = table(images / "test.csv", [row | {"answer": "yes"} for row in asked])
    folder, question = OTHERS[other]
    others = [{"image": f"{folder}/{n}.png", "question": question, "pred": "no"} for n in range(N)]
    own = [row | {"pred": "yes"} for row in asked]
    file = table(images / "p.csv", [*others, *own] if first else [*own, *others])
    one = audited(file, data=str(data))["systems"]["p"]
    assert one["metrics"]["exact/all"] == 1.0
    assert (one["unmatched"], one["duplicates"], one["conflicting"], one["missing"]) == (N, 0, 0, 0)


def test_an_image_elsewhere_of_that_name_answers_nothing(images, audited):
    """Where the image's own rows leave a question out, those of its namesake do not step in."""
    asked = [
        {"image": f"test/{n}.png", "question": q} for n in range(N) for q in (MASS, "Is it a CT?")
    ]
    data = table(images / "test.csv", [row | {"answer": "yes"} for row in asked])
    other = [row | {"image": row["image"].replace("test", "train")} for row in asked]
    file = table(images / "p.csv", [row | {"pred": "yes"} for row in [*other, *asked[::2]]])
    one = audited(file, data=str(data))["systems"]["p"]
    assert (one["missing"], one["unmatched"], one["metrics"]["exact/all"]) == (N, 2 * N, 0.5)


def test_rows_of_few_records_are_too_few(images, audited):
    """Ids that start anew at each image: every row finds one of three records."""
    rows = [
        {"id": n % 3, "image": f"test/{n // 3}.png", "question": f"{MASS} {n % 3}",
         "answer": ["liver", "lung"][n % 2]} for n in range(3 * N)
    ]  # fmt: skip
    data = str(table(images / "test.csv", rows))
    file = table(images / "p.csv", [{"id": r["id"], "pred": r["answer"]} for r in rows])
    with pytest.raises(DataError, match="only 3 of 36 test records") as raised:
        audited(file, data=data)
    assert "--join order" in raised.value.fix
    assert audited(file, data=data, join="order")["systems"]["p"]["metrics"]["exact/all"] == 1.0
    table(file, [{"id": r["id"], "pred": r["answer"], "gold": r["answer"]} for r in rows])
    one = audited(file, data=data)["systems"]["p"]
    assert (one["joined_by"], one["metrics"]["exact/all"]) == ("their order", 1.0)


LETTERS = {"A": "Liver", "B": "Lung", "C": "Colon", "D": "Heart"}
WORDINGS = {
    "true and false": ("True", "False"),
    "keys that are numbers": ("1", "2", "3"),
    "letters with a gap": ("A", "B", "D"),
    "letters": ("A", "B", "C"),
}


@pytest.mark.parametrize("wording", WORDINGS)
def test_predictions_are_read_in_the_words_of_the_data(wording, images, audited):
    """The data's own answers are all right, and told as gold answers no other ones; those of
    another record are all wrong."""
    words = WORDINGS[wording]
    rows = [
        {"id": n, "image": f"test/{n}.png", "question": MASS, "answer": words[n % len(words)]}
        for n in range(N)
    ]
    if "1" in words:
        rows = [row | {"choices": dict(zip(words, LETTERS.values(), strict=False))} for row in rows]
    elif "A" in words:
        gap = {} if "C" in words else {"C": ""}
        rows = [row | LETTERS | (gap if n else {}) for n, row in enumerate(rows)]
    data = images / "test.json"
    if "1" in words:
        data.write_text(json.dumps(rows))
    else:
        data = table(images / "test.csv", rows)
    for turned, share in ((0, 1.0), (1, 0.0)):
        said = [words[(n + turned) % len(words)] for n in range(N)]
        pairs = zip(rows, said, strict=True)
        file = table(
            images / "p.csv", [{"id": r["id"], "pred": s, "answer": r["answer"]} for r, s in pairs]
        )
        one = audited(file, data=str(data))["systems"]["p"]
        assert one["metrics"]["exact/all"] == share
        assert one["other_gold"] == 0
        told = any(w in note for w in ("own keys", "true or false") for note in one["read_as"])
        assert told == (wording != "letters")


def test_only_the_words_of_the_data_are_read_so(images):
    """Not where the data wrote yes and no, nor where a prediction's question shows the letters
    that the kit gave."""
    row = {"image": "test/0.png", "question": MASS, "answer": "yes"}
    (record,), _ = read_sft_records(table(images / "yes.csv", [row]))
    for truth, said in ((False, "True."), (True, "yes.")):
        assert Wording(truth).of_record("True.", record, None) == said
    of_truth = replace(record, question="True or false: there is a mass.")
    assert Wording(truth=True).of_record("True", of_truth, None) == "True"
    row |= {"answer": "D", **LETTERS, "C": ""}
    data = table(images / "gap.csv", [row, row | {"answer": "C", "C": "Colon", "question": "?"}])
    records, _ = read_sft_records(data)
    wording = wording_of(str(data), Layout(), records, [])
    said = [wording.of_record(text, records[0], MASS) for text in ("D", "C", "B")]
    assert said == ["Heart", "C (no choice)", "Lung"]
    assert wording.of_record("C", records[0], records[0].question) == "C"
    assert wording.of_record("C", records[1], None) == "C"
