"""Reading and writing records: every broken line is named, nothing else passes."""

import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kit.data.fields import check_box, resolve_image
from kit.data.records import Region, SftRecord, read_sft_records, write_records
from kit.errors import DataError, RecordError
from kit.files import iter_json_lines, json_line, strict_json

OUTPUT = {"caption": "CT.", "reasoning": ["a"], "boxes": [], "answer": "yes"}


def record(**changes) -> SftRecord:
    values = {"output": json.dumps(OUTPUT), "image": "x.png"}
    return SftRecord(**(values | {"question": "q", "answer": "yes"} | changes))


@pytest.fixture
def folder(tmp_path):
    Image.new("L", (100, 80)).save(tmp_path / "x.png")
    return tmp_path


def test_round_trip(folder):
    regions = (Region("Left Lung", (1.0, 2.0, 30.5, 40.0)),)
    given_records = [
        record(qid="1", regions=regions, image_size=(100, 80), answer="左肺"),
        record(),
    ]
    write_records(folder / "d.json", given_records)
    found, problems = read_sft_records(folder / "d.json")
    image = str(folder / "x.png")
    assert found == [dataclasses.replace(r, image=image) for r in given_records]
    assert problems == []


LINES = {
    "broken json": ('{"instruction": ', "not valid JSON", "broken_json"),
    "not utf-8": (b'{"question": "\xff"}', "not valid JSON", "broken_json"),
    "deep nesting": ("[" * 100_000 + "]" * 100_000, "nested too deeply", "broken_json"),
    "NaN": ({"image_size": math.nan}, "NaN is not JSON", "broken_json"),
    "1e999": ('{"image_size": 1e999}', "not finite", "broken_json"),
    "a list": ("[1]", "must be an object", "wrong_type"),
    "missing field": ({"question": None}, "'question'", "wrong_type"),
    "number as text": ({"answer": 3}, "'answer': must be text", "wrong_type"),
    "empty answer": ({"answer": "  "}, "'answer': is empty", "empty_answer"),
    "URL": ({"image": "https://example.org/x.png"}, "URL", "image_url"),
    "data URI": ({"image": "data:image/png;base64,AAAA"}, "URL", "image_url"),
    "file URL": ({"image": "file:///etc/passwd"}, "URL", "image_url"),
    "leaving the folder": ({"image": "../x.png"}, "leaves the folder", "image_outside"),
    "leaving with Windows": ({"image": "..\\x.png"}, "leaves the folder", "image_outside"),
    "Windows' disk": ({"image": "C:\\data\\x.png"}, "another machine", "image_missing"),
    "Windows' disk, slashed": ({"image": "c:/data/x.png"}, "another machine", "image_missing"),
    "Windows' share": ({"image": "\\\\host\\x.png"}, "another machine", "image_missing"),
    "NUL": ({"image": "x\0.png"}, "NUL", "image_path"),
    "no such image": ({"image": "y.png"}, "no such file", "image_missing"),
    "image is a folder": ({"image": "."}, "no such file", "image_missing"),
    "inverted": (
        {"regions": [{"label": "a", "box_xyxy_pixels": [9, 1, 3, 4]}]},
        "inverted",
        "bad_box",
    ),
    "outside": (
        {"regions": [{"label": "a", "box_xyxy_pixels": [0, 0, 102, 4]}]},
        "outside",
        "bad_box",
    ),
    "three numbers": (
        {"regions": [{"label": "a", "box_xyxy_pixels": [0, 0, 1]}]},
        "four",
        "bad_box",
    ),
    "boolean": (
        {"regions": [{"label": "a", "box_xyxy_pixels": [0, 0, True, 4]}]},
        "four",
        "bad_box",
    ),
    "no label": ({"regions": [{"box_xyxy_pixels": [0, 0, 1, 4]}]}, "regions", "wrong_type"),
    "regions no list": ({"regions": {}}, "must be a list", "wrong_type"),
    "size of text": ({"image_size": ["100", 80]}, "image_size", "wrong_type"),
    "output no JSON": ({"output": "yes"}, "'output'", "bad_output"),
    "output lacks a key": ({"output": '{"answer": "yes"}'}, "lacks 'caption'", "bad_output"),
}


@pytest.mark.parametrize("name", LINES)
def test_each_broken_line_is_named(name, folder):
    change, words, reason = LINES[name]
    good = {**json.loads(json.dumps(dataclasses.asdict(record()))), "image_size": [100, 80]}
    line = json.dumps(good | change) if isinstance(change, dict) else change
    raw = line if isinstance(line, bytes) else line.encode()
    path = folder / "d.json"
    path.write_bytes(b"\n".join([json_line(good).encode(), raw, raw, b""]))
    with pytest.raises(DataError) as caught:
        read_sft_records(path)
    assert f"{path}:3" in str(caught.value)
    assert words in str(caught.value)
    assert [p.reason for p in caught.value.problems] == [reason] * 2
    with pytest.raises(DataError) as first:
        read_sft_records(path, on_bad="strict")
    assert len(first.value.problems) == 1
    kept, dropped = read_sft_records(path, on_bad="skip")
    assert (len(kept), len(dropped)) == (1, 2)


def test_many_problems_are_shown_in_part(folder):
    (folder / "d.json").write_text("{\n" * 35)
    with pytest.raises(DataError, match=r"35 broken lines(.|\n)*and 15 more"):
        read_sft_records(folder / "d.json")


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(DataError, match="no such data file"):
        read_sft_records(tmp_path / "none.json")
    (tmp_path / "empty.json").write_text("\n \n")
    with pytest.raises(DataError, match="no record"):
        read_sft_records(tmp_path / "empty.json")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="a folder without questions"):
        read_sft_records(tmp_path / "none")


def test_failed_write_leaves_what_was_there(folder):
    path = folder / "d.json"
    path.write_text("before")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_records(path, [record(), record(image_size=(math.inf, 1))])
    assert path.read_text() == "before"
    assert sorted(p.name for p in folder.iterdir()) == ["d.json", "x.png"]


def test_paths_that_stay_inside_pass(folder):
    (folder / "sub").mkdir()
    for name in ("x.png", "./x.png", "sub/../x.png", str(folder / "x.png"), "sub\\..\\x.png"):
        assert resolve_image(name, folder=folder, where="w") == folder / "x.png"
    for there, asked in (("é.png", "e\u0301.png"), ("u\u0308.png", "ü.png"), ("a\\b", "a\\b")):
        (folder / there).touch()
        assert resolve_image(asked, folder=folder, where="w") == folder / there
    with pytest.raises(RecordError, match="'img_name'"):
        resolve_image("no.png", folder=folder, where="w", field="img_name")


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=0, max_size=5))
def test_check_box_passes_exactly_the_finite_upright_boxes_inside(box):
    finite = all(abs(value) < 1e300 for value in box)  # what is larger counts as infinite
    fine = len(box) == 4 and finite and box[0] < box[2] and box[1] < box[3]
    inside = fine and box[0] >= -1 and box[1] >= -1 and box[2] <= 101 and box[3] <= 81
    assert (check_box(box, None) is None) == fine
    assert (check_box(box, (100, 80)) is None) == inside


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(values)
def test_strict_json_reads_what_json_writes(value):
    assert strict_json(json.dumps(value)) == value


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "d.json"
    path.write_bytes(content)
    for where, _ in iter_json_lines(path):
        assert str(path) in where
    with pytest.raises(DataError):
        read_sft_records(path)
