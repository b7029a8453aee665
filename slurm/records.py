"""What is written down of each piece of work that was sent to SLURM, beside what SLURM knows.

A folder a piece of work::

    config.yaml        its configuration as it was resolved when it was submitted
    accelerate.yaml    how it is launched, and deepspeed.json to which that points
    request.json       stage, fingerprint, job, and the code that it runs
    attempts.jsonl     a line when it starts and when it ends, however often SLURM starts it
    done.json          when it has ended well: its fingerprint and what it made
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from kit.command import parse
from kit.files import append_jsonl, log_rows, read_json, sha256_of, write_json
from slurm.stages import STAGES, Stage


class Record:
    """The record of one piece of work in its ``folder``."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    @property
    def config_file(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def accelerate_file(self) -> Path:
        return self.folder / "accelerate.yaml"

    @property
    def request(self) -> dict:
        """Empty before it was ever submitted."""
        return read_json(self.folder / "request.json")

    def write_request(self, **fields) -> None:
        write_json(self.folder / "request.json", fields)

    @property
    def stage(self) -> Stage:
        return STAGES[self.request["stage"]]

    @property
    def config(self):
        return parse(self.stage.config_class, ["--cfg", str(self.config_file)])

    # ------------------------------------------------------------------ attempts
    def attempts(self) -> list[dict]:
        return log_rows(self.folder / "attempts.jsonl")[0]

    def append_event(self, event: str, **fields) -> None:
        row = {"event": event, "time": round(time.time(), 1), **fields}
        append_jsonl(self.folder / "attempts.jsonl", [row])

    def starts_without_progress(self, job_id: str, done: int) -> int:
        """How many of the last attempts of a job began with as much done as there is now."""
        starts = [a for a in self.attempts() if a["event"] == "start" and a["job_id"] == job_id]
        count = 0
        for attempt in reversed(starts):
            if attempt["done"] != done:
                break
            count += 1
        return count

    def ask_requeue(self, job_id: str) -> None:
        """For the batch script, when it has ended."""
        Path(self.request["logs"], f"requeue-{job_id}").touch()

    # ------------------------------------------------------------------ ends
    def write_done(self) -> None:
        made = {os.path.abspath(p): sha256_of(p) for p in self.stage.files_of(self.config)}
        write_json(
            self.folder / "done.json", {"fingerprint": self.request["fingerprint"], "made": made}
        )

    def is_done(self, fingerprint: str) -> bool:
        """Whether this very work has ended well and what it made stands as it left it."""
        done = read_json(self.folder / "done.json")
        if done.get("fingerprint") != fingerprint:
            return False
        return all(Path(p).is_file() and sha256_of(p) == x for p, x in done["made"].items())

    def has_ended_well(self) -> bool:
        """Whether the work as it was last submitted has."""
        done, request = read_json(self.folder / "done.json"), self.request
        return bool(done) and done.get("fingerprint") == request.get("fingerprint")


def records_of(run: Path) -> dict[str, Record]:
    """All records of a run folder by name, in the order in which they were planned."""
    found = {}
    for path in (run / "slurm").rglob("request.json"):
        record = Record(path.parent)
        found[str(path.parent.relative_to(run / "slurm"))] = record
    return dict(sorted(found.items(), key=lambda item: (item[1].request["order"], item[0])))
