"""The first stage as a user runs it: figures on the real sample, and every mistake named."""

import dataclasses
import errno
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import rows
from PIL import Image

from kit.command import parse, run
from kit.data import prepare as stage
from kit.data.boxes import grid_to_pixels
from kit.data.prepare import PrepareConfig, prepare
from kit.data.records import read_sft_records
from kit.data.report import report_path
from kit.data.vqa_rad import IMAGE_FOLDER, PUBLIC_FILE

SCRIPT = Path(__file__).resolve().parents[2] / "launch" / "prepare_data.py"

SLAKE_ROW = {
    "img_id": 1, "img_name": "xmlab1/source.jpg", "question": "Is the lung healthy?",
    "answer": "No", "q_lang": "en", "location": "Lung", "modality": "CT", "answer_type": "CLOSED",
    "base_type": "vqa", "content_type": "Abnormality", "triple": ["vhead", "_", "_"], "qid": 7,
}  # fmt: skip
RAD_ROW = {
    "qid": 5, "phrase_type": "freeform", "qid_linked_id": "aaa", "image_case_url": "https://x.org",
    "image_name": "a.jpg", "image_organ": "HEAD", "evaluation": "given",
    "question": "Is there a mass?", "question_rephrase": "NULL", "question_relation": "NULL",
    "question_frame": "NULL", "question_type": "PRES", "answer": "Yes", "answer_type": "CLOSED ",
}  # fmt: skip
RAD_TEST_ROW = RAD_ROW | {
    "qid": 6, "phrase_type": "test_freeform", "qid_linked_id": "bbb", "question": "What plane?",
    "image_name": "b.jpg", "answer": "axial", "answer_type": "OPEN",
}  # fmt: skip


def blob(seed: int, size=(100, 80)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (5, 5), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with both datasets under ``data/``, in which the command is run."""
    slake, rad = tmp_path / "data" / "SLAKE", tmp_path / "data" / "VQA_RAD"
    for number in (1, 2):
        folder = slake / "imgs" / f"xmlab{number}"
        folder.mkdir(parents=True)
        blob(number).save(folder / "source.jpg")
        boxes = [{"Left Lung": [55.0, 10.0, 30.0, 60.0]}, {"Nodule": [60.0, 20.0, 9.0, 9.0]}]
        (folder / "detection.json").write_text(json.dumps(boxes))
    write_slake(tmp_path / "data", [SLAKE_ROW, SLAKE_ROW | {"question": "Is it a CT?", "qid": 8}])
    for split in ("validate", "test"):
        row = SLAKE_ROW | {"img_name": "xmlab2/source.jpg", "qid": 9}
        write_slake(tmp_path / "data", [row], split)
    (rad / IMAGE_FOLDER).mkdir(parents=True)
    for number, name in enumerate("ab"):
        blob(10 + number).save(rad / IMAGE_FOLDER / f"{name}.jpg")
    write_rad(tmp_path / "data", [RAD_ROW, RAD_TEST_ROW])
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def write_slake(data, rows, split="train"):
    text = rows if isinstance(rows, str) else json.dumps(rows)
    (data / "SLAKE" / f"{split}.json").write_text(text, encoding="utf-8")


def write_rad(data, rows):
    (data / "VQA_RAD" / PUBLIC_FILE).write_text(json.dumps(rows), encoding="utf-8")


def command(monkeypatch, capsys, *flags) -> tuple[int, str, str]:
    """The command's exit code and what it printed, run in this process."""
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", *map(str, flags)])
    with pytest.raises(SystemExit) as left:
        run(lambda: prepare(parse(PrepareConfig)) and None)
    printed = capsys.readouterr()
    return left.value.code, printed.out, printed.err


FIGURES = {  # (dataset, split, language): rows in, rows out, dropped by reason, rows with boxes
    ("SLAKE", "train", "en"): (
        221,
        213,
        {"duplicate": 7, "known_empty_answer": 1},
        75,
    ),
    ("SLAKE", "train", "zh"): (351, 344, {"duplicate": 7}, 134),
    ("SLAKE", "train", "both"): (
        572,
        406,
        {"duplicate": 14, "image_in_other_language_test": 151, "known_empty_answer": 1},
        150,
    ),
    ("SLAKE", "validate", "en"): (81, 81, {}, 29),
    ("SLAKE", "test", "en"): (154, 154, {}, 59),
    ("SLAKE", "test", "zh"): (54, 54, {}, 17),
    ("VQA_RAD", "train", "en"): (
        196,
        191,
        {"duplicate": 3, "repeats_test_question": 1, "rewords_test_question": 1},
        0,
    ),
    ("VQA_RAD", "test", "en"): (62, 62, {}, 0),
    ("both", "validate", "en"): (81, 81, {}, 29),
    ("both", "test", "en"): (216, 216, {}, 59),
}


@pytest.mark.parametrize("case", FIGURES, ids="-".join)
def test_real_sample(case, realdata, tmp_path, capsys):
    dataset, split, language = case
    output = tmp_path / "out.json"
    config = PrepareConfig(
        output=str(output), dataset=dataset, split=split, lang=language,
        slake_root=str(realdata / "SLAKE"), vqa_rad_root=str(realdata / "VQA_RAD"),
    )  # fmt: skip
    report = prepare(config)
    records, problems = read_sft_records(output)
    with_boxes = sum(bool(record.regions) for record in records)
    assert (report["rows_in"], len(records), report["dropped"], with_boxes) == FIGURES[case]
    assert report["rows_in"] == report["rows_out"] + sum(report["dropped"].values())
    assert problems == report["broken"] == []
    assert json.loads(report_path(output).read_text()) == report
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.json", "out.json.report.json"]
    assert f"{len(records)} of {report['rows_in']} rows" in capsys.readouterr().out
    for record in records:
        assert record.split == split
        target = json.loads(record.output)
        assert len(target["boxes"]) <= len(record.regions)
        for box in target["boxes"]:
            x1, y1, x2, y2 = grid_to_pixels(box, record.image_size)
            assert 0 <= x1 < x2 <= record.image_size[0]
            assert 0 <= y1 < y2 <= record.image_size[1]


def test_real_sample_image_disjoint(realdata, tmp_path):
    roots = {"slake_root": str(realdata / "SLAKE"), "vqa_rad_root": str(realdata / "VQA_RAD")}
    loose = prepare(PrepareConfig(output=str(tmp_path / "a.json"), **roots))
    shared = {"images": 22, "rows": 106, "removed": False}
    assert loose["vqa_rad_images_shared_with_test"] == shared
    tight = prepare(PrepareConfig(output=str(tmp_path / "b.json"), image_disjoint=True, **roots))
    assert tight["vqa_rad_images_shared_with_test"] == shared | {"removed": True}
    assert tight["dropped"]["image_shared_with_test"] == 106
    assert tight["rows_out"] == loose["rows_out"] - 106
    prepare(PrepareConfig(output=str(tmp_path / "t.json"), split="test", **roots))
    images = [{r.image for r in read_sft_records(tmp_path / f"{n}.json")[0]} for n in "abt"]
    assert len(images[0] & images[2]) == 22
    assert not images[1] & images[2]


def test_real_sample_leak_policies(realdata, tmp_path, monkeypatch, capsys):
    flags = ["--dataset", "SLAKE", "--lang", "both", "--slake_root", realdata / "SLAKE"]
    output = tmp_path / "kept.json"
    code, out, _ = command(monkeypatch, capsys, "--output", output, *flags, "--leaks", "keep")
    assert (code, "leaks kept: 151" in out) == (0, True)
    assert json.loads(report_path(output).read_text())["rows_out"] == 557
    output = tmp_path / "refused.json"
    code, _, err = command(monkeypatch, capsys, "--output", output, *flags, "--leaks", "refuse")
    assert code == 2
    assert "151 training rows give away test rows" in err
    assert "image_in_other_language_test" in err
    assert not output.exists()


def test_images_under_the_output_are_relative_and_others_absolute(data, tmp_path):
    prepare(PrepareConfig(output="data/train.json"))
    lines = rows(Path("data"), "train.json")
    assert [line["image"] for line in lines] == [
        "SLAKE/imgs/xmlab1/source.jpg",
        "SLAKE/imgs/xmlab1/source.jpg",
        f"VQA_RAD/{IMAGE_FOLDER}/a.jpg",
    ]
    shutil.copytree(data, tmp_path / "moved")
    moved, _ = read_sft_records(tmp_path / "moved" / "train.json")
    assert all(record.image.startswith(str(tmp_path / "moved")) for record in moved)
    prepare(PrepareConfig(output="elsewhere/train.json"))
    (first, *_), _ = read_sft_records("elsewhere/train.json")
    assert first.image == str(data / "SLAKE/imgs/xmlab1/source.jpg")


def test_near_duplicates_are_counted_and_kept_or_dropped(data):
    rng = np.random.default_rng(0)
    copy = np.asarray(blob(1)).astype(int) + rng.integers(0, 5, (80, 100))
    Image.fromarray(copy.clip(0, 255).astype(np.uint8)).save(data / "SLAKE/imgs/xmlab2/source.jpg")
    report = prepare(PrepareConfig(output="data/o.json", dataset="SLAKE"))
    assert (report["near_duplicates_of_test_images"], report["rows_out"]) == (1, 2)
    found = {"images": 1, "rows": 2}
    assert report["near_duplicates"] == {"policy": "keep"} | found
    report = prepare(PrepareConfig(output="data/o.json", near_duplicates="drop"))
    assert (report["near_duplicates_of_test_images"], report["rows_out"]) == (0, 1)
    assert report["near_duplicates"] == {"policy": "drop"} | found
    assert report["dropped"] == {"near_duplicate_of_test_image": 2}
    blob(1).save(data / "SLAKE/imgs/xmlab2/source.jpg")
    blob(1).save(data / "VQA_RAD" / IMAGE_FOLDER / "b.jpg")  # of the test split
    blob(10).save(data / "SLAKE/imgs/xmlab1/source.jpg")  # as a.jpg of the other dataset
    report = prepare(PrepareConfig(output="data/o.json", near_duplicates="drop"))
    assert (report["near_duplicates"]["images"], report["rows_out"]) == (0, 3)


def test_near_duplicates_of_the_real_sample(realdata, tmp_path):
    roots = {"slake_root": str(realdata / "SLAKE"), "vqa_rad_root": str(realdata / "VQA_RAD")}
    output = str(tmp_path / "train.json")
    report = prepare(PrepareConfig(output=output, near_duplicates="drop", **roots))
    assert report["near_duplicates"] == {"policy": "drop", "images": 2, "rows": 24}
    assert report["dropped"]["near_duplicate_of_test_image"] == 24
    assert {k: v["rows"] for k, v in report["by_dataset"].items()} == {"SLAKE": 189, "VQA_RAD": 191}


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_validation_rows_are_those_that_training_leaves_out(share, realdata, tmp_path):
    roots = {"slake_root": str(realdata / "SLAKE"), "vqa_rad_root": str(realdata / "VQA_RAD")}
    reports, records = {}, {}
    for name, changes in {
        "whole": {"validate_share": None},
        "train": {},
        "validate": {"split": "validate"},
        "both": {"split": "validate", "dataset": "both"},
    }.items():
        output = str(tmp_path / f"{name}.json")
        config = {"dataset": "VQA_RAD", "validate_share": share, "leaks": "keep"} | changes
        reports[name] = prepare(PrepareConfig(output=output, **config, **roots))
        records[name], _ = read_sft_records(output)
        total = reports[name]["rows_out"] + sum(reports[name]["dropped"].values())
        assert reports[name]["rows_in"] == total
    ids = {name: {(r.dataset, r.qid) for r in found} for name, found in records.items()}
    images = {name: {r.image for r in found} for name, found in records.items()}
    assert ids["train"] | ids["validate"] == ids["whole"]
    assert not images["train"] & images["validate"]
    assert ids["validate"] == {key for key in ids["both"] if key[0] == "VQA_RAD"}
    assert len(ids["both"]) == 81 + len(ids["validate"])
    assert {r.split for r in records["both"]} == {"validate"}
    assert len(images["validate"]) == {0.1: 3, 0.3: 12}[share]
    held = reports["train"]["vqa_rad_held_out_for_validation"]
    assert held == reports["validate"]["vqa_rad_held_out_for_validation"]
    assert reports["train"]["dropped"]["held_out_for_validation"] == held["rows"]
    assert reports["validate"]["rows_in"] == held["rows"]


def test_validation_rows_give_away_no_test_row(realdata, tmp_path):
    report = prepare(
        PrepareConfig(
            output=str(tmp_path / "o.json"), dataset="VQA_RAD", split="validate",
            vqa_rad_root=str(realdata / "VQA_RAD"), validate_share=0.1,
        )
    )  # fmt: skip
    assert report["dropped"] == {
        "duplicate": 1,
        "repeats_test_question": 1,
        "rewords_test_question": 1,
    }


def test_the_very_command(data):
    """As documented, in its own process; a mistake ends it with 2 and without a traceback."""
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])}
    base = [sys.executable, str(SCRIPT), "--output", "data/train.json", "--dataset", "both"]
    done = subprocess.run(
        [*base, "--split", "train"], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "data/train.json: 3 of 3 rows" in done.stdout
    (data / "SLAKE/imgs/xmlab2/source.jpg").write_bytes(b"")
    done = subprocess.run(
        [*base, "--split", "test"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "data/SLAKE/test.json[0]: field 'img_name': is empty (0 bytes)" in done.stderr
    assert "Traceback" not in done.stderr


def tiff(image: Image.Image, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "TIFF", **options)
    return stream.getvalue()


def spoil(path: str, content: bytes):
    return lambda data: (data / path).write_bytes(content)


def slake_row(**changes):
    return lambda data: write_slake(data, [SLAKE_ROW, SLAKE_ROW | changes])


def rad_row(**changes):
    return lambda data: write_rad(data, [RAD_ROW | changes, RAD_TEST_ROW])


def boxes(text: str):
    return spoil("SLAKE/imgs/xmlab1/detection.json", text.encode())


def half_an_image(data):
    path = data / "SLAKE/imgs/xmlab1/source.jpg"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def slipping_zip(data):
    shutil.rmtree(data / "SLAKE/imgs")
    with zipfile.ZipFile(data / "SLAKE/imgs.zip", "w") as archive:
        archive.writestr("imgs/../../../evil.txt", b"evil")


IMAGE = "SLAKE/imgs/xmlab1/source.jpg"
FIELD = "data/SLAKE/train.json[0]: field 'img_name': "
SECOND = "data/SLAKE/train.json[1]: field "
BOXES = "data/SLAKE/train.json[0]: xmlab1/detection.json[0] 'Lung': "
BROKEN = {
    "image missing": (lambda data: (data / IMAGE).unlink(), FIELD + "no such file"),
    "image truncated": (half_an_image, FIELD + "cannot be decoded: the file is truncated"),
    "image of zero bytes": (spoil(IMAGE, b""), FIELD + "is empty (0 bytes)"),
    "image huge": (
        lambda data: Image.new("1", (8000, 7000)).save(data / IMAGE, "PNG"),
        FIELD + "is too large: 8000x7000 pixels",
    ),
    "image animated": (
        spoil(IMAGE, tiff(blob(1), save_all=True, append_images=[blob(2)])),
        FIELD + "holds 2 frames",
    ),
    "image DICOM": (
        spoil(IMAGE, b"\0" * 128 + b"DICM" + b"\0" * 99),
        FIELD + "is not an image but a DICOM",
    ),
    "image URL": (slake_row(img_name="https://example.org/a.jpg"), SECOND + "'img_name': is a URL"),
    "image data URI": (
        slake_row(img_name="data:image/png;base64,AA"),
        SECOND + "'img_name': is a URL",
    ),
    "image leaves the folder": (slake_row(img_name="../../x.jpg"), SECOND + "'img_name': leaves"),
    "wrong type": (slake_row(answer=["No"]), SECOND + "'answer': must be text, not list"),
    "missing field": (slake_row(answer_type=None), SECOND + "'answer_type': must be text"),
    "empty answer": (slake_row(answer=""), SECOND + "'answer': is empty"),
    "NaN": (slake_row(qid=float("nan")), SECOND + "'qid': is not a finite number"),
    "broken JSON line": (
        lambda data: write_slake(data, '[{"qid": 1},\n{"qid": }]'),
        "data/SLAKE/train.json:2",
    ),
    "deep nesting": (lambda data: write_slake(data, "[" * 100_000), "nested too deeply"),
    "empty dataset": (lambda data: write_slake(data, []), "holds no question"),
    "1e999 in a box": (boxes('[{"Lung": [1, 1, 1e999, 9]}]'), BOXES + "holds a number that is not"),
    "NaN in a box": (boxes('[{"Lung": [1, NaN, 9, 9]}]'), BOXES + "holds a number that is not"),
    "box inverted": (boxes('[{"Lung": [50, 1, -9, 9]}]'), BOXES + "is inverted"),
    "box outside": (boxes('[{"Lung": [50, 1, 60, 9]}]'), BOXES + "is outside the image of 100x80"),
    "missing root": (
        lambda data: shutil.rmtree(data / "SLAKE"),
        "no SLAKE folder\n  where: data/SLAKE",
    ),
    "missing test split": (
        lambda data: (data / "SLAKE/test.json").unlink(),
        "cannot check the training rows for leaks",
    ),
    "zip-slip": (slipping_zip, "would land outside the folder"),
    "VQA-RAD image missing": (rad_row(image_name="z.jpg"), f"{PUBLIC_FILE}[0]: field 'image_name'"),
    "VQA-RAD empty answer": (rad_row(answer=" "), f"{PUBLIC_FILE}[0]: field 'answer': is empty"),
    "VQA-RAD re-release": (rad_row(phrase_type="frame"), "re-release of VQA-RAD"),
    "VQA-RAD missing root": (lambda data: shutil.rmtree(data / "VQA_RAD"), "no VQA-RAD folder"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_data_ends_with_2_names_the_place_and_leaves_nothing(
    name, data, monkeypatch, capsys
):
    damage, words = BROKEN[name]
    damage(data)
    before = sorted(data.parent.rglob("*"))
    code, out, err = command(monkeypatch, capsys, "--output", "data/out.json")
    assert (code, out) == (2, "")
    assert words in err
    assert "fix:" in err
    assert "Traceback" not in err
    assert sorted(data.parent.rglob("*")) == before


FLAGS = {
    "unknown flag": (["--output", "o.json", "--datset", "SLAKE"], "did you mean 'dataset'"),
    "no output": ([], "--output"),
    "unknown dataset": (["--output", "o.json", "--dataset", "slack"], "slack"),
    "unknown split": (["--output", "o.json", "--split", "dev"], "dev"),
    "strict and skip": (["--output", "o.json", "--strict", "--skip_bad"], "--strict contradicts"),
    "disjoint without VQA-RAD": (
        ["--output", "o.json", "--image_disjoint", "--dataset", "SLAKE"],
        "--image_disjoint contradicts --dataset SLAKE",
    ),
    "disjoint test": (
        ["--output", "o.json", "--image_disjoint", "--split", "test"],
        "--image_disjoint contradicts --split test",
    ),
    "VQA-RAD validate": (
        ["--output", "o.json", "--dataset", "VQA_RAD", "--split", "validate"],
        "--validate_share 0.1",
    ),
    "near duplicates of the test split itself": (
        ["--output", "o.json", "--near_duplicates", "drop", "--split", "test"],
        "--near_duplicates drop contradicts --split test",
    ),
    "no share": (["--output", "o.json", "--validate_share", "0"], "above 0 and below 1"),
    "all of it": (["--output", "o.json", "--validate_share", "1"], "above 0 and below 1"),
    "share that is no number": (
        ["--output", "o.json", "--validate_share", "nan"],
        "validate_share",
    ),
    "share of SLAKE": (
        ["--output", "o.json", "--validate_share", "0.1", "--dataset", "SLAKE"],
        "--validate_share contradicts --dataset SLAKE",
    ),
    "share of the test split": (
        ["--output", "o.json", "--validate_share", "0.1", "--split", "test"],
        "--validate_share contradicts --split test",
    ),
    "chinese VQA-RAD": (["--output", "o.json", "--lang", "zh"], "--lang zh contradicts"),
    "output is a folder": (["--output", "data"], "is not a file name"),
    "output is the source": (["--output", "data/SLAKE/train.json"], "would overwrite the dataset"),
    "no config file": (["--output", "o.json", "--cfg", "none.yaml"], "none.yaml"),
    "unknown key": (["--output", "o.json", "--cfg", "c.yaml"], "unknown key 'datset'"),
}


@pytest.mark.parametrize("name", FLAGS)
def test_wrong_flags_end_with_2(name, data, monkeypatch, capsys):
    flags, words = FLAGS[name]
    Path("c.yaml").write_text("datset: SLAKE\n")
    before = sorted(data.parent.rglob("*"))
    code, out, err = command(monkeypatch, capsys, *flags)
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err
    assert sorted(data.parent.rglob("*")) == before


def test_three_modes_of_broken_rows(data, monkeypatch, capsys):
    bad = [
        SLAKE_ROW | {"answer": ""},
        SLAKE_ROW | {"img_name": "no.jpg"},
        SLAKE_ROW | {"qid": None},
    ]
    write_slake(data, [SLAKE_ROW, *bad])
    flags = ["--output", "data/o.json", "--dataset", "SLAKE"]
    code, _, err = command(monkeypatch, capsys, *flags)
    assert (code, err.count("train.json[")) == (2, 3)
    code, _, err = command(monkeypatch, capsys, *flags, "--strict")
    assert (code, err.count("train.json[")) == (2, 1)
    assert "train.json[1]" in err
    code, _, err = command(monkeypatch, capsys, *flags, "--skip_bad")
    assert (code, err) == (0, "")
    report = json.loads(report_path("data/o.json").read_text())
    assert report["dropped"] == {"empty_answer": 1, "image_missing": 1, "wrong_type": 1}
    assert [item["where"] for item in report["broken"]] == [
        f"data/SLAKE/train.json[{number}]" for number in (1, 2, 3)
    ]
    write_slake(data, bad)
    code, _, err = command(monkeypatch, capsys, "--output", "data/p.json", *flags[2:], "--skip_bad")
    assert (code, "no row is left" in err) == (2, True)


def test_known_traps_are_counted_without_stopping(data, monkeypatch, capsys):
    rows = [
        SLAKE_ROW,
        SLAKE_ROW | {"question": "is the  lung healthy?"},
        SLAKE_ROW | {"answer": "", "qid": 1622},
    ]
    write_slake(data, rows)
    code, _, _ = command(
        monkeypatch, capsys, "--output", "o.json", "--dataset", "SLAKE", "--strict"
    )
    report = json.loads(report_path("o.json").read_text())
    assert code == 0
    assert report["dropped"] == {"duplicate": 1, "known_empty_answer": 1}
    assert report["fixed"] == {"question_whitespace": 1}


def test_missing_test_split_can_be_waived(data, monkeypatch, capsys):
    (data / "SLAKE/test.json").unlink()
    flags = ["--output", "o.json", "--dataset", "SLAKE", "--leaks", "keep"]
    code, _, err = command(monkeypatch, capsys, *flags, "--near_duplicates", "drop")
    assert (code, "cannot check the training rows" in err) == (2, True)
    assert command(monkeypatch, capsys, *flags)[0] == 0
    (unchecked,) = json.loads(report_path("o.json").read_text())["leaks"]["unchecked"]
    assert "no test.json" in unchecked


def test_config_file_and_flags(data, monkeypatch, capsys):
    Path("c.yaml").write_text("output: from_file.json\ndataset: SLAKE\nskip_bad: true\n")
    code, out, _ = command(monkeypatch, capsys, "--cfg", "c.yaml", "--output", "flag.json")
    assert (code, "flag.json: 2 of 2" in out) == (0, True)
    assert not Path("from_file.json").exists()


@pytest.mark.parametrize("failing_sync", [1, 2])
def test_full_disk_leaves_neither_file_nor_changes_what_was_there(
    failing_sync, data, monkeypatch, capsys
):
    Path("o.json").write_text("before")
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == failing_sync:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = sorted(data.parent.rglob("*"))
    code, _, err = command(monkeypatch, capsys, "--output", "o.json", "--dataset", "SLAKE")
    assert (code, "the disk is full" in err) == (2, True)
    assert Path("o.json").read_text() == "before"
    assert sorted(data.parent.rglob("*")) == before


def test_download_fetches_only_when_asked_and_only_what_is_read(data, monkeypatch, capsys):
    fetched = []

    def snapshot_download(name, *, repo_type, local_dir, allow_patterns):
        assert repo_type == "dataset"
        fetched.append((name, local_dir))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    command(monkeypatch, capsys, "--output", "o.json")
    assert fetched == []
    command(monkeypatch, capsys, "--output", "o.json", "--download")
    assert fetched == [
        ("BoKelvin/SLAKE", "data/SLAKE"),
        ("flaviagiammarino/vqa-rad", "data/VQA_RAD"),
    ]


def test_download_without_network_says_so(data, monkeypatch, capsys):
    def unreachable(*_, **__):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    flags = ["--output", "o.json", "--dataset", "VQA_RAD", "--download"]
    code, _, err = command(monkeypatch, capsys, *flags)
    assert code == 2
    assert "cannot download the dataset flaviagiammarino/vqa-rad: Name or service" in err
    assert "fetch it by hand" in err


def test_every_image_is_decoded_once(data, monkeypatch):
    opened = []
    original = stage.open_image
    monkeypatch.setattr(stage, "open_image", lambda path: opened.append(path) or original(path))
    prepare(PrepareConfig(output="o.json"))
    assert len(opened) == len(set(opened)) == 4


def test_rows_are_duplicates_that_say_the_same_in_every_letter_but_its_case(data):
    rows = [
        SLAKE_ROW,
        SLAKE_ROW | {"qid": 8, "question": "IS THE LUNG HEALTHY?", "answer": "no"},
        SLAKE_ROW | {"qid": 9, "answer": "Not sure", "answer_type": "OPEN"},
        SLAKE_ROW | {"qid": 10, "question": "Is the left lung healthy?"},
    ]
    write_slake(data, rows)
    report = prepare(PrepareConfig(output="data/o.json", dataset="SLAKE"))
    assert report["dropped"] == {"duplicate": 1}
    assert [r.qid for r in read_sft_records("data/o.json")[0]] == ["7", "9", "10"]


def test_images_of_the_test_split_are_left_out_when_asked(data):
    shared = RAD_ROW | {"qid": 7, "image_name": "b.jpg", "qid_linked_id": "ccc"}
    write_rad(data, [RAD_ROW, shared, RAD_TEST_ROW])
    kept = {}
    for disjoint in (False, True):
        report = prepare(
            PrepareConfig(output="data/o.json", dataset="VQA_RAD", image_disjoint=disjoint)
        )
        kept[disjoint] = [r.qid for r in read_sft_records("data/o.json")[0]]
        assert report["vqa_rad_images_shared_with_test"]["rows"] == 1
    assert kept == {False: ["5", "7"], True: ["5"]}


def test_a_pipeline_on_slurm_trains_on_what_the_documented_commands_prepare(monkeypatch):
    """README and ``slurm/pipeline.yaml`` differ in where the file goes, and in that the nodes of a
    cluster download nothing."""
    root = SCRIPT.parents[1]
    readme = (root / "README.md").read_text(encoding="utf-8")
    line = next(line for line in readme.splitlines() if "--output data/train.json" in line)
    monkeypatch.setattr(sys, "argv", shlex.split(line)[1:])
    documented = parse(PrepareConfig)
    stages = yaml.safe_load((root / "slurm/pipeline.yaml").read_text(encoding="utf-8"))["stages"]
    submitted = PrepareConfig(**stages["prepare_train"]["config"])
    assert documented.download
    assert dataclasses.replace(submitted, output=documented.output, download=True) == documented
