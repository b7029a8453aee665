"""What an update passes on of its configuration to the loss."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from kit.grpo import updates
from kit.grpo.config import GrpoConfig
from kit.grpo.losses import grpo_loss, importance_weights
from kit.model.logprobs import TokenLogprobs
from kit.run.metrics import Meters

ALONE = SimpleNamespace(
    num_processes=1,
    accumulate=lambda model: contextlib.nullcontext(),
    backward=lambda loss: loss.backward(),
)
OWNER_K = torch.tensor([0, 0, 1])
KEPT_K = torch.tensor([True, False, True])


@pytest.mark.parametrize(
    ("changes", "passed"),
    [
        ({}, {"owner_K": None, "cispo": False, "delta": None, "epsilon_high": 0.2, "beta": 0.04}),
        ({"importance_sampling_level": "sequence"}, {"owner_K": OWNER_K}),
        ({"loss_type": "cispo", "epsilon_high": 5.0}, {"cispo": True, "epsilon_high": 5.0}),
        ({"delta": 1.5, "epsilon": 0.1}, {"delta": 1.5, "epsilon": 0.1, "epsilon_high": 0.1}),
        ({"use_bias_correction_kl": False, "beta": 0.3}, {"bias_correction": False, "beta": 0.3}),
        ({"importance_sampling_cap": 0.0}, {"correction_K": None}),
        ({"importance_sampling_mode": "token_mask"}, {"mode": "token_mask", "least": 0.0}),
        (
            {"importance_sampling_mode": "sequence_truncate", "importance_sampling_min": 0.5},
            {"mode": "sequence_truncate", "least": 0.5},
        ),
    ],
)
def test_every_option_of_the_loss_reaches_it(changes, passed, monkeypatch):
    given = {"kept_K": None}

    def loss(*arguments, **options):
        given.update(options)
        return grpo_loss(*arguments, **options)

    def weights(*arguments, **options):
        given.update(options)
        return importance_weights(*arguments, **options)

    def take_step(accelerator, model, optimizer, norm):
        return 1.0, True

    for one in (("grpo_loss", loss), ("importance_weights", weights), ("take_step", take_step)):
        monkeypatch.setattr(updates, *one)
    logprobs_K = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    part = SimpleNamespace(
        scored=None, batch=SimpleNamespace(branch_index=OWNER_K), old=None, reference=None,
        sampled=logprobs_K.detach() - 0.1, advantages=torch.ones(3), weights=torch.ones(3) / 3,
        kept=KEPT_K, changed=None,
    )  # fmt: skip
    config = GrpoConfig(base_model="tiny", data="x", gradient_accumulation_steps=1, **changes)
    model = lambda *_, **__: TokenLogprobs(logprobs_K, torch.zeros(3), logprobs_K.detach())  # noqa: E731
    updates.update(ALONE, model, None, [part], config, Meters())
    assert logprobs_K.grad.any()
    assert given["kept_K"] is KEPT_K
    for name, value in passed.items():
        assert given[name] is value or given[name] == value, name
