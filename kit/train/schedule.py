"""Where a run is in the plan of its steps, and what is due there."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from transformers import get_scheduler

from kit.run import failures, state
from kit.run.runlog import RunLog
from kit.run.stop import StopRequest
from kit.train.config import TrainingConfig


class Schedule:
    """What both loops share: learning rate, resuming, logging, checkpoints and leaving early.

    Args:
        start: the checkpoint to go on from (``state.starting_point``), or None.
        model: holds the trained weights; ``optimizer`` is accelerate's wrapper of their own.
        n_records: in the training data; ``batch`` of them make a step, over all ranks.
        name: of the run, for trackers.
        made_of: what the run is made of (``state.sources_of``).

    Attributes:
        total_steps, progress (``kit.run.state``), log (``kit.run.runlog``).
    """

    def __init__(
        self,
        config: TrainingConfig,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        start: Path | None,
        n_records: int,
        batch: int,
        name: str,
        made_of: dict | None = None,
    ):
        self.config, self.accelerator = config, accelerator
        self.model, self.optimizer, self.made_of = model, optimizer, made_of
        self.total_steps = config.max_steps
        if self.total_steps < 0:
            self.total_steps = max(1, round(config.num_train_epochs * n_records / batch))
        warmup = config.warmup_steps or math.ceil(config.warmup_ratio * self.total_steps)
        self.lr_scheduler = get_scheduler(
            config.lr_scheduler_type, optimizer, warmup, self.total_steps
        )
        self.learning_rate = self.lr_scheduler.get_last_lr()[0]
        self.progress = state.Progress()
        if start:
            self.progress = state.resume(
                config, start, accelerator, model, optimizer, self.lr_scheduler
            )
        self.log = RunLog(
            accelerator,
            config,
            total_steps=self.total_steps,
            first_step=self.progress.step,
            name=name,
            model=model,
        )

    @property
    def at_end(self) -> bool:
        return self.progress.step >= self.total_steps

    def is_due(self, every: int) -> bool:
        """Whether something is due that happens each ``every`` steps (0: never) and at the end."""
        return self.at_end or _is_multiple(self.progress.step, every)

    def count_skipped(self, applied: bool, suspects: list[tuple[failures.Record, bool]]) -> None:
        """Count an update that was not made (``kit.run.failures``)."""
        limit = self.config.max_skipped_steps
        failures.count_skipped(applied, suspects, self.progress, self.log, self.accelerator, limit)

    def advance(self) -> None:
        """A step is done; ``learning_rate`` is the one that it had."""
        self.learning_rate = self.lr_scheduler.get_last_lr()[0]
        self.lr_scheduler.step()
        self.progress.step += 1
        self.log.advance()

    def log_metrics(
        self, means: Callable[[list[dict[str, float]]], dict[str, float]], **also: float
    ) -> bool:
        """Log the ``means`` of what was collected in ``progress.since_log``, if that is due."""
        if not self.is_due(self.config.logging_steps):
            return False
        logged = means(self.progress.since_log) | {
            "learning_rate": self.learning_rate,
            "num_tokens": self.progress.tokens,
            **also,
            "skipped_steps": self.progress.skipped,
        }
        self.log.log(self.progress.step, logged)
        self.progress.since_log.clear()
        return True

    def save_or_leave(self, stop: StopRequest) -> int | None:
        """Save if that is due or any rank was asked to stop; then, unless this was the last step,
        the exit code with which to leave."""
        stopping = stop.agreed(self.accelerator)
        if stopping or (self.config.save_steps and self.is_due(self.config.save_steps)):
            state.save(
                self.config, self.accelerator, self.model, self.optimizer, self.lr_scheduler,
                self.progress, self.made_of,
            )  # fmt: skip
        if stopping and not self.at_end:
            return state.leave(self.accelerator, self.log, self.progress, stop)
        return None


def _is_multiple(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
