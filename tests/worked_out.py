"""``metrics.json`` of an evaluation worked out again from the texts of its rows."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
from helpers import metrics_of, rows

from kit.prompting.messages import MODES, REQUIRED_KEYS
from kit.scoring.accuracy import score_answer


def lines_of(path: Path) -> list[dict]:
    return rows(path.parent, path.name)


def simple(text: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def floor_by_hand(trained: list[dict], question: dict) -> str:
    """The commonest training answer to the question, else to its content type, else of all."""
    same = [r for r in trained if simple(r["question"]) == simple(question["question"])]
    alike = [r for r in trained if r["content_type"] == question["content_type"]]
    counts = Counter(r["answer"].lower().strip() for r in same or alike or trained)
    return min(counts, key=lambda answer: (-counts[answer], answer))


def require_worked_out(folder: Path, data: Path, train_data: Path, modes=MODES) -> None:
    """``metrics.json`` from the texts of ``predictions.jsonl`` and the gold answers of the data."""
    asked, trained = lines_of(data), lines_of(train_data)
    found, metrics = lines_of(folder / "predictions.jsonl"), metrics_of(folder)
    assert metrics["n"] == len(asked)
    assert len(found) == len(asked) * len(modes)
    for mode in modes:
        own = [row for row in found if row["mode"] == mode]
        values: dict[str, list[float]] = {}
        for row, question in zip(own, asked, strict=True):
            assert (row["question"], row["gold"]) == (question["question"], question["answer"])
            image = (data.parent / question["image"]).read_bytes()
            assert row["image_sha256"] == hashlib.sha256(image).hexdigest()
            kind, gold = question["answer_type"], question["answer"]
            scores = score_answer(row["answer"], gold, answer_type=kind)
            guess = score_answer(floor_by_hand(trained, question), gold, answer_type=kind)
            told = {
                "exact/all": scores["exact"],
                f"exact/{kind.lower()}": scores["exact"],
                f"exact/dataset/{question['dataset']}": scores["exact"],
                "llava_med/open_recall": scores["llava_med/open_recall"],
                "llava_med/closed_accuracy": scores["llava_med/closed_accuracy"],
                "medevalkit/total": scores["medevalkit/total"],
                "json_valid_rate": row["valid_json"],
                "truncated_rate": row["truncated"],
                "floor/question_only": guess["exact"],
            }
            if row["valid_json"]:
                said = json.loads(row["text"])
                assert said.keys() >= set(REQUIRED_KEYS[mode])
                assert row["answer"] == said["answer"]
                if "boxes" in REQUIRED_KEYS[mode]:
                    assert row["boxes"] == said["boxes"]
            for name, value in told.items():
                if value is not None:
                    values.setdefault(name, []).append(float(value))
        for name, each in values.items():
            assert metrics[f"{mode}/{name}"] == pytest.approx(sum(each) / len(each)), name
            assert metrics[f"{mode}/{name}/n"] == len(each), name
        assert len({row["text"] for row in own}) > len(own) / 8  # it does not always say the same
