"""Anybody's files, as people have them: each trains and evaluates, or is refused with file, line,
field and what to do."""

import csv
import io
import json
from pathlib import Path

import pandas
import pytest
from helpers import metrics_of, rows
from PIL import Image

from kit.data.columns import Layout, parse_columns
from kit.data.csv_rows import csv_rows
from kit.data.grpo_records import read_grpo_records
from kit.data.records import read_sft_records
from kit.errors import DataError
from kit.evaluate.cf_proxy import cf_proxy
from kit.evaluate.config import CfProxyConfig, EvaluateConfig
from kit.evaluate.evaluation import evaluate
from kit.files import json_line
from kit.grpo import grpo
from kit.grpo.config import GrpoConfig
from kit.train import sft
from kit.train.config import SftConfig

LISTED = ["Liver", "Lung", "Heart", "Spleen"]
BASE = [
    {"image": f"images/{n}.png", "question": question, "answer": answer}
    for n, question, answer in (
        (0, "Is there a mass?", "yes"),
        (0, "Which organ is largest?", "Liver"),
        (1, "How many lesions; if any?", "2"),
        (2, "Is the heart enlarged?", "no"),
    )
]


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "images").mkdir()
    for n in range(3):
        pixels = Image.effect_noise((64, 48), 90).convert("L")
        pixels.save(tmp_path / "images" / f"{n}.png")
    return tmp_path


def as_csv(rows, delimiter=",", encoding="utf-8") -> bytes:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode(encoding)


def as_lines(rows) -> bytes:
    return "".join(map(json_line, rows)).encode()


def with_(**columns) -> list[dict]:
    """The rows with a value each of further columns."""
    return [
        row | {name: values[place] for name, values in columns.items()}
        for place, row in enumerate(BASE)
    ]


def renamed(rows, **names) -> list[dict]:
    return [{names.get(key, key): value for key, value in row.items()} for row in rows]


def parquet(folder: Path) -> bytes:
    stored = [
        row | {"image": {"bytes": (folder / row["image"]).read_bytes(), "path": None}}
        for row in BASE
    ]
    stream = io.BytesIO()
    pandas.DataFrame(stored).to_parquet(stream)
    return stream.getvalue()


def absolute(folder: Path) -> bytes:
    paths = [str(folder / BASE[0]["image"]), "images\\0.png", "./images/1.png", "images/2.png"]
    return as_lines(with_(image=paths))


def choices_by(letters: str) -> dict[str, str]:
    return dict(zip(letters, LISTED, strict=True))


def unquoted(*answers: str) -> bytes:
    """A row for each answer, as a program writes it that knows nothing of quotation marks."""
    rows = [f"images/0.png\tIs it {n}?\t{answer}\n" for n, answer in enumerate(answers)]
    return "".join(["image\tquestion\tanswer\n", *rows]).encode()


MULTIPLE = with_(answer=["B", "Lung", "c) heart", "(D)"])
BOXES = ["[10, 8, 30, 40]", "10 8 30 40", "", "[[10, 8, 30, 40], [60, 40, 63, 47]]"]
# File, how it is read, and what it comes to: texts that the records hold, or that the refusal says.
GOOD = {
    "CSV with a mark and semicolons": (
        "q.csv", as_csv(renamed(BASE, question="Question"), ";", "utf-8-sig"), "", "2 yes no Liver",
    ),
    "CSV of Excel in Windows' code": (
        "q.csv", as_csv(with_(note=["é"] * 4), "\t", "cp1252"), "", "2 yes no Liver",
    ),
    "JSON list": ("q.json", json.dumps(BASE, indent=1).encode(), "", "2 yes no Liver"),
    "nested choices": (
        "q.jsonl", as_lines([row | {"options": choices_by("abcd")} for row in MULTIPLE]), "",
        "Lung Lung Heart Spleen",
    ),
    "choices as text in CSV": (
        "q.csv", as_csv([row | {"choices": json.dumps(LISTED)} for row in MULTIPLE]), "",
        "Lung Lung Heart Spleen",
    ),
    "a column a choice": (
        "q.csv", as_csv([row | choices_by("ABCD") for row in MULTIPLE]), "",
        "Lung Lung Heart Spleen",
    ),
    "numbers and truth values": (
        "q.jsonl", as_lines(with_(answer=[True, 3, 2.5, False])), "", "yes 3 2.5 no",
    ),
    "absolute, relative and Windows' paths": ("q.jsonl", absolute, "", "2 yes no Liver"),
    "images in a Parquet column": ("q.parquet", parquet, "", "2 yes no Liver"),
    "duplicated ids": ("q.csv", as_csv(with_(id=[7, 7, 8, 8])), "", "2 yes no Liver"),
    "no split": ("q.csv", as_csv(BASE), "", "2 yes no Liver"),
    "boxes as strings": (
        "q.csv", as_csv(with_(bbox=BOXES)), "--box_convention pixels", "2 yes no Liver",
    ),
    "columns of other names": (
        "q.csv", as_csv(renamed(BASE, image="scan", question="frage", answer="antwort")),
        "image=scan question=frage answer=antwort", "2 yes no Liver",
    ),
}  # fmt: skip
BAD = {
    "a missing column": (
        "q.csv", as_csv(renamed(BASE, answer="antwort")),
        ["q.csv", "no column for answer", "image, question, antwort", "--columns answer=..."],
    ),
    "two columns that could be it": (
        "q.csv", as_csv(renamed(with_(img=["x"] * 4), image="image_path")),
        ["'image_path' and 'img' could each be the image", "--columns image=image_path"],
    ),
    "an answer that is no choice": (
        "q.csv", as_csv([row | {"options": json.dumps(LISTED)} for row in BASE]),
        ["q.csv:2", "'answer'", "'yes' is none of the choices (A: Liver; B: Lung", "q.csv:4"],
    ),
    "an answer that is a text and a letter": (
        "q.jsonl", as_lines([r | {"choices": ["B", "Lung"], "answer": "B"} for r in BASE]),
        ["q.jsonl:1", "'answer'", "is a choice's text and another one's letter"],
    ),
    "a cell more than columns": (
        "q.csv", b"image,question,answer\nimages/0.png,Is it large, or small?,large\n",
        ["q.csv:2", "4 fields where the header has 3", "quotation marks"],
    ),
    "a quotation mark that is never closed": (
        "q.tsv", unquoted("no", '"yes', "no", "no"),
        ["1 broken", "q.tsv:3", "never closed: close or remove it; 2 lines after it"],
    ),
    "one in the header": (
        "q.csv", b'image,question,"answer\nimages/0.png,Is it?,yes\n', ["q.csv:1", "never closed"],
    ),
    "one that another row's closes": (
        "q.tsv", unquoted("no", '"yes', "no", '"yes', "no"),
        ["1 broken", "q.tsv:3", "closed within a text 2 lines below"],
    ),
    "an image that is not there": (
        "q.csv", as_csv(with_(image=["images/9.png"] * 4)),
        ["q.csv:2", "'image'", "no such file"],
    ),
    "an empty answer": (
        "q.json", json.dumps(with_(answer=["", "a", "b", "c"]), indent=1).encode(),
        ["q.json:2", "'answer'", "is empty"],
    ),
    "boxes of either kind": (
        "q.csv", as_csv(with_(boxes=BOXES)),
        ["boxes may count pixels or thousandths", "--box_convention pixels"],
    ),
    "a box outside": (
        "q.jsonl", as_lines(with_(boxes=[[[0, 0, 2000, 9]], [], [], []])),
        ["q.jsonl:1", "boxes[0]", "outside the image of 64x48", "read as pixels"],
    ),
    "a split of another kind": (
        "q.csv", as_csv(with_(split=["fold1"] * 4)),
        ["q.csv:2", "'split'", "'fold1'", "--columns split="],
    ),
    "a list that breaks off": (
        "q.json", json.dumps(BASE, indent=1)[:-40].encode(), ["q.json:17", "not valid JSON"],
    ),
    "a spreadsheet": ("q.xlsx", b"PK", ["a spreadsheet", "save it as CSV"]),
}  # fmt: skip


def written(folder: Path, name: str, content) -> Path:
    path = folder / name
    path.write_bytes(content(folder) if callable(content) else content)
    return path


def layout_of(told: str) -> Layout:
    convention = "pixels" if "pixels" in told else None
    return Layout(parse_columns([w for w in told.split() if "=" in w]), convention)


@pytest.mark.parametrize("name", GOOD)
def test_files_as_people_have_them_are_read(name, folder):
    file, content, told, answers = GOOD[name]
    path = written(folder, file, content)
    records, broken = read_sft_records(path, decode_images=True, layout=layout_of(told))
    assert not broken
    assert sorted(record.answer for record in records) == sorted(answers.split())
    assert len({record.image for record in records}) == 3
    assert all(json.loads(r.output)["answer"] == r.answer for r in records)
    measured, _ = read_grpo_records(path, decode_images=True, layout=layout_of(told))
    assert [m.gold for m in measured] == [r.answer for r in records]
    assert [m.choices for m in measured] == [r.choices for r in records]


def test_quotation_marks_within_texts_swallow_nothing(folder):
    texts = ['"yes"', '5" wide', '"2\n\t\tor 3"', '"large" they say', '"a ""mass"""', 'a "mass']
    path = written(folder, "q.tsv", unquoted(*texts))
    found = [value["answer"] for _, value in csv_rows(path, [])]
    assert found == ["yes", '5" wide', "2\n\t\tor 3", "large they say", 'a "mass"', 'a "mass']


@pytest.mark.parametrize("name", BAD)
def test_others_are_refused_with_file_line_field_and_what_to_do(name, folder):
    file, content, words = BAD[name]
    path = written(folder, file, content)
    with pytest.raises(DataError) as caught:
        read_sft_records(path)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.slow
def test_such_files_are_trained_on_answered_and_trained_on_further(folder, monkeypatch):
    """SFT on a CSV with boxes, held out a Parquet file; evaluation of choices beside a floor from
    choices in another form; the proxy of a JSON list; and GRPO on a CSV."""
    monkeypatch.chdir(folder)
    data = {}
    for name in ("boxes as strings", "images in a Parquet column", "nested choices", "JSON list",
                 "choices as text in CSV", "no split"):  # fmt: skip
        file, content, _, _ = GOOD[name]
        data[name] = str(written(folder, f"{name}{Path(file).suffix}", content))
    sft.train(
        SftConfig(
            base_model="tiny", data=data["boxes as strings"], box_convention="pixels", max_steps=2,
            eval_data=data["images in a Parquet column"], output_dir="sft", report_to=["none"],
            per_device_train_batch_size=4, save_steps=0, lora_r=4,
        )
    )  # fmt: skip
    code = evaluate(
        EvaluateConfig(
            data=data["nested choices"], train_data=data["choices as text in CSV"], adapter="sft",
            output="eval", max_new_tokens=80, consistency=False,
            prompting_mode="caption_reason_answer",
        )
    )  # fmt: skip
    assert code == 0
    metrics = metrics_of(folder / "eval")
    assert metrics["caption_reason_answer/exact/choice/n"] == 4
    asked = rows(folder / "eval", "predictions.jsonl")
    assert all(row["choices"] == LISTED and row["gold"] in LISTED for row in asked)
    assert [row["floor"]["answer"] in LISTED for row in asked] == [True] * 4
    assert asked[0]["question"].endswith("?\nA. Liver\nB. Lung\nC. Heart\nD. Spleen")
    assert cf_proxy(CfProxyConfig(data=data["JSON list"], adapter="sft", output="g.jsonl")) == 0
    for number, records in enumerate((data["no split"], "g.jsonl")):
        grpo.train(
            GrpoConfig(
                sft_ckpt="sft", data=records, output_dir=f"grpo{number}", max_steps=1,
                num_generations=2, max_completion_length=16, save_steps=0, report_to=["none"],
                log_completions=False,
            )
        )  # fmt: skip
        assert json.loads((folder / f"grpo{number}/summary.json").read_text())["finished"]
