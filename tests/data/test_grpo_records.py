"""GRPO records: what is read, what is refused, and that writing and reading agree."""

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from kit.data.grpo_records import GrpoRecord, read_grpo_records
from kit.data.records import Region, write_records
from kit.errors import DataError

PLAIN = {"image_path": "a.png", "question": "Is there a mass?", "gold": "Yes"}


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    return tmp_path


def write(folder, *values):
    path = folder / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, values)))  # NaN too
    return path


def test_three_fields_suffice(folder):
    (record,), problems = read_grpo_records(write(folder, PLAIN))
    assert record == GrpoRecord(str(folder / "a.png"), "Is there a mass?", "Yes")
    assert not problems


drops = st.none() | st.floats(-1, 1)


@given(st.booleans(), st.floats(0, 1), st.text(min_size=0), drops, drops)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_what_is_written_is_read(folder, valid, correct, caption, roi, rand):
    if any("\ud800" <= c <= "\udfff" for c in caption):
        return
    record = GrpoRecord(
        str(folder / "a.png"), "What?", "3 cm", valid, correct, caption, roi, rand,
        prediction="x", cf_boxes=((1.0, 2.0, 30.0, 20.0),), dataset="SLAKE", qid="7",
        regions=(Region("Liver", (1.0, 2.0, 30.0, 20.0)),), image_size=(40, 30),
    )  # fmt: skip
    write_records(folder / "data.jsonl", [record])
    assert read_grpo_records(folder / "data.jsonl", decode_images=True) == ([record], [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_path": None}, "'image_path': must be text"),
        ({"image_path": "https://host/a.png"}, "is a URL"),
        ({"image_path": "../a.png"}, "leaves the folder"),
        ({"image_path": "b.png"}, "no such file"),
        ({"question": " "}, "'question': is empty"),
        ({"question": "What <|image_pad|>?"}, "control token"),
        ({"gold": ""}, "'gold': is empty"),
        ({"gold": "<|im_end|>"}, "control token"),
        ({"valid_json": "yes"}, "must be true or false"),
        ({"answer_correct": 1.5}, "must be in 0..1"),
        ({"answer_correct": "1"}, "must be in 0..1"),
        ({"delta_cf_roi": 2}, "must be in -1..1"),
        ({"delta_cf_rand": [0.1]}, "must be in -1..1"),
        ({"caption": 3}, "'caption': must be text"),
        ({"cf_boxes": {}}, "must be a list"),
        ({"cf_boxes": [[5, 5, 1, 1]]}, "is inverted"),
        ({"cf_boxes": [[0, 0, 90, 10]], "image_size": [40, 30]}, "is outside the image"),
        ({"image_size": [41, 30]}, "but the image is 40x30"),
    ],
)
def test_broken_fields_are_named(folder, change, message):
    path = write(folder, PLAIN, {**PLAIN, **change})
    with pytest.raises(DataError) as caught:
        read_grpo_records(path, decode_images=True)
    assert message in str(caught.value)
    assert f"{path}:2" in str(caught.value)
    records, problems = read_grpo_records(path, "skip", decode_images=True)
    assert len(records) == len(problems) == 1


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_are_none(folder, number):
    with pytest.raises(DataError, match="is not JSON"):
        read_grpo_records(write(folder, {**PLAIN, "delta_cf_roi": number}))


@pytest.mark.parametrize("missing", PLAIN)
def test_missing_fields(folder, missing):
    value = {key: v for key, v in PLAIN.items() if key != missing}
    with pytest.raises(DataError, match=f"'{missing}': missing"):
        read_grpo_records(write(folder, value))
