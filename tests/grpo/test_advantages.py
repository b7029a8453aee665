"""Group advantages against numpy, with random rewards."""

import inspect
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kit.grpo.advantages import EPSILON, group_advantages, has_no_spread, normalised_parts
from kit.grpo.config import GrpoConfig
from kit.grpo.grpo import advantages_of
from kit.run.metrics import pooled_std
from kit.scoring.faithfulness import Reward


@pytest.fixture
def rewards():
    values = torch.rand(5, 8, dtype=torch.float64)
    values[2] = 0.7
    return values


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_equal_numpy(rewards, scale):
    plain = rewards.numpy()
    centred = plain - plain.mean(axis=1, keepdims=True)
    centred[2] = 0
    own = plain.std(axis=1, ddof=1, keepdims=True)
    whole = plain.std(ddof=1)
    expected = {
        "group": centred / (own + EPSILON),
        "batch": centred / (whole + EPSILON),
        "none": centred,
    }[scale]
    found = group_advantages(rewards, scale=scale, batch_std=float(whole))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    assert found[2].abs().max() == 0
    assert has_no_spread(rewards).tolist() == [False, False, True, False, False]


def test_sums_of_ranks_give_the_spread_of_all(rewards):
    parts = [rewards[:2].flatten(), rewards[2:].flatten()]
    count = sum(len(part) for part in parts)
    total = sum(float(part.sum()) for part in parts)
    squares = sum(float((part**2).sum()) for part in parts)
    assert pooled_std(count, total, squares) == pytest.approx(float(rewards.std()), rel=1e-9)
    assert pooled_std(1, 3.0, 9.0) == 0


def test_a_group_of_one_has_no_advantage():
    assert group_advantages(torch.rand(3, 1)).abs().max() == 0


def test_rewards_that_differ_by_rounding_are_equal():
    rewards = torch.tensor([[0.3, 0.1 + 0.2], [0.3, 0.31]], dtype=torch.float64)
    assert has_no_spread(rewards).tolist() == [True, False]
    assert group_advantages(rewards)[0].abs().max() == 0


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_what_only_captions_tell_apart_has_no_advantage(scale):
    """A group as a small run left it: all wrong, all malformed, captions that differ by a hair.
    One completion in eight that is right, or an answer that rests on its evidence, is no noise."""
    hair = [0.1245, 0.1353, 0.1335, 0.1353] * 2
    rewards = torch.tensor([hair, [0.2] * 7 + [0.6], [0.7] * 7 + [0.8]], dtype=torch.float64)
    default = GrpoConfig(base_model="tiny", data="x").min_reward_std
    advantages = group_advantages(rewards, scale=scale, batch_std=0.2, min_std=default)
    assert advantages.any(dim=1).tolist() == [False, True, True]
    kept = group_advantages(rewards, scale=scale, batch_std=0.2)
    assert kept.any(dim=1).all(), "0 takes nothing away but rounding"
    torch.testing.assert_close(advantages[1:], kept[1:])
    if scale == "group":
        assert kept[0].abs().max() > 1, "as much as right from wrong"


def test_all_ranks_scale_by_the_spread_of_the_whole_step(rewards):
    config = GrpoConfig(base_model="tiny", data="x", scale_rewards="batch")
    parts = [
        [[Reward(value, {}) for value in group] for group in part.tolist()]
        for part in (rewards[:2], rewards[2:])
    ]
    given = []
    alone = SimpleNamespace(device="cpu", reduce=lambda own, reduction: given.append(own) or own)
    for part in parts:
        advantages_of(part, {}, config, alone)
    together = SimpleNamespace(device="cpu", reduce=lambda own, reduction: sum(given))
    found = torch.cat([advantages_of(part, {}, config, together) for part in parts])
    expected = group_advantages(rewards, scale="batch", batch_std=float(rewards.std()))
    torch.testing.assert_close(found, expected)


def trl_advantages(parts_PGR: torch.Tensor, weights: list[float], how: str, scale: str):
    """The lines of TRL's trainer between a step's rewards and its advantages, as they stand."""
    trainer = pytest.importorskip("trl.trainer.grpo_trainer", exc_type=ImportError)
    source = inspect.getsource(trainer.GRPOTrainer._generate_and_score_completions)
    begin = source.rindex("\n", 0, source.index("unscorable_mask = ")) + 1
    lines = source[begin : source.index("# Slice to keep only the local part")]
    groups, completions, parts = parts_PGR.shape
    stand_in = SimpleNamespace(
        multi_objective_aggregation=how, scale_rewards=scale, reward_funcs=[None] * parts,
        reward_weights=torch.tensor(weights, dtype=torch.float64),
    )  # fmt: skip
    names = {
        "self": stand_in, "torch": torch, "nanstd": trainer.nanstd, "device": "cpu",
        "num_generations": completions,
        "rewards_per_func": parts_PGR.reshape(groups * completions, parts).clone(),
    }  # fmt: skip
    exec(textwrap.dedent(lines), names)
    return names["advantages"].reshape(groups, completions)


@pytest.mark.parametrize("absent", [False, True])
def test_parts_that_are_normalised_first_equal_trl(absent):
    """Over two ranks, with parts that are absent here and there, and one completion without any."""
    parts = torch.rand(6, 4, 3, dtype=torch.float64)
    parts[1, :, 0] = 1.0  # a part without spread
    if absent:
        parts[torch.rand(6, 4, 3) < 0.2] = float("nan")
        parts[2, 1] = float("nan")
    names, numbers = ["a", "b", "c"], [0.2, 0.5, -0.3]
    config = GrpoConfig(
        base_model="tiny", data="x", multi_objective_aggregation="normalize_then_sum",
        min_reward_std=0.0,
    )  # fmt: skip
    rewards = [
        [
            Reward(0.0, {n: None if v != v else v for n, v in zip(names, each, strict=True)})
            for each in group
        ]
        for group in parts.tolist()
    ]
    given = []
    alone = SimpleNamespace(device="cpu", reduce=lambda own, reduction: given.append(own) or own)
    together = SimpleNamespace(device="cpu", reduce=lambda own, reduction: sum(given))
    weights = dict(zip(names, numbers, strict=True))
    for rank in (rewards[:2], rewards[2:]):
        advantages_of(rank, weights, config, alone)
    found = [advantages_of(rank, weights, config, together) for rank in (rewards[:2], rewards[2:])]
    expected = trl_advantages(parts, numbers, "normalize_then_sum", "group")
    torch.testing.assert_close(torch.cat(found), expected, atol=1e-6, rtol=1e-6)
    if absent:
        assert torch.cat(found)[2, 1] == 0


def test_a_part_that_hardly_spreads_is_not_blown_up():
    parts = torch.tensor([[[1.0, 0.500], [0.0, 0.501], [1.0, 0.499]]])
    even = torch.tensor([1.0, 1.0])
    kept = normalised_parts(parts, even, min_std=0.02)
    torch.testing.assert_close(kept, normalised_parts(parts[..., :1], even[:1]))
    assert not torch.allclose(kept, normalised_parts(parts, even))
