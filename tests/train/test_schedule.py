"""The plan of a run's steps: learning rate, what is due when, and leaving early."""

from types import SimpleNamespace

import pytest
import torch

from kit.run import process
from kit.run.checkpoint import checkpoints, step_of
from kit.run.metrics import mean_metrics
from kit.run.stop import EXIT_STOPPED
from kit.train.config import SftConfig
from kit.train.schedule import Schedule


def schedule_of(folder, *, start=None, **settings) -> Schedule:
    config = SftConfig(
        base_model="tiny", data="x", output_dir=str(folder), report_to=["none"],
        **{"learning_rate": 1.0, "save_total_limit": 9} | settings,
    )  # fmt: skip
    accelerator = process.join()
    model = torch.nn.Linear(1, 1)
    optimizer = accelerator.prepare(torch.optim.AdamW(model.parameters(), lr=config.learning_rate))
    return Schedule(
        config, accelerator, model, optimizer, start=start, n_records=50, batch=4, name="x"
    )


class Stop:
    """A request to stop at a step."""

    exit_code = EXIT_STOPPED

    def __init__(self, schedule: Schedule, step: int | None = None):
        self.schedule, self.step = schedule, step

    def agreed(self, accelerator) -> bool:
        return self.schedule.progress.step == self.step

    def answered(self, accelerator) -> None:
        pass


def walk(schedule: Schedule, stop_at: int | None = None) -> int | None:
    """All steps that are left; the code with which it leaves."""
    stop = Stop(schedule, stop_at)
    while not schedule.at_end:
        schedule.optimizer.step()
        schedule.progress.since_log.append({"loss": float(schedule.progress.step)})
        schedule.advance()
        schedule.log_metrics(mean_metrics)
        if (code := schedule.save_or_leave(stop)) is not None:
            return code
    return None


def logged(schedule: Schedule, monkeypatch) -> list[tuple[int, dict]]:
    rows = []
    monkeypatch.setattr(schedule.log, "log", lambda step, metrics: rows.append((step, metrics)))
    return rows


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({"max_steps": 7}, 7), ({"num_train_epochs": 2.0}, 25), ({"num_train_epochs": 0.01}, 1)],
)
def test_as_many_steps_as_were_asked_for(settings, steps, tmp_path):
    assert schedule_of(tmp_path, **settings).total_steps == steps


def test_each_step_is_told_with_the_learning_rate_that_it_had(tmp_path, monkeypatch):
    settings = {"max_steps": 6, "warmup_steps": 2, "lr_scheduler_type": "linear"}
    schedule = schedule_of(tmp_path, logging_steps=1, save_steps=0, **settings)
    rows = logged(schedule, monkeypatch)
    walk(schedule)
    rates = [row["learning_rate"] for _, row in rows]
    assert rates == pytest.approx([0, 0.5, 1, 0.75, 0.5, 0.25])


def test_a_share_of_the_steps_warms_up_and_is_not_rounded_to_none(tmp_path, monkeypatch):
    schedule = schedule_of(
        tmp_path, max_steps=20, warmup_ratio=0.03, lr_scheduler_type="constant_with_warmup",
        logging_steps=1, save_steps=0,
    )  # fmt: skip
    rows = logged(schedule, monkeypatch)
    walk(schedule)
    assert [row["learning_rate"] for _, row in rows][:3] == [0, 1, 1]


def test_metrics_are_means_over_the_steps_since_the_last(tmp_path, monkeypatch):
    schedule = schedule_of(tmp_path, max_steps=5, logging_steps=2, save_steps=0)
    rows = logged(schedule, monkeypatch)
    walk(schedule)
    assert [(step, row["loss"]) for step, row in rows] == [(2, 0.5), (4, 2.5), (5, 4.0)]


@pytest.mark.parametrize(("every", "saved"), [(0, []), (2, [2, 4, 5]), (5, [5]), (9, [5])])
def test_checkpoints_are_made_when_due_and_at_the_end(every, saved, tmp_path):
    schedule = schedule_of(tmp_path, max_steps=5, save_steps=every)
    assert walk(schedule) is None
    assert sorted(map(step_of, checkpoints(tmp_path))) == saved


@pytest.mark.parametrize("every", [0, 2])
def test_a_stopped_run_saves_leaves_and_goes_on(every, tmp_path):
    settings = {"max_steps": 5, "save_steps": every}
    assert walk(schedule_of(tmp_path, **settings), stop_at=3) == EXIT_STOPPED
    newest = checkpoints(tmp_path)[0]
    assert step_of(newest) == 3
    again = schedule_of(tmp_path, start=newest, **settings)
    assert again.progress.step == 3
    assert walk(again) is None


def test_a_run_that_is_stopped_at_its_last_step_has_ended(tmp_path):
    schedule = schedule_of(tmp_path, max_steps=3, save_steps=0)
    assert walk(schedule, stop_at=3) is None


def test_skipped_updates_in_a_row_end_the_run_at_the_limit(tmp_path):
    schedule = schedule_of(tmp_path, max_steps=9, max_skipped_steps=2, save_steps=0)
    record = SimpleNamespace(dataset="", qid="1", image="a.png", question="?")
    schedule.count_skipped(False, [(record, False)])
    schedule.count_skipped(True, [])
    schedule.count_skipped(False, [(record, False)])
    with pytest.raises(Exception, match=r"2 updates in a row .* a\.png"):
        schedule.count_skipped(False, [(record, False)])
