"""Evaluations to report on: answers of the embedded model to phantoms, as evaluate writes them."""

from pathlib import Path

import pytest

from kit.evaluate.config import EvaluateConfig
from kit.evaluate.evaluation import evaluate


@pytest.fixture(scope="session")
def evaluations(prepared, trained, tmp_path_factory) -> dict[str, Path]:
    """The folders of two evaluations of the same questions, by the model's name."""
    folder = tmp_path_factory.mktemp("evaluations")
    models = {"base": {"base_model": "tiny"}, "sft": {"adapter": str(trained["sft"])}}
    for name, model in models.items():
        code = evaluate(
            EvaluateConfig(
                data=str(prepared["test"]), train_data=str(prepared["train"]),
                output=str(folder / name), max_records=14, max_new_tokens=100, random_draws=1,
                counterfactual=True, num_samples=2, **model,
            )
        )  # fmt: skip
        assert code == 0
    return {name: folder / name for name in models}
