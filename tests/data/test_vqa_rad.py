"""VQA-RAD's original layout and its hub mirror, with every trap of the published files."""

import io
import json
import re

import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from kit.data.questions import RawQuestion
from kit.data.records import to_json
from kit.data.targets import to_sft_record
from kit.data.vqa_rad import IMAGE_FOLDER, PUBLIC_FILE, read_vqa_rad
from kit.errors import DataError, RecordError

ROW = {
    "qid": 5, "phrase_type": "freeform", "qid_linked_id": "aaa", "image_case_url": "https://x.org/1",
    "image_name": "a.jpg", "image_organ": "HEAD", "evaluation": "given",
    "question": "Is there a mass?", "question_rephrase": "NULL", "question_relation": "NULL",
    "question_frame": "NULL", "question_type": "PRES", "answer": "Yes", "answer_type": "CLOSED",
}  # fmt: skip


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "VQA_RAD"
    (folder / IMAGE_FOLDER).mkdir(parents=True)
    Image.new("L", (60, 40), 90).save(folder / IMAGE_FOLDER / "a.jpg")
    return folder


def write(folder, rows):
    (folder / PUBLIC_FILE).write_text(json.dumps(rows), encoding="utf-8")


def read_one(folder, **changes):
    write(folder, [ROW | changes])
    rows, fixed = read_vqa_rad(folder, "train")
    return rows[0], fixed


@pytest.mark.parametrize(("split", "count", "images"), [("train", 196, 33), ("test", 62, 23)])
def test_real_sample(realdata, split, count, images):
    rows, fixed = read_vqa_rad(realdata / "VQA_RAD", split)
    assert all(isinstance(row, RawQuestion) for row in rows)
    assert (len(rows), len({row.image for row in rows})) == (count, images)
    source = json.loads((realdata / "VQA_RAD" / PUBLIC_FILE).read_text(encoding="utf-8"))
    published = {str(row["qid"]): row for row in source}
    for row in rows:
        raw = published[row.qid]
        assert raw["phrase_type"].startswith("test") == (split == "test")
        assert row.image.name == raw["image_name"]
        letters = re.sub(r"\W", "", str(raw["question"]) + str(raw["answer"]))
        assert re.sub(r"\W", "", row.question + row.answer) == letters
        assert row.answer_type in ("OPEN", "CLOSED")
        assert row.content_type == raw["question_type"].replace("ATRIB", "ATTRIB")
        assert not re.search(r"[\t�]|^\s|\s$", row.question + row.answer)
        assert row.evidence == row.regions == ()
    assert fixed["answer_number"] >= 1 if split == "train" else True
    assert len({row.qid for row in rows}) == count


def test_nothing_that_leads_to_the_diagnosis_reaches_a_record(realdata):
    source = json.loads((realdata / "VQA_RAD" / PUBLIC_FILE).read_text(encoding="utf-8"))
    published = {str(row["qid"]): row for row in source}
    rows, _ = read_vqa_rad(realdata / "VQA_RAD", "test")
    for row in rows:
        text = json.dumps(to_json(to_sft_record(row, ".")))
        assert "medpix" not in text
        rephrased = published[row.qid]["question_rephrase"]
        assert rephrased in ("NULL", row.question) or rephrased not in text


def test_traps_of_the_published_files(root):
    row, fixed = read_one(root, answer=4, qid="0", answer_type="CLOSED ", question=" how many? ")
    assert (row.answer, row.qid, row.answer_type, row.question) == ("4", "0", "CLOSED", "how many?")
    assert fixed == {"answer_number": 1, "question_whitespace": 1}
    row, fixed = read_one(root, answer="Skull \tcartilage and medulla")
    assert (row.answer, fixed) == ("Skull, cartilage and medulla", {"answer_tab_for_comma": 1})
    row, fixed = read_one(root, question="Is it\ufffdright?", question_type="ATRIB, PRSE")
    assert (row.question, row.content_type) == ("Is it right?", "ATTRIB, PRES")
    assert fixed == {"question_lost_character": 1, "question_type_typo": 1}
    incomplete = {k: v for k, v in ROW.items() if k != "question_rephrase"}
    write(root, [incomplete])
    assert read_vqa_rad(root, "train")[0][0].rewordings == ()
    row, _ = read_one(root, question_rephrase="Any mass? ", qid_linked_id="NULL")
    assert (row.rewordings, row.group) == (("Any mass?",), "")


BROKEN = {
    "no object": ([], "must be an object"),
    "missing answer": ({"answer": None}, "'answer'"),
    "empty answer": ({"answer": ""}, "'answer': is empty"),
    "NULL answer": ({"answer": "NULL"}, "'answer': is empty"),
    "list answer": ({"answer": ["yes"]}, "'answer': must be text"),
    "NaN": ({"qid": float("nan")}, "'qid'"),
    "phrase type": ({"phrase_type": "other"}, "'phrase_type'"),
    "image outside": ({"image_name": "../a.jpg"}, "'image_name'"),
    "image URL": ({"image_name": "https://example.org/a.jpg"}, "'image_name'"),
    "image missing": ({"image_name": "b.jpg"}, "'image_name': no such file"),
    "image no image": ({"image_name": "c.jpg"}, "'image_name': is not an image"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_rows_come_back_named(name, root):
    change, words = BROKEN[name]
    (root / IMAGE_FOLDER / "c.jpg").write_text("hello")
    write(root, [ROW, ROW | change if isinstance(change, dict) else change])
    rows, _ = read_vqa_rad(root, "train")
    assert isinstance(rows[0], RawQuestion)
    assert isinstance(rows[1], RecordError)
    assert words in rows[1].what
    assert str(rows[1].where) == f"{root / PUBLIC_FILE}[1]"


def test_the_re_release_is_refused(root, tmp_path):
    write(root, [ROW, ROW | {"phrase_type": "frame"}])
    with pytest.raises(DataError, match="MEVF"):
        read_vqa_rad(root, "train")
    write(root, [ROW] * 3064)
    with pytest.raises(DataError, match="3064 rows"):
        read_vqa_rad(root, "train")
    other = tmp_path / "other" / "data_RAD"
    other.mkdir(parents=True)
    (other / "trainset.json").write_text(json.dumps([ROW]))
    for folder in (other, other.parent):
        with pytest.raises(DataError, match="MEVF") as caught:
            read_vqa_rad(folder, "train")
        assert "rewords test questions" in str(caught.value)


def test_missing_folder_file_and_split(root, tmp_path):
    with pytest.raises(DataError, match="no VQA-RAD folder"):
        read_vqa_rad(tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match="neither"):
        read_vqa_rad(root, "train")
    with pytest.raises(DataError, match="no validate split"):
        read_vqa_rad(root, "validate")
    write(root, [ROW])
    with pytest.raises(DataError, match="no row of the test split"):
        read_vqa_rad(root, "test")


def picture(shade: int, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.new("L", (30, 20), shade).save(stream, kind)
    return stream.getvalue()


def write_mirror(folder, split, rows):
    (folder / "data").mkdir(parents=True, exist_ok=True)
    images = [{"bytes": content, "path": None} for content, _, _ in rows]
    table = pa.table(
        {
            "image": images,
            "question": [question for _, question, _ in rows],
            "answer": [answer for _, _, answer in rows],
        }
    )
    pyarrow.parquet.write_table(table, folder / "data" / f"{split}-00000-of-00001-0a1b.parquet")


def test_mirror(tmp_path):
    rows = [
        (picture(9), "is it dark?", "yes"),
        (picture(9), "where?", "left lung"),
        (picture(200, "PNG"), "is it?", "no"),
    ]
    write_mirror(tmp_path, "train", rows)
    write_mirror(tmp_path, "test", [(picture(9), "is it\tbig?", "no")])
    found, _ = read_vqa_rad(tmp_path, "train")
    assert [(r.question, r.answer, r.answer_type, r.qid) for r in found] == [
        ("is it dark?", "yes", "CLOSED", "train-0"),
        ("where?", "left lung", "OPEN", "train-1"),
        ("is it?", "no", "CLOSED", "train-2"),
    ]
    assert found[0].image == found[1].image
    assert found[0].image.read_bytes() == rows[0][0]
    assert [r.image.suffix for r in found] == [".jpg", ".jpg", ".png"]
    assert found[2].image_size == (30, 20)
    test, fixed = read_vqa_rad(tmp_path, "test")
    assert test[0].image == found[0].image, "the same bytes are the same file"
    assert fixed == {"question_tab_for_comma": 1}
    stored = sorted((tmp_path / "images").iterdir())
    read_vqa_rad(tmp_path, "train")
    assert sorted((tmp_path / "images").iterdir()) == stored


def test_broken_mirror(tmp_path):
    write_mirror(
        tmp_path, "train", [(b"no image", "q", "yes"), (b"", "q", "no"), (picture(1), "q", " ")]
    )
    rows, _ = read_vqa_rad(tmp_path, "train")
    assert [r.reason for r in rows] == ["image_broken", "image_missing", "empty_answer"]
    (path,) = (tmp_path / "data").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="broken parquet"):
        read_vqa_rad(tmp_path, "train")
