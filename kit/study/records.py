"""What is known of a run: how it was started, how it ended, and what it has left.

Beside the output of each run stand ``NAME.yaml``, its whole configuration, ``NAME.log``, what it
said, and ``NAME.run.json``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from kit.command import to_yaml
from kit.errors import UserError
from kit.files import atomic_write, read_json, write_json
from kit.study.plan import Run

State = Literal["done", "begun", "failed", "not begun"]

# What may differ between the run as it was begun or done and as the file now has it.
FREE_KEYS = {
    "resume_from_checkpoint", "save_steps", "save_total_limit", "logging_steps", "report_to",
    "log_completions", "num_completions_to_print", "dataloader_num_workers",
    "dataloader_pin_memory", "stall_steps",
}  # fmt: skip


class Record:
    """The files beside a run in a study's ``folder``."""

    def __init__(self, folder: Path, run: Run):
        self.folder, self.run = folder, run
        self.file = folder / f"{run.name}.run.json"
        self.log = folder / f"{run.name}.log"
        self.config = folder / f"{run.name}.yaml"

    @property
    def facts(self) -> dict:
        return read_json(self.file)

    @property
    def state(self) -> State:
        if is_done(self.run, self.facts):
            return "done"
        if has_progress(self.run):
            return "begun"
        return "failed" if self.facts.get("code") else "not begun"

    @property
    def seconds(self) -> float:
        """How long it has run, in all its attempts; of one that was not run from here (on SLURM)
        what a training run says of its last one."""
        facts = self.facts
        if not facts:
            return read_json(self.run.output / "summary.json").get("seconds", 0.0)
        spent = facts.get("seconds", 0.0)
        if facts.get("code", 0) is None and self.log.exists():  # cut off, or running now
            spent += max(0.0, self.log.stat().st_mtime - facts["started"])
        return spent

    def begin(self, after: Mapping[str, Record]) -> None:
        """Write down what is about to run."""
        config = dataclasses.asdict(self.run.config)
        before = {name: after[name].identity for name in self.run.after}
        made_with = [{k: v for k, v in config.items() if k not in FREE_KEYS}, before]
        text = json.dumps(made_with, sort_keys=True)
        facts = {
            "command": self.run.command,
            "config": config,
            "after": before,
            "identity": hashlib.sha256(text.encode()).hexdigest()[:16],
            "started": time.time(),
            "seconds": self.seconds,
            "code": None,
        }
        write_json(self.file, facts)
        with atomic_write(self.config) as stream:
            stream.write(to_yaml(self.run.config))

    def end(self, code: int) -> None:
        facts = self.facts
        spent = facts["seconds"] + time.time() - facts["started"]
        write_json(self.file, facts | {"code": code, "seconds": spent})

    @property
    def identity(self) -> str:
        """Tells what it was made with from anything else; empty of what was not run from here."""
        return self.facts.get("identity", "")

    def changed(self) -> str:
        """The first key in which the file has left what was begun or done, as words; empty if it
        has not. A key that the kit did not have then counts as its default."""
        then = self.facts.get("config")
        if then is None:
            return ""
        defaults = {f.name: f.default for f in dataclasses.fields(self.run.config)}
        for key, value in dataclasses.asdict(self.run.config).items():
            before = then.get(key, value if value == defaults[key] else None)
            if key not in FREE_KEYS and before != value:
                return f"{key} was {before!r} and is {value!r}"
        return ""

    def last_words(self, lines: int = 12) -> str:
        if not self.log.exists():
            return ""
        text = self.log.read_text(encoding="utf-8", errors="replace").rstrip()
        return "\n".join(f"    {line}" for line in text.split("\n")[-lines:])


def is_done(run: Run, facts: Mapping) -> bool:
    """Whether all that a run makes is there."""
    output = run.output
    if run.command == "phantoms":
        return facts.get("code") == 0 and output.is_dir()
    if run.command == "prepare_data":
        return output.exists() and Path(f"{output}.report.json").exists()
    if run.command in ("cf_proxy", "cf_pairs", "choose_prompts"):
        return output.is_file()
    if run.command == "evaluate":
        made = ("predictions.jsonl", "metrics.json")
        return all((output / name).exists() for name in made) and not (output / "parts").exists()
    return bool(read_json(output / "summary.json").get("finished"))


def has_progress(run: Run) -> bool:
    """Whether it has left something with which it goes on."""
    if run.command == "cf_proxy":
        return Path(f"{run.output}.parts").exists()
    if run.command == "evaluate":
        return (run.output / "parts").exists()
    return any(run.output.glob("checkpoint-*"))


def require_unchanged(records: Mapping[str, Record], where: object) -> None:
    """
    Raises:
        UserError: the file asks for something else than what a run was begun or done with, or a
            run was made from another one than the one that is there now.
    """
    for name, record in records.items():
        if record.state not in ("done", "begun"):
            continue
        again = f"rm -r {record.folder / name}*"
        if words := record.changed():
            what = f"{name} is {record.state} with other keys: {words}"
            fix = f"take that back, give it to a system of another name, or {again}"
            raise UserError(what, where=where, fix=fix)
        for other, identity in record.facts.get("after", {}).items():
            now = records[other].identity if other in records else identity
            if identity and now and now != identity:
                fix = f"{again}, and give the same command again"
                raise UserError(f"{name} was made from another {other}", where=where, fix=fix)


def wanted(records: Mapping[str, Record]) -> list[str]:
    """The runs that are to be run, in their order: evaluations that are not done, and what is
    missing of what they read."""
    found: set[str] = set()
    ahead: Sequence[str] = [n for n, record in records.items() if record.run.evaluation]
    while ahead:
        missing = [n for n in ahead if n not in found and records[n].state != "done"]
        found.update(missing)
        ahead = [name for n in missing for name in records[n].run.after]
    return [name for name in records if name in found]
