"""Records of images without their evidence, and without a control of it."""

import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
from PIL import Image

from kit.cli import execute
from kit.counterfactual.regions import gold_region, mask_of
from kit.data.canvas import Canvas
from kit.data.images import open_image
from kit.data.records import read_sft_records
from kit.data.types import SftRecord
from kit.evaluate.cf_pairs import without_evidence
from kit.files import write_jsonl
from kit.prompting.answers import parse_answer


def true_without(record: SftRecord) -> str:
    """What phantoms ask is there, or how many, and what no one can tell."""
    asks = re.search(r" contain |^(Is|Are) there ", record.question)
    if record.answer == "Yes" and asks and "a lesion in" not in record.question:
        return "No"
    return "0" if record.question.startswith("How many ") else "Cannot tell"


def test_pairs_differ_from_their_record_in_one_place(prepared, tmp_path, capsys):
    output = tmp_path / "pairs.json"
    execute("cf_pairs", "--data", str(prepared["train"]), "--output", str(output))
    records, _ = read_sft_records(output, decode_images=True)
    originals, _ = read_sft_records(prepared["train"])
    whole = {record.qid: record for record in originals}
    kinds, answers = {"evidence": [], "control": []}, Counter()
    for record in records:
        qid, _, kind = record.qid.partition("-")
        if kind:
            kinds[kind].append((record, whole[qid]))
    assert len(kinds["evidence"]) == len(kinds["control"]) > 4
    assert len(records) == len(originals) + 2 * len(kinds["control"])
    assert f"of {len(kinds['control'])} of" in capsys.readouterr().out
    for kind, pairs in kinds.items():
        for record, before in pairs:
            pixels = np.asarray(open_image(before.image))
            now = np.asarray(open_image(record.image))
            size = (pixels.shape[1], pixels.shape[0])
            gold = mask_of(gold_region(before.regions, Canvas((size,))), size)
            differs = (now != pixels).any(axis=2)
            assert differs.any()
            assert not (differs & (gold if kind == "control" else ~gold)).any()
            assert parse_answer(record.output).valid_json
            if kind == "control":
                assert (record.output, record.answer) == (before.output, before.answer)
                assert record.regions == before.regions
                continue
            target = json.loads(record.output)
            assert target["answer"] == record.answer == true_without(before)
            answers[record.answer] += 1
            assert target["boxes"] == [] == list(record.regions)
            assert target["caption"].endswith(".")
            said = target["caption"].lower()
            assert not any(f" {region.label.lower()}" in said for region in before.regions)
            assert target["reasoning"][-1].endswith(f"answer is {record.answer.lower()}.")
    assert min(answers["No"], answers["Cannot tell"]) > 0, answers


def of_own(tmp_path, *rows: dict) -> list:
    """The records that come of a table of one's own, of a drawn image with two bright spots."""
    pixels = np.full((64, 64), 90, np.uint8) + np.arange(64, dtype=np.uint8) % 7
    pixels[10:20, 10:20] = pixels[40:50, 40:50] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    table, output = tmp_path / "mine.jsonl", tmp_path / "pairs.json"
    write_jsonl(table, [{"image": "a.png", "content_type": "Abnormality"} | row for row in rows])
    execute("cf_pairs", "--data", str(table), "--output", str(output), "--box_convention", "pixels")
    return read_sft_records(output)[0]


SPOTS = {
    "Nodule": {"boxes": [{"label": "Nodule", "box": [10, 10, 20, 20]}]},
    "Mass": {"boxes": [{"label": "Mass", "box": [40, 40, 50, 50]}]},
}


def test_records_without_an_id_have_pictures_of_their_own(tmp_path):
    asked = [{"question": f"Is there a {name.lower()}?", "answer": "Yes"} for name in SPOTS]
    rows = [one | boxes for one, boxes in zip(asked, SPOTS.values(), strict=True)]
    records = of_own(tmp_path, *rows)
    gone = [r for r in records if "without_evidence" in r.image]
    assert len({r.image for r in records}) == len(records) - 1 == 5
    assert [r.answer for r in gone] == ["No", "No"]
    before = np.asarray(open_image(records[0].image))
    for record, spot in zip(gone, (slice(10, 20), slice(40, 50)), strict=True):
        differs = (np.asarray(open_image(record.image)) != before).any(axis=2)
        assert differs[spot, spot].mean() > 0.9
        differs[spot, spot] = False
        assert not differs.any()


def test_what_has_no_answer_without_its_evidence_has_no_record_of_it(tmp_path):
    """None among its choices; boxes of which nobody says what they are of; a caption and a first
    step of one's own that name what is gone."""
    choices = {"question": "What is the bright spot?", "answer": "Mass", **SPOTS["Mass"]}
    choices |= {"choices": ["Nodule", "Mass"]}
    unnamed = {"question": "Is there a nodule?", "answer": "Yes", "boxes": [[10, 10, 20, 20]]}
    records = of_own(tmp_path, choices, unnamed)
    kinds = [re.search(r"without_(\w+)\.png|a\.png", r.image)[1] for r in records]
    assert kinds == [None, "control", None, "control"]
    assert len([*(tmp_path / "pairs_images").iterdir()]) == 2
    said = {"caption": "A mass is seen.", "reasoning": ["A mass is there."], "boxes": []}
    one = records[0]
    own = replace(one, choices=(), output=json.dumps(said | {"answer": "Mass"}))
    assert without_evidence(own, "Cannot tell") is None
    own = replace(own, output=json.dumps(said | {"caption": "CT.", "answer": "Mass"}))
    left = without_evidence(own, "Cannot tell")
    assert "A mass is there." not in left.output
    assert without_evidence(own, "") is None


def test_what_is_true_without_it_is_known_of_chinese_and_of_what_has_no_kind(tmp_path):
    rows = [
        {"question": "图中有结节吗？", "answer": "有", **SPOTS["Nodule"]},
        {"question": "Is there a mass?", "answer": "yes", "content_type": "", **SPOTS["Mass"]},
        {"question": "How big is it?", "answer": "2 cm", "content_type": "", **SPOTS["Mass"]},
    ]
    gone = [r.answer for r in of_own(tmp_path, *rows) if "without_evidence" in r.image]
    assert gone == ["没有", "no", "Cannot tell"]
