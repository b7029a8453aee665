"""Records before training: what is wrong with them, which are shown, and what they teach."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from helpers import rows
from PIL import Image

from kit import cli
from kit.data.records import read_sft_records
from kit.data.types import SftRecord
from kit.errors import ConfigError, DataError, UserError
from kit.files import write_jsonl
from kit.report import look as looking
from kit.report.config import LookConfig
from kit.report.findings import FEWEST, SMALL
from kit.report.look import look, sample


def embedded(page: Path, name: str):
    """What a page carries for its scripts."""
    html = page.read_text(encoding="utf-8")
    return json.loads(re.search(rf'id="{name}">(.*?)</script>', html, re.S)[1])


def looked_at(data, page: Path, **changes) -> list[dict]:
    assert look(LookConfig(data=str(data), output=str(page), **changes)) == 0
    return embedded(page, "card-data")


def record(image="a.png", question="Is there a mass?", answer="yes", **changes) -> dict:
    target = {"caption": "A CT.", "reasoning": ["Seen."], "boxes": [], "answer": answer}
    target |= changes.pop("target", {})
    known = {"image": image, "question": question, "answer": answer, "output": json.dumps(target)}
    return known | changes


@pytest.fixture
def table(tmp_path):
    """Writes records beside a few images: a, b and c of 200 pixels' height, small of 60x60."""
    for name, size in {
        "a": (400, 200),
        "b": (500, 200),
        "c": (400, 200),
        "small": (60, 60),
    }.items():
        Image.effect_noise(size, 60).save(tmp_path / f"{name}.png")

    def write(*lines: dict) -> Path:
        write_jsonl(tmp_path / "data.json", lines)
        return tmp_path / "data.json"

    return write


def findings(data: Path, capsys) -> dict[str, int]:
    """How many records each finding is of, as the terminal says it."""
    look(LookConfig(data=str(data), output=str(data.with_suffix(".html"))))
    said = re.findall(r"  (?:error|warning): (.*?): ([\d,]+) of", capsys.readouterr().out)
    return {words: int(count) for words, count in said}


BOX = {"label": "Liver", "box_xyxy_pixels": [40, 40, 200, 120]}
WRONG = {
    "image file is missing": record("gone.png"),
    "image cannot be read": record("text.png"),
    "answer is none of the choices, or they are none": record(choices=["lung", "liver"]),
    "target is no JSON object with caption, reasoning, boxes and answer": record(output="{}"),
    "answer is empty": record(answer=" "),
    "box lies outside of its image": record(
        regions=[{"label": "Liver", "box_xyxy_pixels": [20, 20, 600, 60]}]
    ),
    "box lies outside of its image, or is no box": record(
        regions=[{"label": "Liver", "box_xyxy_pixels": [90, 20, 20, 60]}]
    ),
    "image_size is not the image's": record(image_size=[200, 400]),
    f"image with a side under {SMALL} pixels": record("small.png"),
    "target says another answer than the record": record(target={"answer": "no"}),
    "target's box is none of the evidence": record(
        regions=[BOX], target={"boxes": [[40, 40, 200, 120]]}
    ),
}


@pytest.mark.parametrize("words", WRONG)
def test_what_is_wrong_with_a_record_is_said(words, table, capsys):
    good = record("c.png", regions=[BOX], target={"boxes": [[100, 200, 500, 600]]})
    data = table(good, WRONG[words])
    (data.parent / "text.png").write_text("{}")
    assert findings(data, capsys) == {words: 1}


def test_nothing_is_said_of_a_good_file(table, capsys):
    """Boxes of the second image are in its own pixels; a box may be a pixel over the edge."""
    taught = {"boxes": [[1, 100, 200, 500, 600], [2, 0, 0, 1000, 1000]]}
    whole = {"label": "Liver", "box_xyxy_pixels": [0, 0, 501, 200], "image": 2}
    data = table(
        record(more_images=["b.png"], regions=[BOX, whole], target=taught),
        record("b.png", answer="Liver", choices=["Lung", "Liver"], target={"answer": "b"}),
        record("b.png", "Which organ?", answer="lung"),
    )
    assert findings(data, capsys) == {}
    first, *_ = sorted(embedded(data.with_suffix(".html"), "card-data"), key=lambda c: c["number"])
    assert [view["label"] for view in first["views"]] == ["image 1 of 2", "image 2 of 2"]
    where = {"x": 10.0, "y": 20.0, "w": 40.0, "h": 40.0}
    assert [box["kind"] for box in first["views"][0]["boxes"]] == ["evidence", "target"]
    for box in first["views"][0]["boxes"]:
        assert {side: box[side] for side in where} == where
    assert first["views"][1]["boxes"][1]["w"] == 100


def test_what_several_records_say_together(table, capsys):
    data = table(
        record(regions=[BOX]),
        record(question="is there a MASS", split="test"),
        record(question="Is there a mass ?", answer="no", split="test"),
        record("b.png", split="test"),
    )
    assert findings(data, capsys) == {
        "image is in several splits": 3,
        "same question about the same image, another answer": 1,
        "same question about the same image again": 1,
    }


def test_answers_that_are_all_the_same(table, capsys):
    lines = [record(question=f"Is it {n}?", regions=[BOX]) for n in range(FEWEST)]
    half = [record(question=f"Which is {n}?", answer=f"organ {n}") for n in range(FEWEST)]
    assert findings(table(*lines, *half), capsys) == {"yes or no answers that are 'yes'": FEWEST}
    found = findings(table(*lines, *half[1:]), capsys)
    assert found["answers that are 'yes'"] == FEWEST
    assert findings(table(*lines[1:]), capsys) == {}
    assert findings(table(*(line | {"regions": []} for line in lines[1:])), capsys) == {
        "no record has boxes": FEWEST - 1
    }


def test_a_sample_has_the_shares_of_the_whole():
    kinds = [("CT", "OPEN", 600), ("CT", "CLOSED", 250), ("MRI", "OPEN", 130), ("", "CLOSED", 20)]
    records = [
        SftRecord("{}", "a.png", f"{n}", "yes", modality=modality, answer_type=kind)
        for modality, kind, count in kinds
        for n in range(count)
    ]
    for seed in range(5):
        chosen = sample(records, 100, seed)
        assert len(set(chosen)) == 100
        shares = Counter((records[n].modality, records[n].answer_type) for n in chosen)
        for modality, kind, count in kinds:
            assert abs(shares[modality, kind] - count / 10) < 1
    assert sample(records, 100, 1) == sample(records, 100, 1) != sample(records, 100, 2)
    assert sorted(sample(records, 5000, 0)) == list(range(1000))


def test_cards_show_what_is_taught(prepared, tmp_path):
    cards = looked_at(prepared["train"], tmp_path / "page.html", limit=1000)
    records, _ = read_sft_records(prepared["train"])
    assert sorted(card["number"] for card in cards) == [*range(1, len(records) + 1)]
    for card in cards:
        of = records[card["number"] - 1]
        assert (card["question"], card["answer"], card["qid"]) == (of.question, of.answer, of.qid)
        texts = dict(card["texts"])
        assert texts["caption_reason_answer"] == of.output
        assert json.loads(texts["think_answer"]).keys() == {"reasoning", "answer"}
        boxes = Counter(box["kind"] for box in card["views"][0]["boxes"])
        assert boxes["evidence"] == len(of.regions)
        assert boxes["target"] == len(json.loads(of.output)["boxes"])
    page = (tmp_path / "page.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert len(page) < 1_000_000


def test_grpo_records_show_what_was_measured(trained, tmp_path, capsys):
    cards = looked_at(trained["data"], tmp_path / "page.html")
    measured = {row["qid"]: row for row in rows(trained["data"].parent, trained["data"].name)}
    assert "the model that measured them" in capsys.readouterr().out
    assert len(cards) == len(measured)
    for card in cards:
        row, told = measured[card["qid"]], dict(card["measured"])
        assert told["the model said"] == (row["prediction"] or "(nothing)")
        delta = row["delta_cf_roi"]
        assert told["delta_cf_roi"] == ("-" if delta is None else f"{delta:+.3f}")
        painted = [box for box in card["views"][0]["boxes"] if box["kind"] == "removed"]
        assert len(painted) == len(row["cf_boxes"])


def test_anybodys_table_and_a_pages_bound(table, tmp_path, monkeypatch, capsys):
    table()
    csv = tmp_path / "own.csv"
    csv.write_text("file,q,label,xmin,ymin,xmax,ymax\n" + "a.png,Which?,liver,20,20,100,60\n" * 2)
    monkeypatch.setattr(looking, "MOST_BYTES", 100)
    columns = ["question=q", "image=file", "answer=label"]
    cards = looked_at(csv, tmp_path / "page.html", columns=columns)
    assert cards[0]["target"]["answer"] == "liver"
    assert "left out, the page is full" in cards[0]["views"][0]["label"]
    assert embedded(tmp_path / "page.html", "pictures") == {}
    assert "1 pictures are left out" in (tmp_path / "page.html").read_text()


def test_tokens_are_counted_as_the_base_does(prepared, processor, tmp_path, capsys):
    looked_at(prepared["few"], tmp_path / "page.html", tokenizer="tiny")
    outputs = [row["output"] for row in rows(prepared["few"].parent, "few.json")]
    longest = max(len(processor.tokenizer(text)["input_ids"]) for text in outputs)
    assert f"characters, {longest} tokens" in capsys.readouterr().out


def test_mistakes_are_told(table, tmp_path):
    page = str(tmp_path / "page.html")
    with pytest.raises(DataError, match="no such data file"):
        look(LookConfig(data=str(tmp_path / "no.json"), output=page))
    with pytest.raises(DataError, match=r"(?s)no record in the data file.*gone.png"):
        look(LookConfig(data=str(table(record("gone.png"))), output=page))
    data = str(table(record()))
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        look(LookConfig(data=data, output=page, tokenizer="nobody/nothing"))
    for wrong in ({"data": ""}, {"limit": 0}, {"seed": -1}, {"columns": ["x"]}):
        with pytest.raises(ConfigError):
            LookConfig(**{"data": "x.json"} | wrong)


def test_the_command_takes_the_file_as_it_stands(table, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table(record())
    assert cli.execute("look", "data.json") == 0
    assert (tmp_path / "runs/look/data.html").is_file()
    assert "open runs/look/data.html in a browser" in capsys.readouterr().out
