"""Updates that are not made because the loss or its gradient is not finite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from kit.data.grpo_records import GrpoRecord
from kit.data.records import SftRecord
from kit.errors import UserError
from kit.run.config import RunConfig
from kit.run.runlog import RunLog
from kit.run.state import Progress

Record = SftRecord | GrpoRecord


def count_skipped(
    applied: bool,
    suspects: Sequence[tuple[Record, bool]],
    progress: Progress,
    log: RunLog,
    accelerator: Accelerator,
    limit: int,
) -> None:
    """Count an update that was not made, and write which records it was of.

    Args:
        applied: whether it was made; the same on all ranks.
        suspects: this rank's records of the update, and whether the loss of the micro-batch that
            each was in was finite. Where it was on all ranks, only the gradient is not finite,
            and all records are suspects.

    Raises:
        UserError: ``limit`` updates in a row were not made.
    """
    if applied:
        progress.skipped_in_row = 0
        return
    progress.skipped += 1
    progress.skipped_in_row += 1
    everyone = gather_object([[(_named(record), finite) for record, finite in suspects]])
    rows = [row for part in everyone for row in part]
    bad = [named for named, finite in rows if not finite] or [named for named, _ in rows]
    log.skipped(progress.step + 1, bad)
    if progress.skipped_in_row >= limit:
        first = bad[0]
        raise UserError(
            f"{limit} updates in a row had no finite loss and gradient, the last at step "
            f"{progress.step + 1}; its records begin with {first['image']} (qid {first['qid']})",
            where=log.folder / "skipped_steps.jsonl",
            fix="lower learning_rate or look at those records; resume from the last checkpoint",
        )


def _named(record: Record) -> dict[str, object]:
    names = ("dataset", "qid", "image", "question")
    return {name: getattr(record, name) for name in names}


@contextmanager
def explained_memory(config: RunConfig) -> Iterator[None]:
    """Say what to change where memory runs out.

    Raises:
        UserError: instead of what torch raises then.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        lacking = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if not (lacking or "can't allocate memory" in text):
            raise
        ways = []
        if config.per_device_train_batch_size > 1:
            ways.append("lower per_device_train_batch_size and raise gradient_accumulation_steps")
        if not config.gradient_checkpointing:
            ways.append("set gradient_checkpointing: true")
        if config.quantization == "none" and config.finetuning == "lora":
            ways.append("set quantization: nf4")
        ways += ["lower max_pixels", "use a higher ZeRO stage (accelerate_configs/)"]
        raise UserError(
            f"out of memory: {text.splitlines()[0] if text else type(error).__name__}",
            where=f"per_device_train_batch_size: {config.per_device_train_batch_size}, max_pixels: "
            f"{config.max_pixels}, gradient_checkpointing: {config.gradient_checkpointing}",
            fix="; or ".join(ways) + "; launch/gpu_setup.py tells what a setting needs",
        ) from error
