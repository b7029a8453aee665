"""Means over steps and ranks weigh every value the same."""

import pytest

from kit.run import metrics, process
from kit.run.metrics import Meters, window_means


def test_steps_weigh_by_their_tokens():
    steps = [
        {"loss": 1.0, "token_accuracy": 0.0, "tokens": 10.0, "grad_norm": 2.0},
        {"loss": 3.0, "token_accuracy": 0.5, "tokens": 30.0, "grad_norm": 4.0},
    ]
    found = window_means(steps)
    assert found == {"loss": 2.5, "token_accuracy": 0.375, "grad_norm": 3.0}


def test_a_rank_with_more_values_weighs_more(monkeypatch):
    own, other = Meters(), Meters()
    own.add("reward", [1.0])
    other.add("reward", [0.0, 0.0, 2.0])
    other.add("kl", [5.0])
    monkeypatch.setattr(metrics, "gather_object", lambda parts: [*parts, dict(other._sums)])
    found = own.reduce(process.join(), spreads=["reward"])
    assert found["reward"] == pytest.approx(0.75)
    assert found["kl"] == 5
    assert found["reward/std"] == pytest.approx(0.957427, abs=1e-6)  # of 1, 0, 0, 2
