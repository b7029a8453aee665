"""The picture of a few answers: boxes where they belong, and the right record's."""

import json

import pytest
from PIL import Image, ImageColor

from kit.data.records import Region, SftRecord, read_sft_records, write_records
from kit.evaluate import figure
from kit.evaluate.figure import CLAIMED, GOLD, MARGIN, SIDE, TEXT_WIDTH, draw_examples
from kit.files import write_jsonl

OUTPUT = json.dumps({"caption": "c", "reasoning": ["r"], "boxes": [], "answer": "a"})


def record(image="0.png", question="Where?", region=(20, 10, 60, 40), **fields) -> SftRecord:
    return SftRecord(
        output=OUTPUT, image=image, question=question,
        answer="left", regions=(Region("Lung", region),), image_size=(100, 80), **fields,
    )  # fmt: skip


def prediction(record, *, boxes=((500, 500, 900, 900),), exact=1.0, **fields) -> dict:
    return {
        "image": record.image, "qid": record.qid, "question": record.question, "gold": "left",
        "mode": "caption_reason_answer", "content_type": record.content_type,
        "modality": record.modality, "answer": "left", "caption": "A chest.",
        "reasoning": ["One.", "Two."], "boxes": [list(box) for box in boxes],
        "scores": {"exact": exact}, "grounding": {"iou": 0.25}, **fields,
    }  # fmt: skip


@pytest.fixture
def draw(tmp_path):
    """Write records and what was predicted of them, draw, and return the picture (or None)."""

    def call(records, change=lambda rows: rows, **options):
        for name in {r.image for r in records}:
            Image.new("RGB", (100, 80), "black").save(tmp_path / name)
        write_records(tmp_path / "data.json", records)
        read = read_sft_records(tmp_path / "data.json")[0]
        rows = change([prediction(r) for r in read])
        write_jsonl(tmp_path / "p.jsonl", rows)
        draw_examples(tmp_path / "p.jsonl", tmp_path / "data.json", tmp_path / "o.png", **options)
        assert {path.name for path in tmp_path.iterdir()} - {"o.png"} == {
            "data.json", "p.jsonl", *(r.image for r in records)
        }  # fmt: skip
        return (
            Image.open(tmp_path / "o.png").convert("RGB") if (tmp_path / "o.png").exists() else None
        )

    return call


def extent(picture: Image.Image, colour: str, panel: int = 0) -> tuple[float, ...]:
    """The bounding box of a colour within the image of a panel, in pixels of the 100x80 image."""
    width, height = SIDE + TEXT_WIDTH + 3 * MARGIN, SIDE + 2 * MARGIN
    left, top = (panel % 2) * width + MARGIN, (panel // 2) * height + MARGIN
    shown = picture.crop((left, top, left + SIDE, top + SIDE))
    wanted = ImageColor.getrgb(colour)
    mask = Image.new("L", shown.size)
    mask.putdata([255 * (pixel == wanted) for pixel in shown.getdata()])
    assert mask.getbbox() is not None
    return tuple(v * 100 / SIDE for v in mask.getbbox())


def test_boxes_stand_where_they_belong(draw):
    picture = draw([record()])
    assert extent(picture, GOLD) == pytest.approx((20, 10, 60, 40), abs=0.5)
    # the grid's 500..900 of 100x80 pixels; the later box is drawn over the earlier
    assert extent(picture, CLAIMED) == pytest.approx((50, 40, 90, 72), abs=0.5)


def test_each_prediction_gets_the_boxes_of_its_own_record(draw):
    """Questions about one image, without ids."""
    records = [
        record(question="Where is it?", region=(0, 0, 20, 20)),
        record(question="And where is that?", region=(70, 50, 90, 70)),
    ]
    assert extent(draw(records, lambda rows: rows[:1]), GOLD)[:2] == pytest.approx((0, 0), abs=0.5)
    assert extent(draw(records, lambda rows: rows[1:]), GOLD)[:2] == pytest.approx(
        (70, 50), abs=0.5
    )


def test_images_and_kinds_differ_first(draw):
    records = [
        record(image=f"{number % 3}.png", qid=str(number), content_type="Position", modality="CT",
               region=(number * 10, 0, number * 10 + 9, 20))
        for number in range(6)
    ]  # fmt: skip
    width, height = SIDE + TEXT_WIDTH + 3 * MARGIN, SIDE + 2 * MARGIN
    assert draw(records, count=4).size == (2 * width, 2 * height + 36)
    assert draw(records, count=1).size == (width, height + 36)
    picture = draw(records, count=3)
    assert [round(extent(picture, GOLD, panel)[0]) for panel in range(3)] == [0, 10, 20]
    assert draw(records, count=9).size == (2 * width, 3 * height + 36)  # each question once


def test_nothing_to_show_is_no_picture(draw):
    assert draw([record()], lambda rows: []) is None
    assert draw([record()], lambda rows: [ungrounded(rows[0] | {"boxes": []})]) is None


def ungrounded(row: dict) -> dict:
    return {name: value for name, value in row.items() if name != "grounding"}


def test_boxes_of_one_kind_are_drawn_too_but_those_that_can_be_compared_come_first(draw):
    """VQA-RAD has no gold boxes, and a base model may claim none."""
    assert extent(draw([record()], lambda rows: [ungrounded(rows[0])]), CLAIMED)
    assert extent(draw([record()], lambda rows: [rows[0] | {"boxes": []}]), GOLD)
    records = [record(image=f"{number}.png", region=(number, 0, 90, 20)) for number in range(3)]

    def change(rows):
        return [rows[0] | {"boxes": []}, ungrounded(rows[1]), rows[2]]

    picture = draw(records, change)
    shown = [round(extent(picture, GOLD, panel)[0]) for panel in range(3)]
    assert shown == [2, 1, 0]


def test_what_changes_without_boxes_is_told(draw, monkeypatch):
    written = []
    monkeypatch.setattr(figure, "write_text", lambda draw, at, texts: written.extend(texts))
    flips = {
        "gold": {"answer": "right", "roi": 1.0, "random": 0.5},
        "claimed": {"answer": "left", "roi": 0.0, "random": 0.0},
        "both": {"answer": "none", "roi": 1.0, "random": 0.0},
    }
    draw([record()], lambda rows: [rows[0] | {"flips": flips}])
    assert [text for text, *_ in written if text.startswith("without")] == [
        "without the evidence: right (changed; controls: 50% changed)",
        "without its own boxes: left (the same; controls: 0% changed)",
    ]


def test_long_and_foreign_words_are_no_mistake(draw):
    words = {"question": "肺在哪里？" * 40, "caption": "wort" * 300, "reasoning": [], "answer": ""}
    picture = draw([record(question=words["question"])], lambda rows: [rows[0] | words])
    assert picture.size == (SIDE + TEXT_WIDTH + 3 * MARGIN, SIDE + 2 * MARGIN + 36)
