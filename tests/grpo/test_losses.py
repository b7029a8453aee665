"""The GRPO loss against a plain float64 reference and against TRL's own code."""

import inspect
import math
import textwrap
from collections import defaultdict
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from kit.grpo.config import GrpoConfig
from kit.grpo.losses import grpo_loss, importance_weights, token_weights
from kit.grpo.microbatches import entropy_reached, micro_batches
from kit.grpo.rollout import Group
from kit.grpo.updates import updates_of
from kit.model.sampler import Completion
from kit.model.sharing import Trunk

LOSS_TYPES = ("grpo", "dr_grpo", "bnpo", "dapo")
OPTIONS = (
    {"level": "sequence"}, {"delta": 1.4}, {"level": "sequence", "delta": 1.3}, {"forking": 0.3},
)  # fmt: skip
LONGEST = 12


@pytest.fixture(params=range(4))
def batch(request):
    """Completions of different lengths: padded (B, T) tensors and which places are real."""
    torch.manual_seed(torch.initial_seed() + request.param)
    lengths = torch.randint(1, LONGEST + 1, (6,))
    mask = (torch.arange(LONGEST) < lengths[:, None]).float()
    logprobs = -2 * torch.rand(6, LONGEST)
    return SimpleNamespace(
        mask=mask,
        logprobs=logprobs,
        old=logprobs + 0.3 * torch.randn(6, LONGEST),
        reference=logprobs + 0.5 * torch.randn(6, LONGEST),
        advantages=torch.randn(6),
        entropy=torch.rand(6, LONGEST),
        sampled=logprobs + 0.3 * torch.randn(6, LONGEST),
    )


ALONE = SimpleNamespace(
    num_processes=1, gather=lambda x: x, gather_for_metrics=lambda x: x, sync_gradients=True,
    device="cpu", reduce=lambda x, reduction: x, pad_across_processes=lambda x, dim, pad_index: x,
)  # fmt: skip


def own_loss(
    batch, loss_type, *, beta, iterations, epsilon, epsilon_high, corrected=True, counted=None,
    level="token", delta=None, forking=1.0, correction=None,
):  # fmt: skip
    """The kit's loss on the flat tokens, and its gradient in padded form."""
    counted = torch.ones(6, dtype=torch.bool) if counted is None else counted
    real = batch.mask.bool()
    owner = torch.arange(6)[:, None].expand_as(real)[real]
    logprobs = batch.logprobs[real].clone().requires_grad_()
    weights = token_weights(
        owner,
        counted,
        loss_type=loss_type,
        n_completions=6,
        n_tokens=float(batch.mask[counted].sum()),
        max_completion_length=LONGEST,
    )
    entropy = batch.entropy[real]
    kept = entropy >= entropy_reached(entropy, forking, ALONE) if forking < 1 else None
    result = grpo_loss(
        logprobs,
        batch.old[real] if iterations > 1 else logprobs.detach(),
        batch.reference[real] if beta else None,
        batch.advantages[owner],
        weights,
        epsilon=epsilon,
        epsilon_high=epsilon_high,
        beta=beta,
        bias_correction=corrected,
        owner_K=owner if level == "sequence" else None,
        kept_K=kept,
        delta=delta,
        cispo=loss_type == "cispo",
        correction_K=correction
        and importance_weights(batch.old[real], batch.sampled[real], owner_K=owner, **correction),
    )
    result.loss.backward()
    gradient = torch.zeros_like(batch.logprobs)
    gradient[real] = logprobs.grad
    return result, gradient


def reference_loss(
    batch, loss_type, *, beta, iterations, epsilon, epsilon_high, corrected=True, counted=None
):
    """Equations 3 and 4 of DeepSeekMath token by token in float64, the KL term times the ratio or
    not, and each paper's mean."""
    logprobs = batch.logprobs.double().clone().requires_grad_()
    old = batch.old.double() if iterations > 1 else logprobs.detach()
    total = torch.zeros((), dtype=torch.float64)
    lengths = batch.mask.sum(dim=1)
    used = [i for i in range(6) if counted is None or counted[i]]
    for i in used:
        for t in range(int(lengths[i])):
            ratio = (logprobs[i, t] - old[i, t]).exp()
            clipped = min(max(ratio.item(), 1 - epsilon), 1 + epsilon_high)
            advantage = batch.advantages[i].double()
            keep = ratio * advantage <= clipped * advantage
            term = -(ratio * advantage if keep else clipped * advantage)
            if beta:
                gap = batch.reference[i, t].double() - logprobs[i, t]
                term = term + beta * (gap.exp() - gap - 1) * (ratio if corrected else 1)
            share = {
                "grpo": 1 / (6 * float(lengths[i])),
                "dr_grpo": 1 / (6 * LONGEST),
                "bnpo": 1 / float(lengths[used].sum()),
                "dapo": 1 / float(lengths[used].sum()),
            }[loss_type]
            total = total + share * term
    total.backward()
    return total, logprobs.grad


def trl_loss(
    batch, loss_type, *, beta, iterations, epsilon, epsilon_high, corrected=True, level="token",
    delta=None, forking=1.0, correction=None, accumulation=1, generation=1, tokens=None,
):  # fmt: skip
    """``GRPOTrainer._compute_loss`` itself, with a stand-in for the trainer around it."""
    trainer = pytest.importorskip("trl.trainer.grpo_trainer", exc_type=ImportError)
    logprobs = batch.logprobs.clone().requires_grad_()
    stand_in = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (
            logprobs, batch.entropy, None,
        ),
        aux_loss_enabled=False, top_entropy_quantile=forking, off_policy_mask_threshold=None,
        importance_sampling_level=level, beta=beta, loss_type=loss_type, epsilon_low=epsilon,
        epsilon_high=epsilon_high, use_vllm=bool(correction), _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=accumulation, max_completion_length=LONGEST,
        model=SimpleNamespace(training=True), accelerator=ALONE,
        vllm_importance_sampling_correction=True,
        args=SimpleNamespace(
            use_bias_correction_kl=corrected, delta=delta, steps_per_generation=generation
        ),
        _metrics={"train": defaultdict(list)},
    )  # fmt: skip
    stand_in.get_high_entropy_mask = partial(trainer.GRPOTrainer.get_high_entropy_mask, stand_in)
    rows = len(batch.mask)
    inputs = {
        "prompt_ids": torch.zeros(rows, 3, dtype=torch.long),
        "prompt_mask": torch.ones(rows, 3),
        "completion_ids": torch.zeros(rows, LONGEST, dtype=torch.long),
        "completion_mask": batch.mask,
        "advantages": batch.advantages,
        "ref_per_token_logps": batch.reference,
        "num_items_in_batch": batch.mask.sum() if tokens is None else tokens,
        "importance_sampling_ratio": correction and trl_correction(batch, **correction),
    }
    if iterations > 1:
        inputs["old_per_token_logps"] = batch.old
    loss = trainer.GRPOTrainer._compute_loss(stand_in, None, inputs)
    loss.backward()
    return loss, logprobs.grad, stand_in._metrics["train"]


def trl_correction(batch, *, mode, cap, least):
    """What the lines of TRL's trainer make of the log-probabilities of policy and sampler."""
    trainer = pytest.importorskip("trl.trainer.grpo_trainer", exc_type=ImportError)
    source = inspect.getsource(trainer.GRPOTrainer._generate_and_score_completions)
    first = "            if self.use_vllm and self.vllm_importance_sampling_correction:\n"
    start = source.index(first + "                mask = ")
    end = source.index("            # Compute the per-token log probabilities for the reference")
    stand_in = SimpleNamespace(
        use_vllm=True, vllm_importance_sampling_correction=True, vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_max=cap, vllm_importance_sampling_clip_min=least,
    )  # fmt: skip
    names = {
        "self": stand_in, "torch": torch, "math": math, "completion_mask": batch.mask,
        "tool_mask": None, "old_per_token_logps": batch.old,
        "sampling_per_token_logps": batch.sampled,
    }  # fmt: skip
    exec(textwrap.dedent(source[start:end]), names)
    return names["vllm_importance_sampling_ratio"]


CASES = [
    pytest.param(
        {"beta": beta, "iterations": iterations, "epsilon": 0.2, "epsilon_high": high}
        | {"corrected": corrected},
        id=name,
    )
    for name, beta, iterations, high, corrected in (
        ("plain", 0.0, 1, 0.2, True),
        ("kl", 0.3, 1, 0.2, True),
        ("reverse kl", 0.3, 1, 0.2, False),
        ("two iterations", 0.0, 2, 0.28, True),
        ("kl, two iterations", 0.3, 2, 0.28, True),
        ("reverse kl, two iterations", 0.3, 2, 0.28, False),
    )
]


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_equal_the_reference(batch, loss_type, case):
    own, gradient = own_loss(batch, loss_type, **case)
    loss, expected = reference_loss(batch, loss_type, **case)
    torch.testing.assert_close(own.loss.double(), loss, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradient.double(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_uncounted_completions_have_no_part_in_it(batch, loss_type):
    counted = torch.tensor([True, False, True, True, False, True])
    case = {"beta": 0.3, "iterations": 2, "epsilon": 0.2, "epsilon_high": 0.2, "counted": counted}
    own, gradient = own_loss(batch, loss_type, **case)
    loss, expected = reference_loss(batch, loss_type, **case)
    torch.testing.assert_close(own.loss.double(), loss, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradient.double(), expected, atol=1e-6, rtol=1e-6)
    assert gradient[~counted].abs().max() == 0


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_equal_trl(batch, loss_type, case):
    own, gradient = own_loss(batch, loss_type, **case)
    loss, expected, metrics = trl_loss(batch, loss_type, **case)
    torch.testing.assert_close(own.loss, loss, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-6)
    if case["beta"]:
        assert own.kl.mean().item() == pytest.approx(metrics["kl"][0], abs=1e-6)


@pytest.mark.parametrize("loss_type", [*LOSS_TYPES, "cispo"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("case", [case.values[0] for case in CASES[-3:]], ids=range(3))
def test_sequence_ratios_and_two_sided_clipping_equal_trl(batch, loss_type, options, case):
    """And cispo, under which epsilon_high is the largest weight itself."""
    case = case | options | ({"epsilon_high": 1.1} if loss_type == "cispo" else {})
    own, gradient = own_loss(batch, loss_type, **case)
    loss, expected, metrics = trl_loss(batch, loss_type, **case)
    torch.testing.assert_close(own.loss, loss, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-6)
    if loss_type == "cispo" and options.get("level") != "sequence":
        (clipped,) = metrics["cispo_clip_ratio"]
        assert own.clipped_high.float().mean().item() == pytest.approx(clipped, abs=1e-6)
        assert not own.clipped_low.any()
        if "forking" not in options:
            assert gradient[batch.mask.bool()].abs().min() > 0, "no token's gradient is lost"


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "cispo"])
@pytest.mark.parametrize("least", [0.0, 0.8])
@pytest.mark.parametrize(
    "mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
)
def test_corrections_of_the_sampler_equal_trl(batch, loss_type, mode, least):
    case = CASES[-2].values[0] | {"correction": {"mode": mode, "cap": 1.2, "least": least}}
    own, gradient = own_loss(batch, loss_type, **case)
    loss, expected, _ = trl_loss(batch, loss_type, **case)
    torch.testing.assert_close(own.loss, loss, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-6)


def rows_of(batch, chosen) -> SimpleNamespace:
    return SimpleNamespace(**{name: values[chosen] for name, values in vars(batch).items()})


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "cispo"])
@pytest.mark.parametrize(("accumulation", "generation"), [(1, 3), (3, 3), (2, 6)])
def test_the_updates_of_a_generation_equal_trl(batch, loss_type, accumulation, generation):
    """In their order too: which completions, and what each of them counts."""
    trainer = pytest.importorskip("trl.trainer.grpo_trainer", exc_type=ImportError)
    case = CASES[-2].values[0]
    each = 6 // generation
    config = GrpoConfig(
        base_model="tiny", data="x", per_device_train_batch_size=1, num_iterations=2,
        gradient_accumulation_steps=accumulation, steps_per_generation=generation,
        loss_type=loss_type, max_completion_length=LONGEST, epsilon_high=case["epsilon_high"] + 1,
    )  # fmt: skip
    image = {"pixel_values": torch.zeros(4, 3), "image_grid_thw": torch.tensor([[1, 2, 2]])}
    trunk = Trunk(torch.tensor([9, 1]), image_token_id=9, image_keys=("x",), **image)
    said = [Completion((0,) * int(n), (0.0,) * int(n), False) for n in batch.mask.sum(dim=1)]
    groups = [
        Group(SimpleNamespace(row=start), trunk, tuple(said[start : start + each]), ())
        for start in range(0, 6, each)
    ]
    processor = SimpleNamespace(image_processor=SimpleNamespace(merge_size=2))
    advantages = batch.advantages.reshape(-1, each)
    made = micro_batches(groups, advantages, processor, config, ALONE)
    updates = updates_of(made, groups, config)

    stand_in = SimpleNamespace(
        model=SimpleNamespace(training=True), args=config, num_iterations=2, _step=0,
        _buffered_inputs=None, _generate_and_score_completions=lambda inputs: inputs,
    )  # fmt: skip
    theirs = []
    for stand_in._step in range(2 * generation):
        inputs = {"row": torch.arange(6)}
        theirs.append(trainer.GRPOTrainer._prepare_inputs(stand_in, inputs)["row"])
    assert len(updates) * accumulation == len(theirs)
    torch.testing.assert_close(torch.stack(theirs[generation:]), torch.stack(theirs[:generation]))
    assert torch.stack(theirs[:generation]).unique().tolist() == list(range(6))

    for number, (parts, own) in enumerate(updates):
        first = number * accumulation % generation
        assert [group.task.row for group in own] == [
            each * (first + place) for place in range(accumulation)
        ]
        total, gradients = 0.0, []
        for part, group in zip(parts, own, strict=True):
            chosen = rows_of(batch, slice(group.task.row, group.task.row + each))
            real = chosen.mask.bool()
            logprobs = chosen.logprobs[real].clone().requires_grad_()
            loss = grpo_loss(
                logprobs, chosen.old[real], chosen.reference[real], part.advantages, part.weights,
                epsilon=0.2, epsilon_high=config.epsilon_high, beta=0.3,
                cispo=loss_type == "cispo",
            )  # fmt: skip
            loss.loss.backward()
            expected, gradient, _ = trl_loss(
                chosen, loss_type, **case | {"epsilon_high": config.epsilon_high},
                accumulation=accumulation, generation=generation, tokens=batch.mask.sum(),
            )  # fmt: skip
            torch.testing.assert_close(logprobs.grad, gradient[real], atol=1e-6, rtol=1e-6)
            total += float(loss.loss.detach() - expected.detach())
            gradients.append(logprobs.grad)
        assert total == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("corrected", [True, False])
def test_the_gradient_of_the_penalty_is_that_of_the_exact_divergence(corrected):
    """Of a distribution over six tokens, each drawn as often as it is likely."""
    logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
    policy = logits.log_softmax(0)
    reference = torch.randn(6, dtype=torch.float64).log_softmax(0)
    exact = {
        True: (policy.exp() * (policy - reference)).sum(),  # KL(policy||reference)
        False: (reference.exp() * (reference - policy)).sum(),  # KL(reference||policy)
    }
    penalty = grpo_loss(
        policy, policy.detach(), reference, torch.zeros(6), policy.exp().detach(),
        epsilon=0.2, epsilon_high=0.2, beta=1.0, bias_correction=corrected,
    )  # fmt: skip
    found, wanted, other = (
        torch.autograd.grad(scalar, logits, retain_graph=True)[0]
        for scalar in (penalty.loss, exact[corrected], exact[not corrected])
    )
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
    assert (found - other).abs().max() > 1e-3


def test_every_token_weighs_what_its_loss_type_says():
    """A worked example: lengths 1 and 3."""
    owner, both = torch.tensor([0, 1, 1, 1]), torch.tensor([True, True])
    sizes = {"n_completions": 2, "n_tokens": 4, "max_completion_length": 8}
    expected = {
        "grpo": [1 / 2, 1 / 6, 1 / 6, 1 / 6],
        "dr_grpo": [1 / 16] * 4,
        "bnpo": [1 / 4] * 4,
        "dapo": [1 / 4] * 4,
    }
    for loss_type, weights in expected.items():
        found = token_weights(owner, both, loss_type=loss_type, **sizes)
        torch.testing.assert_close(found, torch.tensor(weights))


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_weights_do_not_depend_on_how_the_step_is_split(loss_type):
    """Three completions in one micro-batch, or one and two."""
    owner, counted = torch.tensor([0, 0, 0, 1, 2, 2]), torch.tensor([True, True, True])
    step = {"loss_type": loss_type, "n_completions": 3, "n_tokens": 6, "max_completion_length": 8}
    whole = token_weights(owner, counted, **step)
    first = token_weights(owner[:3], counted[:1], **step)
    rest = token_weights(owner[3:] - 1, counted[1:], **step)
    torch.testing.assert_close(torch.cat([first, rest]), whole)


def test_a_token_is_clipped_where_that_takes_its_gradient_away(batch):
    case = {"beta": 0.0, "iterations": 2, "epsilon": 0.1, "epsilon_high": 0.2}
    own, gradient = own_loss(batch, "dapo", **case)
    clipped = own.clipped_low | own.clipped_high
    assert clipped.any()
    assert torch.equal(clipped, gradient[batch.mask.bool()] == 0)
    assert not (own.clipped_low & own.clipped_high).any()


@pytest.mark.parametrize("cap", [0.0, 1e9, 1.5])
def test_samples_of_another_model_count_as_the_policys_own(cap):
    """Exactly, over all words: each as often as the sampler says it gives, corrected, the gradient
    that each gives as often as the policy says it; with a cap no word counts for more."""
    torch.manual_seed(3)
    scores = torch.randn(9, dtype=torch.float64, requires_grad=True)
    sampler = torch.randn(9, dtype=torch.float64).log_softmax(0)
    advantages = torch.randn(9, dtype=torch.float64)

    def gradient(often, correction) -> torch.Tensor:
        logprobs = scores.log_softmax(0)
        loss = grpo_loss(
            logprobs, logprobs.detach(), None, advantages, often,
            epsilon=0.2, epsilon_high=0.2, beta=0.0, correction_K=correction,
        ).loss  # fmt: skip
        return torch.autograd.grad(loss, scores)[0]

    policy = scores.detach().log_softmax(0)
    found = gradient(sampler.exp(), importance_weights(policy, sampler, cap))
    often = {0.0: sampler.exp(), 1.5: torch.minimum(policy.exp(), 1.5 * sampler.exp())}
    assert (policy.exp() > 1.5 * sampler.exp()).any()
    torch.testing.assert_close(
        found, gradient(often.get(cap, policy.exp()), None), atol=1e-6, rtol=0
    )
