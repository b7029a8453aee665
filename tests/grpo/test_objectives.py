"""Objectives: what they are worth, what their gradient is, and what they do to an update."""

import contextlib
import importlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from helpers import rows

from kit.counterfactual.images import ImageCache
from kit.data.grpo_records import read_grpo_records
from kit.errors import ConfigError
from kit.grpo.config import GrpoConfig
from kit.grpo.grpo import train
from kit.grpo.microbatches import micro_batches
from kit.grpo.objectives import changed_trunks, objective_of, record_absent, require_evidence
from kit.grpo.rollout import Task, roll_out
from kit.grpo.terms import OBJECTIVES
from kit.grpo.updates import update, updates_of
from kit.grpo.views import evidence_of
from kit.model.logprobs import LogprobModel, TokenLogprobs
from kit.model.sampler import Sampling
from kit.run.metrics import Meters

TERMS = {name: importlib.import_module(f"kit.grpo.terms.{name}") for name in OBJECTIVES}
LOOKING = "perception=0.5,evidence=1.0,differential=2.0"


def alone(accumulation: int = 1) -> SimpleNamespace:
    return SimpleNamespace(
        num_processes=1, distributed_type=DistributedType.NO, device="cpu",
        accumulate=lambda model: contextlib.nullcontext(), reduce=lambda x, reduction: x,
        backward=lambda loss: (loss / accumulation).backward(),
        clip_grad_norm_=torch.nn.utils.clip_grad_norm_,
    )  # fmt: skip


def settings(**changes) -> GrpoConfig:
    return GrpoConfig(
        **{
            "base_model": "tiny", "data": "x", "beta": 0.0, "max_grad_norm": 0.0,
            "objectives": LOOKING, "per_device_train_batch_size": 2,
        } | changes
    )  # fmt: skip


@pytest.fixture(scope="module")
def cache(processor):
    return ImageCache(processor, "mean")


@pytest.fixture(scope="module")
def groups(prepared, base_model, cache):
    """Two prompts, one with evidence that has a control, and one without any."""
    records = read_grpo_records(prepared["train"])[0]

    def has_control(record) -> bool:
        region = evidence_of(record, cache)
        return bool(region and cache.controls(record.shown, region, draws=2, seed=42))

    chosen = [next(filter(has_control, records)), next(r for r in records if not r.regions)]
    return roll_out(
        base_model, cache, [Task(place, record) for place, record in enumerate(chosen)],
        Sampling(max_new_tokens=10, temperature=1.0), num_generations=2, seed=1,
    )  # fmt: skip


# ---------------------------------------------------------------------------------- the terms


def plain_divergence(whole, changed):
    """Token by token, in float64."""
    found = []
    for p, q in zip(whole.unbind(), changed.unbind(), strict=True):
        ratio = (q - p).exp()
        k3 = ratio - (q - p) - 1
        found.append(k3 if k3 <= 10 else torch.tensor(10.0, dtype=k3.dtype))
    return torch.stack(found)


PLAIN = {
    "perception": plain_divergence,
    "double_entropy": lambda whole, masked: whole + masked,
    "evidence": plain_divergence,
    "differential": lambda whole, without, control: (
        plain_divergence(whole, without) - plain_divergence(whole, control)
    ),
    "preference": lambda _, without, control: (
        control.exp().log() - (control.exp() + without.exp()).log()
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_values_and_gradients_equal_a_plain_rewrite(name):
    count = 1 + len(TERMS[name].VIEWS)
    inputs = [(-6 * torch.rand(200, dtype=torch.float64)).requires_grad_() for _ in range(count)]
    weights = torch.rand(200, dtype=torch.float64)
    results = []
    for value in (TERMS[name].value, PLAIN[name]):
        values = value(*inputs)
        found = torch.autograd.grad(values @ weights, inputs, allow_unused=True)
        results.append((values.detach(), *(g for g in found if g is not None)))
    for own, expected in zip(*results, strict=True):
        torch.testing.assert_close(own, expected, atol=1e-9, rtol=1e-9)
    if name in ("perception", "evidence"):
        assert results[0][0].max() == 10, "some reach the bound"


@pytest.fixture
def distributions():
    """Of six tokens: on the whole image, without the evidence, without a control; so near that none
    reaches the bound."""
    logits = [(torch.rand(6, dtype=torch.float64) - 0.5).requires_grad_() for _ in range(3)]
    return logits, [values.log_softmax(0) for values in logits]


def gradients(scalar, logits):
    found = torch.autograd.grad(scalar, logits, retain_graph=True, allow_unused=True)
    return [torch.zeros(6).double() if one is None else one for one in found]


def kl(of, to):
    return (of.exp() * (of - to)).sum()


@pytest.mark.parametrize("name", ["perception", "evidence", "differential"])
def test_their_mean_is_the_divergence_and_their_gradient_what_is_said(distributions, name):
    """Exactly, each token drawn as often as the whole image's policy says it."""
    logits, (whole, without, control) = distributions
    given = (without, control)[: len(TERMS[name].VIEWS)]
    mean = whole.exp().detach() @ TERMS[name].value(whole, *given)
    exact, backwards = kl(whole, without), kl(without, whole)
    if name == "differential":
        exact, backwards = exact - kl(whole, control), backwards - kl(control, whole)
    torch.testing.assert_close(mean, exact)
    found = gradients(mean, logits)
    torch.testing.assert_close(found[1:], gradients(exact, logits)[1:])
    torch.testing.assert_close(found[0], gradients(backwards, logits)[0])
    assert (found[0] - gradients(exact, logits)[0]).abs().max() > 1e-3, "they can be told apart"


def test_double_entropy_draws_the_masked_image_to_the_whole_one(distributions):
    logits, (whole, masked, _) = distributions
    mean = whole.exp().detach() @ TERMS["double_entropy"].value(whole, masked)
    found = gradients(mean, logits)
    torch.testing.assert_close(found[0], torch.zeros_like(found[0]))
    torch.testing.assert_close(found[1], gradients(-kl(whole.detach(), masked), logits)[1])


@pytest.mark.parametrize("name", ["perception", "evidence", "differential"])
@pytest.mark.parametrize("far", [-1e4, -30.0, 30.0])
def test_there_is_nothing_to_gain_beyond_the_bound(name, far):
    inputs = [torch.zeros(1, requires_grad=True)] + [
        torch.full((1,), far, requires_grad=True) for _ in TERMS[name].VIEWS
    ]
    values = TERMS[name].value(*inputs)
    assert values.abs().max() <= 10
    for gradient in torch.autograd.grad(values.sum(), inputs):
        assert gradient.abs().max() == 0


def test_a_policy_that_heeds_any_change_gains_nothing_by_the_difference():
    """It does by the evidence alone."""
    whole, changed = -torch.rand(50), -3 * torch.rand(50)
    assert TERMS["evidence"].value(whole, changed).mean() > 0.05
    assert not TERMS["differential"].value(whole, changed, changed).any()
    before = TERMS["preference"].value(whole, whole, whole)
    assert torch.equal(TERMS["preference"].value(whole, changed, changed), before)


# ------------------------------------------------------------------------------------- images


def test_changed_prompts_differ_in_their_image_alone(groups, cache):
    config = settings()
    made = changed_trunks(groups, cache, config)
    assert made.keys() == {"masked", "without_evidence", "without_control"}
    assert made["without_control"][0] is not None
    assert made["without_evidence"][1] is made["without_control"][1] is None
    for trunks in made.values():
        for group, trunk in zip(groups, trunks, strict=True):
            if trunk is not None:
                assert torch.equal(trunk.input_ids, group.trunk.input_ids)
                assert torch.equal(trunk.image_grid_thw, group.trunk.image_grid_thw)
                assert not torch.equal(trunk.pixel_values, group.trunk.pixel_values)
                assert set(trunk.image_keys).isdisjoint(group.trunk.image_keys)
    record = groups[0].task.record
    expected = cache.prepared(record.shown, evidence_of(record, cache))
    assert torch.equal(made["without_evidence"][0].pixel_values, expected.pixel_values)
    kept = cache.prepared(record.shown, evidence_of(record, cache)).pixel_values
    assert not torch.equal(made["without_control"][0].pixel_values, kept)


def test_six_of_ten_patches_are_black_and_others_each_time(groups, cache):
    config = settings(objectives="perception=0.01")
    again = [replace(groups[0], task=replace(groups[0].task, prompt_index=i)) for i in range(40)]
    trunks = changed_trunks(again, cache, config)["masked"]
    assert changed_trunks(again[:1], cache, config)["masked"][0].image_keys == trunks[0].image_keys
    whole = groups[0].trunk.pixel_values
    mean, std = (torch.tensor(getattr(cache.processor.image_processor, f"image_{name}"))
                 for name in ("mean", "std"))  # fmt: skip
    black = (-mean / std).repeat_interleave(whole.shape[1] // 3)
    shares = []
    for trunk in trunks:
        is_black = (trunk.pixel_values - black).abs().amax(dim=1) < 1e-5
        assert torch.equal(trunk.pixel_values[~is_black], whole[~is_black])
        shares.append((is_black & ~((whole - black).abs().amax(dim=1) < 1e-5)).float().sum())
    tissue = (~((whole - black).abs().amax(dim=1) < 1e-5)).sum()
    assert float(torch.stack(shares).mean() / tissue) == pytest.approx(0.6, abs=0.03)
    assert len({tuple(trunk.image_keys) for trunk in trunks}) == 40


def test_completions_with_the_right_answer_are_marked(groups, cache, processor):
    config = settings(objectives="preference=1")
    said = [[record.task.record.gold, "nothing of it"] for record in groups]
    own = [
        replace(
            group,
            parsed=tuple(
                replace(parsed, answer=answer)
                for parsed, answer in zip(group.parsed, answers, strict=True)
            ),
        )
        for group, answers in zip(groups, said, strict=True)
    ]
    others = changed_trunks(own, cache, config)
    (part,) = micro_batches(own, torch.ones(2, 2), processor, config, alone(), others)
    assert torch.equal(part.changed.right, part.batch.branch_index % 2 == 0)


def test_what_is_shown_without_a_part_already_is_left_out(groups, cache):
    task = replace(groups[0].task, view="without_evidence")
    made = changed_trunks([replace(groups[0], task=task)], cache, settings())
    assert made["without_evidence"] == made["without_control"] == [None]
    assert made["masked"] != [None]


# ------------------------------------------------------------------------------------- updates


def stepped(model, groups, others, processor, config, optimizer_of=torch.optim.SGD):
    """How one update moves each weight of the head, and what it tells."""
    head = model.lm_head.weight
    start = head.detach().clone()
    accelerator = alone(config.gradient_accumulation_steps)
    advantages = torch.linspace(-1, 1, 2 * len(groups)).reshape(-1, 2)
    batches = micro_batches(groups, advantages, processor, config, accelerator, others)
    ((parts, _),) = updates_of(batches, groups, config)
    model.zero_grad()
    meters = Meters()
    update(accelerator, LogprobModel(model), optimizer_of([head], lr=1.0), parts, config, meters)
    moved = head.detach() - start
    with torch.no_grad():
        head.copy_(start)
    return moved, meters.reduce(alone())


def test_an_image_that_is_not_changed_changes_nothing(groups, fresh_model, processor):
    own = [group.trunk for group in groups]
    same = dict.fromkeys(("masked", "without_evidence", "without_control"), own)
    moved, told = stepped(fresh_model, groups, same, processor, settings())
    plain, without = stepped(fresh_model, groups, {}, processor, settings(objectives=""))
    torch.testing.assert_close(moved, plain, atol=1e-5, rtol=1e-4)
    for name in ("perception", "evidence", "differential"):
        assert told[f"objectives/{name}"] == pytest.approx(0, abs=1e-6)
    assert told["loss"] == pytest.approx(without["loss"], abs=1e-6)
    assert not any(name.startswith("objectives") for name in without)
    for name in ("entropy", "logprob_drift", "clip_ratio/region_mean"):
        assert told[name] == pytest.approx(without[name], abs=1e-5), "of whole images alone"


def test_a_model_that_does_not_look_is_worth_nothing(groups, cache, processor):
    config = settings()
    table = torch.nn.Embedding(200_000, 1)

    def blind(batch, **_):
        values = torch.nn.functional.logsigmoid(table(batch.target_ids)[:, 0])
        return TokenLogprobs(values, None, values.detach())

    others = changed_trunks(groups, cache, config)
    (part,) = micro_batches(groups, torch.ones(2, 2), processor, config, alone(), others)
    meters = Meters()
    total = objective_of(blind(part.scored).logprobs, part, config, meters)
    assert total == 0
    total.backward()
    assert not table.weight.grad.any()
    told = meters.reduce(alone())
    assert [told[f"objectives/{n}"] for n in ("perception", "evidence", "differential")] == [0] * 3


def test_an_update_does_not_depend_on_the_split(groups, cache, fresh_model, processor):
    """One of the micro-batches has no evidence at all."""
    config = settings()
    others = changed_trunks(groups, cache, config)
    whole, told = stepped(fresh_model, groups, others, processor, config)
    split = settings(per_device_train_batch_size=1, gradient_accumulation_steps=2)
    parts, also = stepped(fresh_model, groups, others, processor, split)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-3)
    assert also == pytest.approx(told, rel=1e-3, abs=1e-5)
    plain, without = stepped(fresh_model, groups, {}, processor, settings(objectives=""))
    assert (whole - plain).abs().max() > 100 * (whole - parts).abs().max()
    weights = {"perception": 0.5, "evidence": 1.0, "differential": 2.0}
    counted = {"perception": 1.0}  # the shares of the step's tokens that they are of
    with_evidence, every = (
        sum(len(c.token_ids) for group in part for c in group.completions)
        for part in (groups[:1], groups)
    )
    counted |= dict.fromkeys(("evidence", "differential"), with_evidence / every)
    gained = sum(weights[n] * counted[n] * told[f"objectives/{n}"] for n in weights)
    assert told["loss"] == pytest.approx(without["loss"] - gained, abs=1e-5)


def test_a_prompt_without_evidence_adds_nothing(groups, cache, fresh_model, processor):
    own = groups[1:]
    config = settings(objectives="evidence=1.0,differential=1.0")
    others = changed_trunks(own, cache, config)
    found = stepped(fresh_model, own, others, processor, config)
    plain = stepped(fresh_model, own, {}, processor, settings(objectives=""))
    torch.testing.assert_close(found[0], plain[0], atol=0, rtol=0)
    assert found[1] == plain[1]
    meters = Meters()
    record_absent(meters, others, config)
    assert set(meters.reduce(alone()).values()) == {1.0}


@pytest.mark.parametrize("name", ["evidence", "differential", "preference"])
def test_an_update_raises_its_objective(groups, cache, fresh_model, processor, name):
    config = settings(objectives=f"{name}=1.0")
    others = changed_trunks(groups[:1], cache, config)
    parameters = [p for n, p in fresh_model.named_parameters() if "visual" not in n]
    optimizer = torch.optim.SGD(parameters, lr=1e-2)
    values = []
    for _ in range(2):
        batches = micro_batches(groups[:1], torch.zeros(1, 2), processor, config, alone(), others)
        assert not batches[0].changed.right.any(), "ten tokens are no answer"
        changed = replace(batches[0].changed, right=torch.ones_like(batches[0].changed.right))
        batches = [replace(batches[0], changed=changed)]
        meters = Meters()
        update(alone(), LogprobModel(fresh_model), optimizer, batches, config, meters)
        values.append(meters.reduce(alone())[f"objectives/{name}"])
    assert values[1] > values[0]


# ---------------------------------------------------------------------------------------- runs


@pytest.mark.slow
def test_a_run_tells_of_its_objectives(trained, tmp_path):
    config = GrpoConfig(
        sft_ckpt=str(trained["sft"]), data=str(trained["data"]), output_dir=str(tmp_path),
        objectives="perception=0.01,double_entropy=0.03,differential=0.01", max_steps=2,
        per_device_train_batch_size=2, gradient_accumulation_steps=2, num_generations=2,
        max_completion_length=24, weights="format=1", save_steps=0, log_completions=False,
        report_to=["none"], learning_rate=1e-3, inpainting="mean",
    )  # fmt: skip
    assert train(config) == 0
    for row in rows(tmp_path):
        assert row["objectives/perception"] > 0
        assert row["objectives/double_entropy"] < 0
        assert row["objectives/perception/absent"] == 0
        assert 0 <= row["objectives/differential/absent"] <= 1
        assert "objectives/evidence" not in row


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("looking=0.1", "no objective is called 'looking'"),
        ("perception", "are numbers"),
        ("perception=0.1,perception=0.2", "named twice"),
        ("perception=-0.1", "at least 0"),
        ("perception=nan", "at least 0"),
    ],
)
def test_what_is_no_objective_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        settings(objectives=text)


def test_evidence_that_no_record_has_is_missed_before_a_model_is_loaded(groups):
    records = [group.task.record for group in groups]
    require_evidence(records, settings(objectives="evidence=1"))
    require_evidence(records[1:], settings(objectives="perception=1"))
    with pytest.raises(ConfigError, match="no record has any"):
        require_evidence(records[1:], settings(objectives="perception=1,evidence=1"))
