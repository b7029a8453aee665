"""Published data sets in their true layouts, of a few rows each: as their makers and their mirrors
have them (data/README.md names the sources)."""

import csv
import io
import json
import pickle

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from kit.data.config import PrepareConfig
from kit.data.own import OwnReader
from kit.data.prepare import prepare
from kit.data.published_sets import read_published
from kit.data.records import read_sft_records
from kit.errors import DataError, RecordError


def png(size=(64, 48), form="PNG") -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").resize(size).save(stream, format=form)
    return stream.getvalue()


def write(folder, files: dict) -> None:
    """Files by their names: bytes, text, rows of a CSV or of a Parquet, JSON, or a pickle."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".pkl":
            content = content if isinstance(content, bytes) else pickle.dumps(content)
        elif path.suffix == ".json":
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
        elif path.suffix == ".csv":
            stream = io.StringIO(newline="")
            names = list(dict.fromkeys(key for row in content for key in row))
            writer = csv.DictWriter(stream, names)
            writer.writeheader()
            writer.writerows(content)
            content = stream.getvalue().encode()
        elif path.suffix == ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), path)
            continue
        path.write_bytes(content)


def questions(name, folder) -> list:
    table, layout = read_published(name, folder)
    return OwnReader(table.rows, layout, table.images, table.path).questions(table.rows)


def shown(found) -> list[tuple]:
    """What matters of questions, in short."""
    return [
        (q.dataset, q.split, q.question, q.answer, q.choices, q.content_type, q.modality)
        for q in found
    ]


STORED = {"bytes": png(), "path": None}
CHOICES = {"Choice A": " A:Maxilla ", "Choice B": " B:Mandible ", "Choice C": " C:Zygoma ",
           "Choice D": " D:Cannot be told "}  # fmt: skip
FOUR = ("Maxilla", "Mandible", "Zygoma", "Cannot be told")
OMNI = {
    "dataset": "ACRIMA", "question_id": "ACRIMA_0000", "question_type": "Modality Recognition",
    "question": "What imaging technique was used?", "gt_answer": "Fundus imaging",
    "image_path": "Images/ACRIMA/Im553_g_ACRIMA.png", "option_A": "PET scan", "option_B": "CT",
    "option_C": "Fundus imaging", "option_D": "", "modality_type": "Fundus Photography",
}  # fmt: skip
OMNI_CHEST = {k: v for k, v in OMNI.items() if k != "modality_type"} | {
    "modality": "CT(Computed Tomography)", "dataset": "Chest CT Scan", "question_id": "Chest_1",
    "option_D": "MRI",
}  # fmt: skip
OMNI_CHOICES = ("PET scan", "CT", "Fundus imaging")

LAYOUTS = {
    "PathVQA, published": (
        "PathVQA",
        {
            f"pvqa/qas/{part}/{part}_qa.pkl": [
                {"image": f"{part}_0422", "question": f"Where are cells, {part}?", "answer": "no"}
            ]
            for part in ("train", "val", "test")
        }
        | {f"pvqa/images/{p}/{p}_0422.jpg": png(form="JPEG") for p in ("train", "val", "test")},
        [
            ("PathVQA", split, f"Where are cells, {part}?", "no", (), "", "")
            for part, split in (("train", "train"), ("val", "validate"), ("test", "test"))
        ],
    ),
    "PathVQA, mirror": (
        "PathVQA",
        {
            f"data/{split}-00000-of-00001-e7c.parquet": [
                {"image": STORED, "question": f"is {split} a vessel?", "answer": "yes"}
            ]
            for split in ("train", "validation", "test")
        },
        [
            ("PathVQA", split, f"is {name} a vessel?", "yes", (), "", "")
            for name, split in (("train", "train"), ("validation", "validate"), ("test", "test"))
        ],
    ),
    "PMC-VQA, version 2": (
        "PMC-VQA",
        {
            "train_2.csv": [
                {"index": 0, "Figure_path": "PMC1_Fig1_1.jpg", "Caption": "The mandible.",
                 "Question": " Which bone? ", **CHOICES, "Answer": "B", "split": "train"}
            ],
            "test_2.csv": [
                {"index": 0, "Figure_path": "PMC2_Fig1_1.jpg", "Caption": "The maxilla.",
                 "Question": " What is seen? ", **CHOICES, "Answer": "A", "split": "test"}
            ],
            "images_2/figures/PMC1_Fig1_1.jpg": png(form="JPEG"),
            "images_2/figures/PMC2_Fig1_1.jpg": png(form="JPEG"),
        },
        [
            ("PMC-VQA", "train", "Which bone?", "Mandible", FOUR, "", ""),
            ("PMC-VQA", "test", "What is seen?", "Maxilla", FOUR, "", ""),
        ],
    ),
    "PMC-VQA, version 1": (
        "PMC-VQA",
        {
            f"{name}.csv": [
                {"Figure_path": "PMC1064097_F1.jpg", "Question": f"Which bone, {name}?",
                 "Anwser": "Zygoma", **CHOICES, "Answer_label": "C"}
            ]
            for name in ("train", "test", "test_clean")
        }
        | {"images/PMC1064097_F1.jpg": png(form="JPEG")},
        [
            ("PMC-VQA", "train", "Which bone, train?", "Zygoma", FOUR, "", ""),
            ("PMC-VQA", "test", "Which bone, test_clean?", "Zygoma", FOUR, "", ""),
        ],
    ),
    "PMC-VQA, mirror with columns": (
        "PMC-VQA",
        {
            "data/test-00000-of-00007.parquet": [
                {"image": STORED, "caption": "c", "question": "Which bone?",
                 "answer": " B:Mandible", "answer label": "B",
                 **{key.lower(): value for key, value in CHOICES.items()}}
            ]
        },
        [("PMC-VQA", "test", "Which bone?", "Mandible", FOUR, "", "")],
    ),
    "PMC-VQA, mirror with lists": (
        "PMC-VQA",
        {
            "data/test-00000-of-00001.parquet": [
                {"id": "7", "image": STORED, "image_hash": "f0", "question": "Which bone?",
                 "options": list(FOUR), "answer": "Zygoma", "responses": ["..."]}
            ]
        },
        [("PMC-VQA", "test", "Which bone?", "Zygoma", FOUR, "", "")],
    ),
    "OmniMedVQA, published": (
        "OmniMedVQA",
        {
            "OmniMedVQA/QA_information/Open-access/ACRIMA.json": [OMNI],
            "OmniMedVQA/QA_information/Open-access/Chest CT Scan.json": [OMNI_CHEST],
            "OmniMedVQA/QA_information/Restricted-access/ADNI.json": [OMNI],
            "OmniMedVQA/Images/ACRIMA/Im553_g_ACRIMA.png": png(),
        },
        [
            ("OmniMedVQA", "test", OMNI["question"], "Fundus imaging", OMNI_CHOICES,
             "Modality Recognition", "Fundus Photography"),
            ("OmniMedVQA", "test", OMNI["question"], "Fundus imaging", (*OMNI_CHOICES, "MRI"),
             "Modality Recognition", "CT(Computed Tomography)"),
        ],
    ),
    "OmniMedVQA, mirror": (
        "OmniMedVQA",
        {
            "data/test-00000-of-00001.parquet": [
                {**{k: v for k, v in OMNI.items() if k not in ("image_path", "modality_type")},
                 "image": STORED, "modality": "Fundus Photography", "label": "C", "input": "..."}
            ]
        },
        [
            ("OmniMedVQA", "test", OMNI["question"], "Fundus imaging", OMNI_CHOICES,
             "Modality Recognition", "Fundus Photography"),
        ],
    ),
    "VinDr-CXR-VQA": (
        "VinDr-CXR-VQA",
        {
            "data_v1.json": [
                {"image_id": "0005e8e3701dfb1dd93d53e2ff537b6e", "num_questions": 2, "vqa": [
                    {"question": "Where is the cardiomegaly?", "reason": "...", "type": "Where",
                     "answer": "In the cardiac silhouette <loc_691_1375_1653_1831>.",
                     "difficulty": "Medium", "gt_finding": "Cardiomegaly",
                     "gt_location": "<loc_691_1375_1653_1831>"},
                    {"question": "Is there a pneumothorax?", "reason": "...", "type": "Is_there",
                     "answer": "No", "difficulty": "Easy", "gt_finding": "No finding",
                     "gt_location": ""},
                ]},
                {"image_id": "not_here", "num_questions": 1, "vqa": [
                    {"question": "?", "answer": "a", "type": "What", "gt_location": ""}]},
            ],
            "train/0005e8e3701dfb1dd93d53e2ff537b6e.png": png((2000, 2400)),
        },
        [
            ("VinDr-CXR-VQA", "", "Where is the cardiomegaly?", "In the cardiac silhouette.", (),
             "Where", ""),
            ("VinDr-CXR-VQA", "", "Is there a pneumothorax?", "No", (), "Is_there", ""),
        ],
    ),
    "MedVIGIL": (
        "MedVIGIL",
        {
            "manifest.csv": [
                {"case_id": f"MVB-{number}", "source_dataset": "slake", "modality": "CT",
                 "image_file": f"MVB-{number}.jpg", "question": "Where is the mass?",
                 "gold_answer": "Liver", "risk_tier": "high", "text_only_answerable": "No",
                 "annotator_notes": "n"}
                for number in (1, 2, 3)
            ],
            "grounding.csv": [
                {"case_id": "MVB-1", "answer_rationale": "r", "roi_pointer": "mass in the liver",
                 "roi_bbox_norm": "[0.25, 0.5, 0.5, 0.75]", "differential_set": "[]"},
                {"case_id": "MVB-2", "roi_pointer": "", "roi_bbox_norm": "[0, 0, 1, 1]"},
            ],
            "images/MVB-1.jpg": png(form="JPEG"), "images/MVB-2.jpg": png(form="JPEG"),
        },
        [("MedVIGIL", "test", "Where is the mass?", "Liver", (), "", "CT")] * 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_read_as_it_is(layout, tmp_path):
    name, files, expected = LAYOUTS[layout]
    write(tmp_path, files)
    found = questions(name, tmp_path)
    assert not [q for q in found if isinstance(q, RecordError)]
    assert shown(found) == expected
    assert all(q.image.is_file() for q in found)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_prepared(layout, tmp_path):
    name, files, expected = LAYOUTS[layout]
    write(tmp_path / "set", files)
    for split in dict.fromkeys(question[1] or "train" for question in expected):
        output = tmp_path / f"{split}.json"
        config = {"dataset": name, "own_data": str(tmp_path / "set"), "split": split}
        report = prepare(PrepareConfig(output=str(output), **config))
        records, problems = read_sft_records(output, decode_images=True)
        assert not problems
        wanted = [question for question in expected if question[1] in ("", split)]
        assert [(name, r.answer, r.choices) for r in records] == [
            (name, answer, choices) for _, _, _, answer, choices, _, _ in wanted
        ]
        assert {r.dataset for r in records} == {name}
        assert any(": read as" in note for note in report["notes"])


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if "mirror" in layout])
def test_mirrors_are_read_from_the_hub_too(layout, tmp_path, monkeypatch):
    """From a folder laid out as there: no test has the network."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    name, files, expected = LAYOUTS[layout]
    write(tmp_path / "hub", files)
    found = questions(name, f"hf:{tmp_path / 'hub'}")
    assert sorted(shown(found)) == sorted(expected)


def test_boxes_are_those_of_the_published_files(tmp_path):
    for name, expected in (
        ("VinDr-CXR-VQA", [("Cardiomegaly", (691, 1375, 1653, 1831))]),
        ("MedVIGIL", [("mass in the liver", (16, 24, 32, 36))]),
    ):
        write(tmp_path / name, LAYOUTS[name][1])
        first, second = questions(name, tmp_path / name)
        assert [(r.label, r.box_xyxy_pixels) for r in first.regions] == expected
        assert first.evidence == first.regions
        assert second.regions == ()


def test_what_is_elsewhere_is_counted(tmp_path):
    for name, count in (("VinDr-CXR-VQA", 1), ("MedVIGIL", 1)):
        write(tmp_path / name, LAYOUTS[name][1])
        table, _ = read_published(name, tmp_path / name)
        assert any(note.startswith(f"{count} questions were left out") for note in table.notes)
        for image in (tmp_path / name).rglob("*.[jp][pn]g"):
            image.unlink()
        with pytest.raises(DataError, match="none of the images"):
            read_published(name, tmp_path / name)


def test_a_folder_with_another_layout_is_refused(tmp_path):
    write(tmp_path, LAYOUTS["MedVIGIL"][1])
    with pytest.raises(DataError, match="no OmniMedVQA in this folder") as caught:
        read_published("OmniMedVQA", tmp_path)
    assert "data/README.md" in caught.value.fix


def test_damage_is_told_row_by_row(tmp_path):
    """And never a traceback."""
    write(
        tmp_path,
        {"data_v1.json": [7, {"image_id": "a", "vqa": ["?", {"question": "q", "answer": "a"}]}],
         "images/a.png": png()},
    )  # fmt: skip
    config = {"dataset": "VinDr-CXR-VQA", "own_data": str(tmp_path), "split": "train"}
    with pytest.raises(DataError) as caught:
        prepare(PrepareConfig(output=str(tmp_path / "out.json"), **config))
    assert [p.reason for p in caught.value.problems] == ["missing_question", "wrong_type"]
    write(tmp_path, {"data_v1.json": b"{"})
    with pytest.raises(DataError, match="no question"):
        prepare(PrepareConfig(output=str(tmp_path / "out.json"), **config))


class Harmful:
    def __reduce__(self):
        return print, ("run",)


def test_a_pickle_that_would_run_something_is_refused(tmp_path, capsys):
    write(tmp_path, {"qas/train/train_qa.pkl": pickle.dumps([{"image": Harmful()}])})
    with pytest.raises(DataError, match=r"builtins\.print"):
        read_published("PathVQA", tmp_path)
    assert capsys.readouterr().out == ""
