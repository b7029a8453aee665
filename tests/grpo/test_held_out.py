"""How held-out prompts are answered during GRPO."""

from types import SimpleNamespace

import pytest
from accelerate import Accelerator

from kit.grpo import held_out
from kit.grpo.config import GrpoConfig
from kit.scoring.faithfulness import Reward


@pytest.mark.parametrize("count", [1, 2])
def test_held_out_prompts_are_answered_greedily_or_sampled(count, monkeypatch):
    """One greedy answer each, or several whose mean and best are told."""
    config = GrpoConfig(
        base_model="tiny", data="x", num_generations_eval=count, temperature=0.7, top_k=5
    )
    right = [[1.0, 0.0][:count], [0.0, 0.0][:count], [0.0, 1.0][:count]]
    asked = []

    def roll_out(model, cache, tasks, sampling, *, num_generations, seed, attempt, merge):
        asked.append((len(tasks), sampling.temperature, sampling.top_k, num_generations, attempt))
        return [SimpleNamespace(task=task) for task in tasks]

    def rewarded(model, cache, groups):
        own = [right[group.task.prompt_index] for group in groups]
        return [[Reward(value, {"answer": value}) for value in values] for values in own]

    rewarded.weights = {"answer": 1.0}
    monkeypatch.setattr(held_out, "roll_out", roll_out)
    monkeypatch.setattr(held_out, "record_lengths", lambda *_: None)
    records = [None] * 3
    told = held_out.evaluate(None, None, records, rewarded, config, Accelerator(cpu=True))
    assert [one[1:] for one in asked] == [(0.7, 5, 2, -1) if count > 1 else (0.0, 0, 1, -1)] * len(
        asked
    )
    assert sum(one[0] for one in asked) == 3
    assert told["eval/rewards/answer/mean"] == pytest.approx(1 / 3)
    assert told.get("eval/answer/best@k") == (pytest.approx(2 / 3) if count > 1 else None)
