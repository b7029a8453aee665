"""Finished batches of a run that asks a model, kept on disk until all are there.

A run that was cut off goes on where it stood, and a run may be split into shards that work side
by side. The batches are the same however many processes or shards share them, so what is merged
from them is too.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from accelerate import Accelerator
from tqdm.auto import tqdm

from kit.data.records import SftRecord
from kit.errors import RecordError, UserError
from kit.evaluate.answering import Request
from kit.evaluate.config import InferenceConfig
from kit.files import iter_json_lines, read_json, write_json, write_jsonl
from kit.run import sources
from kit.run.process import total
from kit.run.stop import StopRequest

# What may differ between the run that was cut off, or a shard, and the one that goes on.
FREE_KEYS = ("output", "keep_images", "images_dir", "num_shards", "shard_index")


class Parts:
    """The finished batches of one run: ``NNNNNN.jsonl`` each, and ``run.json`` that says of what.

    Raises:
        UserError: the folder is of a run with another configuration, other data or weights.
    """

    def __init__(
        self,
        folder: Path,
        config: InferenceConfig,
        batches: Sequence[list[Request]],
        data: Mapping[str, Sequence[SftRecord]],
        say: Callable[[str], None] = print,
    ):
        self.folder, self.config, self.batches = folder, config, batches
        before = read_json(folder / "run.json") if (folder / "run.json").exists() else None
        self.facts = _facts(config)
        fix = f"go on with the same, or rm -r {folder} to start anew"
        changed = [k for k in self.facts if before is not None and before.get(k) != self.facts[k]]
        if changed:
            what = f"an unfinished run was started differently: {', '.join(changed)}"
            raise UserError(what, where=folder, fix=fix)
        now = sources.unchanged(
            config, data, before and before.get("sources"), where=folder, fix=fix, say=say
        )
        self.facts |= {"batches": len(batches), "sources": now}
        self.own = range(config.shard_index, len(batches), config.num_shards)
        self.missing = [number for number in self.own if not self._file(number).exists()]

    def fill(
        self,
        accelerator: Accelerator,
        ask: Callable[[list[Request]], list[dict]],
        stop: StopRequest,
        name: str,
    ) -> int:
        """Answer the batches that are missing, shared by all processes, under a progress bar.

        Returns the exit code: 0, or that of a request to stop, which each process grants when its
        batch is done.
        """
        if accelerator.is_main_process:
            write_json(self.folder / "run.json", self.facts)
        accelerator.wait_for_everyone()
        rank, world = accelerator.process_index, accelerator.num_processes
        shared = self.own[rank::world]
        numbers = [n for n in shared if n in self.missing]
        bar = tqdm(
            list(numbers),
            desc=name,
            unit="batch",
            total=len(shared),
            initial=len(shared) - len(numbers),
            disable=None if accelerator.is_main_process else True,
        )
        for number in bar:
            if stop.asked:
                break
            write_jsonl(self._file(number), ask(self.batches[number]))
            numbers.remove(number)
        stopping = stop.agreed(accelerator)
        (left,) = total(accelerator, len(numbers))
        if not (stopping and left):
            return 0
        stop.answered(accelerator)
        accelerator.print("stopped; the same command goes on with what is left")
        return stop.exit_code

    @property
    def is_shard(self) -> bool:
        """Whether what this run answers is only a part, for another to merge."""
        return self.config.num_shards > 1

    def rows(self) -> list[dict]:
        """All rows of all batches."""
        rows = []
        for number in range(len(self.batches)):
            for where, row in iter_json_lines(self._file(number)):
                if isinstance(row, RecordError):
                    fix = f"rm {self._file(number)}, and give the same command again"
                    raise UserError("a finished batch is damaged", where=where, fix=fix) from row
                rows.append(row)
        return rows

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.jsonl"


def _facts(config: InferenceConfig) -> dict:
    """What the answers depend on beside data, images and weights."""
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in FREE_KEYS}
