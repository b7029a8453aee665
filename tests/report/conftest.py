"""Evaluations to report on, answers of the embedded model to phantoms as evaluate writes them; and
runs whose curves are drawn."""

import json
from pathlib import Path

import pytest

from kit.evaluate.config import EvaluateConfig
from kit.evaluate.evaluation import evaluate
from kit.files import write_jsonl
from kit.report.config import ReportConfig
from kit.report.report import report


@pytest.fixture(scope="session")
def evaluations(once, prepared, trained) -> dict[str, Path]:
    """The folders of two evaluations of the same questions, by the model's name."""
    models = {"base": {"base_model": "tiny"}, "sft": {"adapter": str(trained["sft"])}}

    def make(folder: Path) -> None:
        for name, model in models.items():
            code = evaluate(
                EvaluateConfig(
                    data=str(prepared["test"]), train_data=str(prepared["train"]),
                    output=str(folder / name), max_records=14, max_new_tokens=100, random_draws=1,
                    counterfactual=True, num_samples=2, **model,
                )
            )  # fmt: skip
            assert code == 0

    folder = once("evaluations", make)
    return {name: folder / name for name in models}


@pytest.fixture(scope="session")
def written(once, evaluations) -> Path:
    """The report on them."""
    entries = [f"{name}={folder}" for name, folder in evaluations.items()]

    def make(folder: Path) -> None:
        assert report(ReportConfig(evaluations=entries, output=str(folder))) == 0

    return once("report", make)


@pytest.fixture(scope="session")
def run_of():
    """Makes the folder of a training run whose metrics are lines."""

    def make(folder: Path, steps: int, finished: bool = True, **metrics) -> Path:
        folder.mkdir(parents=True)
        rows = [
            {"step": step, "loss": 1 / step, **{k: v * step for k, v in metrics.items()}}
            for step in range(1, steps + 1)
        ]
        write_jsonl(folder / "metrics.jsonl", rows)
        (folder / "environment.json").write_text(json.dumps({"total_steps": steps}))
        if finished:
            (folder / "summary.json").write_text(json.dumps({"finished": True, "seconds": 12.0}))
        return folder

    return make
