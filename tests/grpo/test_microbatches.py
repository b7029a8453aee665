"""What the loss of a micro-batch takes, and the update that is made of it."""

import contextlib
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from kit.counterfactual.images import ImageCache
from kit.data.grpo_records import read_grpo_records
from kit.grpo.config import GrpoConfig
from kit.grpo.microbatches import micro_batches, with_fixed_logprobs
from kit.grpo.rollout import Task, roll_out
from kit.grpo.updates import update
from kit.model.logprobs import LogprobModel
from kit.model.sampler import Sampling
from kit.run import process
from kit.run.metrics import Meters

TEMPERATURE = 0.7


@pytest.fixture
def config():
    return GrpoConfig(
        base_model="tiny", data="x", temperature=TEMPERATURE, beta=0.1, num_iterations=2,
        per_device_train_batch_size=2, max_grad_norm=0.0,
    )  # fmt: skip


@pytest.fixture
def part(prepared, fresh_model, processor, config):
    """A micro-batch of two prompts with two completions each, all of them with advantage 1."""
    records = read_grpo_records(prepared["train"])[0][:2]
    groups = roll_out(
        fresh_model,
        ImageCache(processor),
        [Task(place, record) for place, record in enumerate(records)],
        Sampling(max_new_tokens=12, temperature=TEMPERATURE),
        num_generations=2,
        seed=1,
    )
    accelerator = process.join()
    (made,) = micro_batches(groups, torch.ones(2, 2), processor, config, accelerator)
    return made


def test_policy_and_reference_are_scored_as_the_samples_were(part, fresh_model, config):
    (fixed,) = with_fixed_logprobs(fresh_model, fresh_model, [part], config, process.join())
    for found in (fixed.old, fixed.reference):
        torch.testing.assert_close(found, part.sampled, atol=1e-4, rtol=0)
    once = replace(config, num_iterations=1, beta=0.0)
    (free,) = with_fixed_logprobs(fresh_model, fresh_model, [part], once, process.join())
    assert free.old is None
    assert free.reference is None


@pytest.mark.parametrize(("shift", "clipped"), [(1.0, 1.0), (0.0, 0.0)])
def test_an_update_is_measured_against_the_policy_that_sampled(
    shift, clipped, part, fresh_model, config
):
    """A policy that has become likelier to say everything has nothing left to gain of it."""
    config = replace(config, beta=0.0)
    accelerator = process.join()
    optimizer = accelerator.prepare(torch.optim.SGD(fresh_model.parameters(), lr=0.0))
    meters = Meters()
    moved = replace(part, old=part.sampled - shift)
    update(accelerator, LogprobModel(fresh_model), optimizer, [moved], config, meters)
    found = meters.reduce(accelerator)
    assert found["clip_ratio/high_mean"] == clipped
    assert (found["grad_norm"] == 0) == bool(clipped)


@pytest.mark.parametrize(("cap", "times"), [(1.8, 1.8), (9.0, 2.0), (0.0, 1.0)])
def test_an_update_counts_tokens_as_the_policy_would_have_said_them(
    cap, times, part, fresh_model, config
):
    """The sampler says of each that it was half as likely as the policy finds it."""
    config = replace(config, beta=0.0, importance_sampling_cap=cap)
    accelerator = process.join()
    optimizer = accelerator.prepare(torch.optim.SGD(fresh_model.parameters(), lr=0.0))
    sampled = replace(part, sampled=part.sampled - math.log(2))
    losses = []
    for batch, options in ((part, replace(config, importance_sampling_cap=0.0)), (sampled, config)):
        meters = Meters()
        update(accelerator, LogprobModel(fresh_model), optimizer, [batch], options, meters)
        losses.append(meters.reduce(accelerator)["loss"])
    assert losses[1] == pytest.approx(times * losses[0], rel=1e-4)


def test_what_ddp_divides_by_its_ranks_is_multiplied_before(part, fresh_model, config):
    """The loss is normalised over all ranks already."""

    def rank_of(processes: int) -> SimpleNamespace:
        return SimpleNamespace(
            num_processes=processes, distributed_type=DistributedType.NO, device="cpu",
            accumulate=lambda model: contextlib.nullcontext(),
            backward=lambda loss: loss.backward(),
            clip_grad_norm_=torch.nn.utils.clip_grad_norm_,
        )  # fmt: skip

    config = replace(config, beta=0.0)
    head = fresh_model.lm_head.weight
    start = head.detach().clone()
    moved = {}
    for processes in (1, 2):
        fresh_model.zero_grad()
        optimizer = torch.optim.SGD([head], lr=1.0)
        model, accelerator = LogprobModel(fresh_model), rank_of(processes)
        update(accelerator, model, optimizer, [part], config, Meters())
        moved[processes] = head.detach() - start
        with torch.no_grad():
            head.copy_(start)
    assert moved[1].abs().max() > 0
    torch.testing.assert_close(moved[2], 2 * moved[1], rtol=1e-3, atol=1e-6)
