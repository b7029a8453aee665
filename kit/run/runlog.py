"""What a run tells while it goes: ``metrics.jsonl``, trackers, a progress bar, the summary."""

from __future__ import annotations

import dataclasses
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from tqdm.auto import tqdm

from kit.command import to_yaml
from kit.errors import UserError
from kit.files import (
    DISK_FULL,
    append_jsonl,
    atomic_write,
    explained,
    log_rows,
    write_json,
    write_jsonl,
)
from kit.run.config import RunConfig
from kit.run.folder_lock import FolderLock
from kit.run.process import environment, peak_memory_bytes


class RunLog:
    """Owns the log files of a run folder; only the main process writes.

    ``metrics.jsonl`` gets one object a logged step with ``step`` and metric names, and
    ``completions.jsonl`` one a sampled completion, ``skipped_steps.jsonl`` one an update that
    was not made.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        config: RunConfig,
        *,
        total_steps: int,
        first_step: int,
        name: str,
        model: nn.Module | None = None,
    ):
        self.accelerator = accelerator
        self.folder = Path(config.output_dir)
        self.active = accelerator.is_main_process
        self.started = time.monotonic()
        if self.active:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.folder)
            with atomic_write(self.folder / "config.yaml") as stream:
                stream.write(to_yaml(config))
            facts = environment(accelerator, model) | {"total_steps": total_steps}
            write_json(self.folder / "environment.json", facts)
            for file in ("metrics.jsonl", "completions.jsonl", "skipped_steps.jsonl"):
                self._drop_steps_after(first_step, self.folder / file)
        if config.report_to != ["none"]:
            flat = {k: _loggable(v) for k, v in dataclasses.asdict(config).items()}
            try:
                threading.excepthook = _without_full_disks(threading.excepthook)
                with explained(self.folder / "logs"):
                    accelerator.init_trackers(name, config=flat)
            except (ImportError, ValueError) as error:
                fix = "install it, or choose another with --report_to (or none)"
                raise UserError(f"tracker: {error}", where="report_to", fix=fix) from error
        self.bar = tqdm(
            total=total_steps,
            initial=first_step,
            desc=name,
            disable=not (self.active and sys.stderr.isatty()),
            dynamic_ncols=True,
        )

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Write metrics of a step everywhere, and a line where there is no progress bar."""
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            raise UserError(
                f"{', '.join(bad)} is not finite at step {step}",
                where=self.folder,
                fix="lower learning_rate; resume from the last checkpoint",
            )
        if self.active:
            append_jsonl(self.folder / "metrics.jsonl", [{"step": step, **metrics}])
        with explained(self.folder / "logs"):  # trackers are libraries with threads of their own
            self.accelerator.log(metrics, step=step)
        if not self.active:
            return
        shown = {k: f"{v:.4g}" for k, v in metrics.items() if "time/" not in k}
        if self.bar.disable:
            done = f"{step}/{self.bar.total}"
            print(f"step {done}  " + "  ".join(f"{k} {v}" for k, v in shown.items()), flush=True)
        else:
            self.bar.set_postfix(
                {k: v for k, v in shown.items() if k in ("loss", "eval_loss", "reward")}
            )

    def completions(self, rows: Iterable[dict]) -> list[dict]:
        """Write the lines of all ranks to ``completions.jsonl``, in the order of their prompts;
        returns them."""
        rows = sorted(
            gather_object(list(rows)), key=lambda row: (row["prompt_index"], row["number"])
        )
        if self.active:
            append_jsonl(self.folder / "completions.jsonl", rows)
        return rows

    def skipped(self, step: int, records: list[dict]) -> None:
        """Write a line to ``skipped_steps.jsonl``: an update that was not made, and of what."""
        if self.active:
            append_jsonl(self.folder / "skipped_steps.jsonl", [{"step": step, "records": records}])

    def advance(self) -> None:
        self.bar.update(1)

    def finish(self, **facts: object) -> None:
        """Write ``summary.json`` and close."""
        self.bar.close()
        if self.active:
            seconds = round(time.monotonic() - self.started, 3)
            facts |= {"seconds": seconds, "peak_memory_bytes": peak_memory_bytes()}
            write_json(self.folder / "summary.json", facts)
            self._lock.close()

    def _drop_steps_after(self, step: int, path: Path) -> None:
        """Forget what was logged after the checkpoint that the run goes on from."""
        if not path.exists():
            return
        rows, broken = log_rows(path)
        for problem in broken:
            print(f"warning: {problem.where} is left out: {problem.what}", flush=True)
        write_jsonl(path, (row for row in rows if not _is_after(row.get("step"), step)))


def _is_after(logged: object, step: int) -> bool:
    return isinstance(logged, (int, float)) and logged > step


def _without_full_disks(hook: Callable) -> Callable:
    """``threading.excepthook`` that leaves out what ``log`` raises again: tensorboard's thread
    dies of a disk that is full, and its foreground says so."""

    def told_once(args) -> None:
        if not (isinstance(args.exc_value, OSError) and args.exc_value.errno in DISK_FULL):
            hook(args)

    return told_once


def _loggable(value):
    return value if isinstance(value, (int, float, str, bool)) else str(value)
