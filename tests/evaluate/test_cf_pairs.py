"""Records of images without their evidence, and without a control of it."""

import json
import re
from collections import Counter

import numpy as np

from kit.cli import execute
from kit.counterfactual.regions import gold_region, mask_of
from kit.data.canvas import Canvas
from kit.data.images import open_image
from kit.data.records import read_sft_records
from kit.data.types import SftRecord
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
