"""SLAKE's layouts, its evidence rule, and every way a row or an archive can be broken."""

import json
import shutil
import stat
import zipfile

import numpy as np
import pytest
from PIL import Image

from kit.data.evidence import find_evidence, is_lesion, organs_named
from kit.data.questions import RawQuestion
from kit.data.records import Region
from kit.data.slake import read_slake
from kit.errors import DataError, RecordError

ROW = {
    "img_id": 1, "img_name": "xmlab1/source.jpg", "question": "Is the lung healthy?",
    "answer": "No", "q_lang": "en", "location": "Lung", "modality": "CT", "answer_type": "CLOSED",
    "base_type": "vqa", "content_type": "Abnormality", "triple": ["vhead", "_", "_"], "qid": 7,
}  # fmt: skip
BOXES = [{"Left Lung": [55.0, 10.0, 30.0, 60.0]}, {"Right Lung": [10.0, 10.0, 30.0, 60.0]}]


@pytest.fixture
def root(tmp_path):
    """A dataset of one image and one question a split."""
    folder = tmp_path / "SLAKE"
    (folder / "imgs" / "xmlab1").mkdir(parents=True)
    Image.new("L", (100, 80), 90).save(folder / "imgs" / "xmlab1" / "source.jpg")
    write_boxes(folder, BOXES)
    for split in ("train", "validate", "test"):
        write_rows(folder, [ROW], split)
    return folder


def write_rows(folder, rows, split="train"):
    text = rows if isinstance(rows, str) else json.dumps(rows)
    (folder / f"{split}.json").write_text(text, encoding="utf-8")


def write_boxes(folder, boxes):
    text = boxes if isinstance(boxes, str) else json.dumps(boxes)
    (folder / "imgs" / "xmlab1" / "detection.json").write_text(text)


REAL = {  # rows, of these with evidence, images
    ("train", "en"): (221, 78, 20),
    ("train", "zh"): (351, 137, 31),
    ("validate", "en"): (81, 29, 7),
    ("validate", "zh"): (48, 16, 5),
    ("test", "en"): (154, 59, 14),
    ("test", "zh"): (54, 17, 5),
}


@pytest.mark.parametrize("case", REAL)
def test_real_sample(realdata, case):
    rows, _ = read_slake(realdata / "SLAKE", *case)
    sound = [row for row in rows if isinstance(row, RawQuestion)]
    broken = [row for row in rows if isinstance(row, RecordError)]
    figures = len(rows), sum(bool(r.evidence) for r in sound), len({r.image for r in sound})
    assert figures == REAL[case]
    assert [e.reason for e in broken] == (["known_empty_answer"] if case == ("train", "en") else [])
    raw = {
        r["qid"]: r
        for r in json.loads((realdata / "SLAKE" / f"{case[0]}.json").read_text(encoding="utf-8"))
    }
    for row in sound:
        source = raw[int(row.qid)]
        assert row.question == " ".join(source["question"].split())
        assert row.image == realdata.absolute() / "SLAKE" / "imgs" / source["img_name"]
        assert set(row.evidence) <= set(row.regions)
        labels = json.loads((row.image.parent / "detection.json").read_text())
        assert [r.label for r in row.regions] == [next(iter(item)) for item in labels]
        for region, item in zip(row.regions, labels, strict=True):
            x, y, width, height = next(iter(item.values()))
            assert region.box_xyxy_pixels == (x, y, x + width, y + height)


def test_no_mask_is_ever_opened(realdata, tmp_path):
    copy = tmp_path / "SLAKE"
    shutil.copytree(
        realdata / "SLAKE", copy, ignore=shutil.ignore_patterns("mask.png", "question.json")
    )
    for split in ("train", "validate", "test"):
        ours, _ = read_slake(copy, split, "both")
        theirs, _ = read_slake(realdata / "SLAKE", split, "both")
        assert len(ours) == len(theirs)
        assert not any(
            isinstance(r, RecordError) and r.reason != "known_empty_answer" for r in ours
        )


LUNGS = (Region("Left Lung", (5, 1, 9, 9)), Region("Right Lung", (1, 1, 4, 9)))
ABDOMEN = (
    Region("Liver", (0, 0, 5, 5)), Region("Left Kidney", (6, 6, 7, 7)),
    Region("Right Kidney", (1, 6, 2, 7)), Region("Liver Cancer", (1, 1, 2, 2)),
    Region("Small Bowel", (3, 3, 4, 4)), Region("Small Bowel", (4, 4, 5, 5)),
)  # fmt: skip
BRAIN = (
    Region("Brain Edema", (0, 0, 1, 1)), Region("Brain Enhancing Tumor", (2, 2, 3, 3)),
    Region("Brain Non-enhancing Tumor", (4, 4, 5, 5)),
)  # fmt: skip
XRAY = (Region("Effusion", (0, 0, 1, 1)), Region("Mass", (2, 2, 3, 3)), *LUNGS)
EVIDENCE = [
    (LUNGS, "Is the lung healthy?", "No", "", [0, 1]),
    (LUNGS, "ARE THE LUNGS NORMAL?", "No", "", [0, 1]),
    (LUNGS, "What color is the left lung?", "Black", "", [0]),
    (LUNGS, "Where is the abnormality in the lung?", "Right Lung", "", [1]),
    (LUNGS, "Where is/are the abnormality located?", "Left Lung, Right", "", [0]),
    (LUNGS, "Are the left and right lungs dark?", "Yes", "", [0, 1]),
    (LUNGS, "Where is it?", "Lower Left Lung", "", [0]),
    (LUNGS, "What organ is in the chest?", "Heart", "", []),
    (LUNGS, "Are there abnormalities in this image?", "No", "Abnormality", []),
    (LUNGS, "肺是异常的吗?", "是", "", [0, 1]),
    (LUNGS, "图中右肺显示什么颜色?", "黑色", "", [1]),
    (LUNGS, "异常病变在哪个位置?", "左下肺", "", [0]),
    (ABDOMEN, "Does it deliver food?", "Yes", "", []),
    (ABDOMEN, "Where is the liver?", "Left", "", [0]),
    (ABDOMEN, "What diseases are included?", "Liver Cancer", "Abnormality", [3]),
    (ABDOMEN, "Are there abnormalities?", "Yes", "Abnormality", [3]),
    (ABDOMEN, "How many kidneys are there?", "2", "Quantity", [1, 2]),
    (ABDOMEN, "Which is bigger, liver or left kidney?", "Liver", "", [0]),
    (ABDOMEN, "Which organs digest food?", "Small Bowel,Rectum,Colon", "", [4, 5]),
    (ABDOMEN, "What modality is this?", "CT", "Modality", []),
    (ABDOMEN, "图片中包含哪些疾病?", "肝癌", "Abnormality", [3]),
    (ABDOMEN, "图中肾脏、脾脏和肝脏哪个体积最大?", "肝脏", "", [0]),
    (BRAIN, "Does the patient have brain tumor?", "Yes", "", [1, 2]),
    (BRAIN, "Where is the brain non-enhancing tumor?", "Left", "", [2]),
    (BRAIN, "Where is the brain enhancing tumor?", "Left", "", [1]),
    (BRAIN, "Where is the tumor?", "Left", "Position", [1, 2]),
    (BRAIN, "Is the brain healthy?", "No", "Abnormality", [0, 1, 2]),
    (BRAIN, "图中脑部增强型肿瘤在哪里?", "右上叶", "Position", [1]),
    (BRAIN, "图中脑部非增强型肿瘤在哪里?", "右上叶", "Position", [2]),
    (BRAIN, "图片中包含哪些疾病?", "脑瘤,脑水肿", "Abnormality", [0, 1, 2]),
    (XRAY, "Where is the pleural effusion?", "Lower Left Lung", "", [0]),
    (XRAY, "胸腔积液位于图中的哪个部位?", "图的下方", "", [0]),
    (XRAY, "Do the organs exist in the pelvic cavity?", "No", "Position", []),
    (XRAY, "Are there masses?", "Yes", "", [1]),
]


@pytest.mark.parametrize("case", EVIDENCE, ids=lambda case: f"{case[1]} {case[2]}")
def test_evidence(case):
    regions, question, answer, content_type, expected = case
    found = find_evidence(regions, question, answer, content_type)
    assert found == tuple(regions[i] for i in expected)


def test_lesions_and_organs_are_told_apart(realdata):
    labels = set()
    for path in (realdata / "SLAKE" / "imgs").glob("*/detection.json"):
        labels |= {label for item in json.loads(path.read_text()) for label in item}
    lesions = {label for label in labels if is_lesion(label)}
    assert lesions == {
        "Brain Non-enhancing Tumor", "Brain Edema", "Liver Cancer", "Brain Enhancing Tumor",
        "Lung Cancer", "Effusion", "Infiltrate", "Atelectasis", "Mass", "Cardiomegaly",
    }  # fmt: skip
    assert all(organs_named(label) for label in labels - lesions), "an organ the list lacks"


def test_box_one_pixel_over_the_edge_is_clipped(root):
    write_boxes(root, [{"Lung": [-1.0, 0.5, 102.0, 80.2]}])
    rows, _ = read_slake(root, "train")
    assert rows[0].regions == (Region("Lung", (0.0, 0.5, 100.0, 80.0)),)


def test_mended_answer_types_and_white_space(root):
    changed = {
        "answer": 2,
        "answer_type": " closed ",
        "question": " Is\tit  a lung? ",
        "triple": "_",
    }
    write_rows(root, [ROW | changed])
    rows, fixed = read_slake(root, "train")
    assert (rows[0].answer, rows[0].answer_type, rows[0].question) == (
        "2",
        "CLOSED",
        "Is it a lung?",
    )
    assert fixed == {"answer_number": 1, "question_whitespace": 1}


BROKEN_ROWS = {
    "no object": (7, "must be an object", "wrong_type"),
    "missing field": ({k: v for k, v in ROW.items() if k != "answer"}, "'answer'", "missing_field"),
    "wrong type": (ROW | {"question": ["a"]}, "'question'", "wrong_type"),
    "empty answer": (ROW | {"answer": " "}, "'answer'", "empty_answer"),
    "empty answer of the known row": (
        ROW | {"answer": "", "qid": 1622},
        "1622",
        "known_empty_answer",
    ),
    "NaN": (ROW | {"img_id": float("nan")}, "'img_id'", "not_finite"),
    "unknown language": (ROW | {"q_lang": "fr"}, "'q_lang'", "wrong_value"),
    "unknown answer type": (ROW | {"answer_type": "HALF"}, "'answer_type'", "wrong_value"),
    "boolean qid": (ROW | {"qid": True}, "'qid'", "wrong_type"),
    "image missing": (ROW | {"img_name": "xmlab2/source.jpg"}, "'img_name'", "image_missing"),
    "image outside": (ROW | {"img_name": "../train.json"}, "'img_name'", "image_outside"),
    "absolute image": (ROW | {"img_name": "/etc/passwd"}, "'img_name'", "image_outside"),
    "URL": (ROW | {"img_name": "http://example.org/a.jpg"}, "URL", "image_url"),
    "data URI": (ROW | {"img_name": "data:image/png;base64,AA"}, "URL", "image_url"),
}


@pytest.mark.parametrize("name", BROKEN_ROWS)
def test_broken_rows_come_back_named(name, root):
    row, words, reason = BROKEN_ROWS[name]
    write_rows(root, [ROW, row, ROW])
    rows, _ = read_slake(root, "train")
    assert [isinstance(r, RecordError) for r in rows] == [False, True, False]
    assert (rows[1].reason, str(rows[1].where)) == (reason, f"{root / 'train.json'}[1]")
    assert words in rows[1].what


BROKEN_BOXES = {
    "inverted": ([{"Lung": [50, 10, -20, 10]}], "inverted"),
    "no area": ([{"Lung": [50, 10, 0, 10]}], "inverted"),
    "outside": ([{"Lung": [50, 10, 60, 10]}], "outside the image of 100x80"),
    "just beside the image": ([{"Lung": [100.0, 10, 0.5, 10]}], "outside"),
    "NaN": ('[{"Lung": [NaN, 10, 60, 10]}]', "not finite"),
    "1e999": ('[{"Lung": [1, 10, 1e999, 10]}]', "not finite"),
    "three numbers": ([{"Lung": [1, 2, 3]}], "four numbers"),
    "text": ([{"Lung": ["1", 2, 3, 4]}], "four numbers"),
    "no object": ([[1, 2, 3, 4]], "must be an object"),
    "no list": ({"Lung": [1, 2, 3, 4]}, "must hold a list"),
    "not JSON": ("[{", "not valid JSON"),
    "deep nesting": ("[" * 100_000, "nested too deeply|not valid JSON"),
}


@pytest.mark.parametrize("name", BROKEN_BOXES)
def test_broken_boxes_come_back_as_errors_of_every_row(name, root):
    boxes, words = BROKEN_BOXES[name]
    write_boxes(root, boxes)
    write_rows(root, [ROW, ROW])
    rows, _ = read_slake(root, "train")
    assert all(isinstance(r, RecordError) and "detection.json" in r.what for r in rows)
    assert any(word in rows[0].what for word in words.split("|"))
    assert [str(r.where) for r in rows] == [f"{root / 'train.json'}[{i}]" for i in range(2)]


BROKEN_FILES = {
    "empty list": ("[]", "holds no question"),
    "an object": ("{}", "must hold a list"),
    "broken": ('[{"qid": 1},\n{"qid": }]', "not valid JSON"),
    "deep nesting": ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    "empty": ("", "not valid JSON"),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_broken_files(name, root):
    text, words = BROKEN_FILES[name]
    write_rows(root, text)
    with pytest.raises(DataError, match=words) as caught:
        read_slake(root, "train")
    assert str(root / "train.json") in str(caught.value.where)
    if name == "broken":
        assert str(caught.value.where).endswith(":2")


def test_missing_root_split_images_and_language(root, tmp_path):
    with pytest.raises(DataError, match="no SLAKE folder"):
        read_slake(tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match="no question in language 'zh'"):
        read_slake(root, "train", "zh")
    (root / "test.json").unlink()
    with pytest.raises(DataError, match=r"no test\.json"):
        read_slake(root, "test")
    shutil.rmtree(root / "imgs")
    with pytest.raises(DataError, match=r"neither imgs/ nor imgs\.zip"):
        read_slake(root, "train")


@pytest.mark.parametrize("prefix", ["imgs/", ""])
def test_hub_layout(root, prefix):
    wanted, _ = read_slake(root, "validate")
    with zipfile.ZipFile(root / "imgs.zip", "w") as archive:
        archive.writestr("__MACOSX/imgs/._junk", b"junk")
        for path in (root / "imgs").rglob("*"):
            archive.write(path, prefix + path.relative_to(root / "imgs").as_posix())
    shutil.rmtree(root / "imgs")
    (root / "validate.json").rename(root / "validation.json")
    found, _ = read_slake(root, "validate")
    assert [(r.image, r.regions, r.question) for r in found] == [
        (r.image, r.regions, r.question) for r in wanted
    ]
    names = {p.name for p in root.iterdir()}
    assert names == {"imgs", "imgs.zip", "train.json", "validation.json", "test.json"}


def link_member() -> zipfile.ZipInfo:
    member = zipfile.ZipInfo("imgs/xmlab1/source.jpg")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


@pytest.mark.parametrize(
    "member",
    [
        "../evil.txt",
        "imgs/../../evil.txt",
        "/evil.txt",
        "..\\evil.txt",
        "C:\\evil.txt",
        link_member(),
    ],
    ids=str,
)
def test_archives_that_reach_outside_are_refused_whole(root, member, tmp_path):
    shutil.rmtree(root / "imgs")
    with zipfile.ZipFile(root / "imgs.zip", "w") as archive:
        archive.writestr("imgs/fine.txt", b"fine")
        archive.writestr(member, b"/etc/passwd")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=r"outside the folder|is a link"):
        read_slake(root, "train")
    assert sorted(tmp_path.rglob("*")) == before


def test_damaged_archives_leave_nothing(root):
    shutil.rmtree(root / "imgs")
    noise = np.random.default_rng(0).bytes(5000)
    with zipfile.ZipFile(root / "imgs.zip", "w") as archive:
        archive.writestr("imgs/a.txt", b"fine")
        archive.writestr("imgs/b.bin", noise)
    content = (root / "imgs.zip").read_bytes()
    at = content.index(noise) + 100
    for damaged in (content[:500], content[:at] + b"\0\1" + content[at + 2 :], b"no zip"):
        (root / "imgs.zip").write_bytes(damaged)
        before = sorted(root.iterdir())
        with pytest.raises(DataError, match="broken zip file"):
            read_slake(root, "train")
        assert sorted(root.iterdir()) == before
