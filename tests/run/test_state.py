"""What a checkpoint of a run gives back: everything that the next update depends on."""

import dataclasses
import os
from types import SimpleNamespace

import pytest
import torch
from transformers import get_scheduler

from kit.errors import UserError
from kit.run import process, state
from kit.train.config import SftConfig


class Training:
    """A linear model with AdamW and a schedule that warms up, and one update of it."""

    def __init__(self):
        torch.manual_seed(0)
        self.accelerator = process.join()
        self.model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.optimizer = self.accelerator.prepare(optimizer)
        self.scheduler = get_scheduler("linear", self.optimizer, 4, 20)

    def update(self) -> None:
        """On random numbers, as dropout draws them."""
        loss = self.model(torch.rand(5, 3)).square().sum()
        self.accelerator.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()

    def weights(self) -> list[float]:
        return torch.cat([p.detach().flatten() for p in self.model.parameters()]).tolist()

    @property
    def parts(self):
        return self.model, self.optimizer, self.scheduler


@pytest.fixture
def config(tmp_path):
    return SftConfig(base_model="tiny", data="x", output_dir=str(tmp_path))


PROGRESS = state.Progress(
    step=3, tokens=50, best_loss=0.5, best_step=2, since_log=[{"loss": 1.0}], skipped=2,
    skipped_in_row=1,
)  # fmt: skip


def test_the_next_updates_are_those_of_the_run_that_was_not_cut_off(config):
    before = Training()
    for _ in range(3):
        before.update()
    folder = state.save(config, before.accelerator, *before.parts, PROGRESS)
    for _ in range(2):
        before.update()
    after = Training()
    progress = state.resume(config, folder, after.accelerator, *after.parts)
    assert progress == PROGRESS
    assert after.scheduler.get_last_lr() == [pytest.approx(0.075)]
    for _ in range(2):
        after.update()
    assert after.weights() == before.weights()


def test_every_rank_gets_its_own_random_state_back(config, monkeypatch):
    training = Training()
    torch.manual_seed(7)
    others = {"1.cpu": torch.get_rng_state()}
    expected = torch.rand(3)
    monkeypatch.setattr(state, "gather_object", lambda parts: [*parts, others])  # of two ranks
    torch.manual_seed(5)
    folder = state.save(config, training.accelerator, *training.parts, PROGRESS)
    second = SimpleNamespace(process_index=1, print=print, device=torch.device("cpu"))
    state.resume(config, folder, second, *training.parts)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("harm", ["moved", "cut"])
def test_best_weights_that_are_gone_are_missed_before_the_rest_is_trained(config, tmp_path, harm):
    training = Training()
    state.Progress(step=2).keep_best(0.5, training.accelerator, training.model, tmp_path)
    folder = state.save(config, training.accelerator, *training.parts, PROGRESS)
    going_on = {"resume_from_checkpoint": "latest", "load_best_model_at_end": True}
    wanted = dataclasses.replace(config, eval_data="x", eval_steps=1, **going_on)
    assert state.starting_point(wanted, training.accelerator) == folder
    if harm == "moved":
        (tmp_path / "best").rename(tmp_path / "elsewhere")
    else:
        os.truncate(tmp_path / "best" / "trained.safetensors", 20)
    with pytest.raises(UserError, match="of step 2, cannot be loaded at the end"):
        state.starting_point(wanted, training.accelerator)
    without = dataclasses.replace(wanted, load_best_model_at_end=False)
    assert state.starting_point(without, training.accelerator) == folder


def test_the_best_weights_are_those_of_the_lowest_loss(config, tmp_path):
    training, progress = Training(), state.Progress()
    seen = {}
    for step, loss in enumerate((2.0, 1.0, 1.5, 1.0), start=1):
        training.update()
        progress.step = step
        progress.keep_best(loss, training.accelerator, training.model, tmp_path)
        seen[step] = training.weights()
    assert (progress.best_loss, progress.best_step) == (1.0, 2)
    kept = state.best_weights(tmp_path)
    names = [name for name, _ in training.model.named_parameters()]
    assert torch.cat([kept[name].flatten() for name in names]).tolist() == seen[2]
