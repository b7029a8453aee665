"""An audit of 2,000 random answers against plain rewritings of three published scorers."""

import json
import random

import pytest
from plain_scorers import (
    pairs,
    plain_bleu,
    plain_final,
    plain_llava_closed,
    plain_medevalkit_closed,
    plain_recall,
    plain_vqa,
)

from kit.files import write_jsonl

OPEN_SCORES = ("open_exact", "precision", "recall", "f1", "bleu1", "bleu2", "bleu3", "bleu4")


def plain_open(prediction: str, gold: str) -> dict[str, float]:
    """MedEvalKit's scores of an open answer."""
    said, wanted = plain_final(prediction), gold.lower().strip()
    one, two = set(said.split()), set(wanted.split())
    common = len(one & two)
    precision, recall = common / max(1, len(one)), common / max(1, len(two))
    f1 = 2 * precision * recall / (precision + recall) if common else 0.0
    scores = {"open_exact": float(said == wanted), "precision": precision, "recall": recall}
    bleu = {f"bleu{order}": plain_bleu(said, wanted, order) for order in (1, 2, 3, 4)}
    return scores | {"f1": f1} | bleu


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


@pytest.mark.slow
def test_2000_random_answers_score_as_three_published_scorers_have_them(asked, audited, tmp_path):
    draw = random.Random(3)
    images = sorted({record.image for record in asked.records})
    found = [pair for pair in pairs(2600, seed=7) if pair[1].strip()][:2000]
    table, said = [], []
    for number, (prediction, gold) in enumerate(found):
        table.append(
            {"qid": f"q{number}", "image": images[number % len(images)],
             "question": f"Question {number}?", "answer": " ".join(gold.split()),
             "answer_type": draw.choice(["OPEN", "CLOSED"])}
        )  # fmt: skip
        said.append({"question_id": f"q{number}", "text": prediction})
    (tmp_path / "test.json").write_text(json.dumps(table))
    write_jsonl(tmp_path / "p.jsonl", said)
    one = audited(tmp_path / "p.jsonl", data=str(tmp_path / "test.json"))["systems"]["p"]
    assert one["matched"] == 2000
    ours = one["metrics"]
    answers = [(row["answer_type"], said["text"], row["answer"])
               for row, said in zip(table, said, strict=True)]  # fmt: skip
    of_type = {
        kind: [pair[1:] for pair in answers if pair[0] == kind] for kind in ("OPEN", "CLOSED")
    }
    totals = [
        plain_medevalkit_closed(said, gold)
        if kind == "CLOSED"
        else plain_open(said, gold)["open_exact"]
        for kind, said, gold in answers
    ]
    theirs = {
        "llava_med/open_recall": mean(plain_recall(*pair) for pair in of_type["OPEN"]),
        "llava_med/closed_accuracy": mean(plain_llava_closed(*p) for p in of_type["CLOSED"]),
        "medevalkit/closed": mean(plain_medevalkit_closed(*p) for p in of_type["CLOSED"]),
        "medevalkit/total": mean(totals),
        "vqa_challenge/accuracy": mean(plain_vqa(p, g) for _, p, g in answers),
        "medevalkit/open_exact": mean(plain_open(*p)["open_exact"] for p in of_type["OPEN"]),
    }
    assert {name: ours[name] for name in theirs} == theirs
    for name in OPEN_SCORES:
        expected = mean(plain_open(*pair)[name] for pair in of_type["OPEN"])
        assert ours[f"medevalkit/{name}"] == pytest.approx(expected, abs=1e-12)
    assert all(0.02 < value < 0.9 for value in theirs.values())
