"""A test of twelve drawn images, and answers to it that are right as often as wrong."""

import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import rows

from kit.audit.audit import audit
from kit.audit.config import AuditConfig
from kit.data.records import read_sft_records
from kit.evaluate.config import EvaluateConfig
from kit.evaluate.evaluation import evaluate
from kit.files import write_jsonl


@pytest.fixture(scope="session")
def asked(once, prepared) -> SimpleNamespace:
    """``data``: three questions of each of twelve images; ``records``, and an answer to each."""

    def make(folder: Path) -> None:
        there = prepared["train"].parent
        of_image: dict[str, list] = {}
        for row in rows(there, "train.json"):
            of_image.setdefault(row["image"], []).append(row)
        kept = [row | {"image": str(there / image)} for image, own in of_image.items()
                for row in own[:: max(1, len(own) // 3)][:3]]  # fmt: skip
        write_jsonl(folder / "test.json", kept)

    data = once("asked", make) / "test.json"
    records, _ = read_sft_records(data)
    draw = random.Random(0)
    golds = sorted({record.answer for record in records})
    said = [r.answer if draw.random() < 0.6 else draw.choice(golds) for r in records]
    return SimpleNamespace(data=data, records=records, said=said)


@pytest.fixture(scope="session")
def evaluated(once, asked, prepared) -> Path:
    """The folder of an evaluation of the embedded model on it, in both modes."""

    def make(folder: Path) -> None:
        code = evaluate(
            EvaluateConfig(
                base_model="tiny", data=str(asked.data), train_data=str(prepared["test"]),
                output=str(folder), max_new_tokens=60, consistency=False,
            )
        )  # fmt: skip
        assert code == 0

    return once("evaluated_for_audit", make)


@pytest.fixture
def audited(asked, tmp_path, capsys):
    """Runs an audit of files and gives what ``audit.json`` holds; ``text``: what was printed."""

    def run(*predictions: str | Path, **settings) -> dict:
        settings = {"data": str(asked.data), "output": str(tmp_path / "out")} | settings
        capsys.readouterr()
        assert audit(AuditConfig(predictions=[str(p) for p in predictions], **settings)) == 0
        found = json.loads((Path(settings["output"]) / "audit.json").read_text())
        return found | {"text": capsys.readouterr().out}

    return run
