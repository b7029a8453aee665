"""Splits, leaks and duplicates of anybody's data, and where its tables lie."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
from helpers import rows
from PIL import Image

from kit.data.prepare import PrepareConfig, prepare
from kit.data.records import read_sft_records
from kit.errors import ConfigError, DataError
from kit.files import write_jsonl


@pytest.fixture
def mine(tmp_path) -> Path:
    """Twenty images and, of each, a neighbouring slice; two questions an image."""
    rng = np.random.default_rng(0)
    (tmp_path / "scans").mkdir()
    asked = []
    for number in range(20):
        pixels = rng.integers(0, 256, (32, 32)).astype(np.uint8)
        for slice_ in "ab":
            name = f"scans/{slice_}{number}.png"
            Image.fromarray(pixels).resize((64, 64)).save(tmp_path / name)
            pixels = np.clip(pixels + rng.integers(-3, 4, (32, 32)), 0, 255).astype(np.uint8)
            asked += [
                {"image": name, "question": "Is there a mass?", "answer": "yes"},
                {"image": name, "question": "Where is it?", "answer": f"at {number}"},
            ]
    pandas.DataFrame(asked).to_csv(tmp_path / "mine.csv", index=False)
    return tmp_path


def prepared_own(folder: Path, split: str, data: str = "mine.csv", **told) -> tuple[list, dict]:
    output = folder / f"{split}.jsonl"
    config = PrepareConfig(
        output=str(output), dataset="own", own_data=str(folder / data), split=split, **told
    )
    report = prepare(config)
    return rows(folder, output.name), report


def test_shares_part_images_by_content_and_keep_slices_together(mine):
    shares = {"test_share": 0.3, "validate_share": 0.2}
    whole, report = prepared_own(mine, "all", **shares)
    parts = {name: prepared_own(mine, name, **shares)[0] for name in report["by_split"]}
    assert set(parts) == {"train", "validate", "test"}
    assert sorted(map(str, whole)) == sorted(str(row) for part in parts.values() for row in part)
    volumes = [{Path(row["image"]).stem[1:] for row in part} for part in parts.values()]
    assert sum(map(len, volumes)) == len(set.union(*volumes)) == 20, "no volume is in two"
    alone, _ = prepared_own(mine, "test", test_share=0.3)
    assert list(map(str, alone)) == list(map(str, parts["test"])), "the other takes none of it"
    # renamed, in another order, the same images are of the same splits
    before = {row["image"]: row["split"] for row in whole}
    table = pandas.read_csv(mine / "mine.csv").iloc[::-1]
    (mine / "other").mkdir()
    for name in set(table["image"]):
        shutil.copy(mine / name, mine / "other" / f"{name[::-1].replace('/', '_')}.png")
    table["image"] = [f"other/{name[::-1].replace('/', '_')}.png" for name in table["image"]]
    table.to_csv(mine / "renamed.csv", index=False)
    again, _ = prepared_own(mine, "all", "renamed.csv", **shares)
    found = {Path(row["image"]).stem.replace("_", "/")[::-1]: row["split"] for row in again}
    assert found == before


def test_a_test_file_of_its_own_is_what_training_rows_may_not_give_away(mine):
    shutil.copy(mine / "scans/a0.png", mine / "scans/copy.png")
    asked = [{"image": "scans/copy.png", "question": "Is a mass there?", "answer": "yes"}]
    write_jsonl(mine / "test.json", asked)
    with (mine / "mine.csv").open("a") as stream:
        stream.write("scans/a1.png,Is there a mass?,Yes\n")
    told = {"test_data": str(mine / "test.json")}
    train, report = prepared_own(mine, "train", **told)
    assert report["dropped"] == {"duplicate": 1, "rewords_test_question": 1}
    assert report["images_shared_with_test"] == {"images": 1, "rows": 1, "removed": False}
    assert (report["rows_in"], len(train)) == (81, 79)
    train, report = prepared_own(mine, "train", **told, image_disjoint=True, near_duplicates="drop")
    assert report["dropped"]["image_shared_with_test"] == 1
    assert report["dropped"]["near_duplicate_of_test_image"] == 2
    assert {Path(row["image"]).stem for row in train}.isdisjoint({"a0", "b0"})
    assert [row["question"] for row in prepared_own(mine, "test", **told)[0]] == [
        "Is a mass there?"
    ]


def test_no_row_of_a_test_file_is_lost_unsaid(mine):
    asked = {"question": "How old is the patient?", "answer": "50"}
    splits = {"scans/a0.png": "test", "scans/gone.png": "test", "scans/a1.png": "val"}
    lines = [asked | {"image": name, "split": split} for name, split in splits.items()]
    write_jsonl(mine / "other.jsonl", lines)
    told = {"test_data": str(mine / "other.jsonl")}
    lost = {"image_missing": 1, "other_split": 1}
    for split, count in (("all", 83), ("test", 3)):
        with pytest.raises(DataError, match=r"2 broken rows(.|\n)*validate, but --test_data"):
            prepared_own(mine, split, **told)
        kept, report = prepared_own(mine, split, **told, skip_bad=True)
        assert (report["rows_in"], len(kept), report["dropped"]) == (count, count - 2, lost)
    _, report = prepared_own(mine, "train", **told)
    assert "2 rows were not compared with the training rows: 1 image_missing, 1" in str(report)
    # nor a test row of the first file, which the second one takes the place of
    frame = pandas.read_csv(mine / "mine.csv")
    frame.assign(split=["train"] * 78 + ["test"] * 2).to_csv(mine / "both.csv", index=False)
    with pytest.raises(DataError, match=r"4 broken(.|\n)*both.csv:80.*test, but --test_data"):
        prepared_own(mine, "all", "both.csv", **told)


def test_a_file_names_its_splits_itself(mine, capsys):
    table = pandas.read_csv(mine / "mine.csv")
    table["Split"] = ["train", "val", "test", "train"] * 20
    table.to_csv(mine / "named.csv", index=False)
    assert len(prepared_own(mine, "validate", "named.csv")[0]) == 20
    train, _ = read_sft_records(mine / "named.csv", prefer=("train",))
    assert len(train) == 40
    assert "40 of 80 rows, those of the split train" in capsys.readouterr().out
    with pytest.raises(DataError, match="names rows of the split test itself"):
        prepared_own(mine, "train", "named.csv", test_share=0.1)
    with pytest.raises(DataError, match=r"no row of the test split.*\n.*\n.*--test_share 0.1"):
        prepared_own(mine, "test")


def stored(folder: Path, frame: pandas.DataFrame) -> pandas.DataFrame:
    """A table whose images lie in a column, as the hub has them."""
    images = [{"bytes": (folder / name).read_bytes(), "path": None} for name in frame["image"]]
    return frame.assign(image=images)


def imagefolder(folder: Path, frame: pandas.DataFrame) -> str:
    for place, split in enumerate(("train", "test")):
        (folder / "set" / split).mkdir(parents=True)
        part = frame.iloc[4 * place : 4 * place + 4]
        for name in set(part["image"]):
            shutil.copy(folder / name, folder / "set" / split / Path(name).name)
        named = [Path(name).name for name in part["image"]]
        part = part.drop(columns="image").assign(file_name=named)
        part.to_csv(folder / "set" / split / "metadata.csv", index=False)
    return str(folder / "set")


def of_hub(folder: Path, frame: pandas.DataFrame) -> str:
    (folder / "set" / "data").mkdir(parents=True)
    for place, split in enumerate(("train", "test")):
        part = stored(folder, frame.iloc[4 * place : 4 * place + 4])
        part.to_parquet(folder / "set" / "data" / f"{split}-00000-of-00001.parquet")
    return str(folder / "set")


def alone(folder: Path, frame: pandas.DataFrame) -> str:
    (folder / "set").mkdir()
    frame.iloc[:8].assign(split=["train"] * 4 + ["test"] * 4).to_csv(folder / "set" / "q.csv")
    shutil.copytree(folder / "scans", folder / "set" / "scans")
    return str(folder / "set")


@pytest.mark.parametrize("lay_out", [imagefolder, of_hub, alone, lambda *a: f"hf:{of_hub(*a)}"])
def test_folders_are_read_by_split(lay_out, mine, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(mine / "cache"))
    path = lay_out(mine, pandas.read_csv(mine / "mine.csv"))
    for split, images in (("train", 2), ("test", 2)):
        records, _ = read_sft_records(path, decode_images=True, prefer=(split,))
        assert len(records) == 4
        assert len({record.image for record in records}) == images
        assert {record.split for record in records} == {split}


CONTRADICTIONS = {
    "no data": ({"own_data": ""}, "no data given"),
    "another dataset": ({"dataset": "SLAKE"}, "--own_data contradicts --dataset SLAKE"),
    "no such field": ({"columns": ["picture=x"]}, "'picture=x' is not field=column"),
    "two test splits": ({"test_data": "t.csv", "test_share": 0.1}, "contradicts --test_data"),
    "nothing left": ({"test_share": 0.6, "validate_share": 0.5}, "leave nothing to train on"),
    "over itself": ({"output": "my.csv"}, "would overwrite the dataset itself"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_what_contradicts_itself_is_refused(name):
    told, words = CONTRADICTIONS[name]
    with pytest.raises(ConfigError, match=words):
        PrepareConfig(**{"output": "o.jsonl", "dataset": "own", "own_data": "my.csv"} | told)


def test_what_a_file_does_not_hold_is_not_taught(mine):
    """Without modality and labels the target names neither; a box without a label is a region."""
    (first, *_), _ = read_sft_records(mine / "mine.csv")
    assert json.loads(first.output)["caption"] == "A medical image."
    row = {"image": "scans/a0.png", "question": "Is there a mass?", "answer": "yes"}
    write_jsonl(mine / "b.jsonl", [row | {"boxes": [0, 0, 0.5, 0.25], "box_format": "xyxy"}])
    (only,), _ = read_sft_records(mine / "b.jsonl")
    target = json.loads(only.output)
    assert target["boxes"] == [[0, 0, 500, 250]]
    assert target["reasoning"][1:] == [
        "The marked region is in the upper left of the image.", "The answer is yes.",
    ]  # fmt: skip
