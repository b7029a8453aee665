"""What is known of a run: how it was started, how it ended, and what it has left.

Beside the output of each run stand ``NAME.yaml``, its whole configuration, ``NAME.log``, what it
said, and ``NAME.run.json``.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from kit.command import to_yaml
from kit.errors import UserError
from kit.files import atomic_write, read_json, sha256_of, write_json
from kit.study.plan import DATA_KEYS, Run

State = Literal["done", "begun", "failed", "not begun"]

# What may differ between the run as it was begun or done and as the file now has it.
FREE_KEYS = {
    "resume_from_checkpoint", "save_steps", "save_total_limit", "logging_steps", "report_to",
    "log_completions", "num_completions_to_print", "dataloader_num_workers",
    "dataloader_pin_memory", "stall_steps",
}  # fmt: skip
# What a run leaves in the study's folder, behind its name.
ENDS = (
    "", ".json", ".jsonl", ".json.report.json", ".jsonl.parts", "_images", ".log", ".yaml",
    ".run.json",
)  # fmt: skip
SHOWN = 8  # runs of which an error says how they are removed


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
        files = {path: _sum_of(path) for path in self._files()}
        text = json.dumps(made_with, sort_keys=True)
        facts = {
            "command": self.run.command,
            "config": config,
            "after": before,
            "files": files,
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
        """The first key in which the file has left what was begun or done, as words, or the first
        data file that was; empty if none has. A key that the kit did not have then counts as its
        default."""
        then = self.facts.get("config")
        if then is None:
            return ""
        defaults = {f.name: f.default for f in dataclasses.fields(self.run.config)}
        for key, value in dataclasses.asdict(self.run.config).items():
            before = then.get(key, value if value == defaults[key] else None)
            if key not in FREE_KEYS and before != value:
                return f"{key} was {before!r} and is {value!r}"
        for path, sum_then in self.facts.get("files", {}).items():
            if Path(path).is_file() and _sum_of(path) != sum_then:
                return f"{path} has another content"
        return ""

    def _files(self) -> list[str]:
        """The data files that it reads and the study does not make."""
        named = (getattr(self.run.config, key, None) for key in DATA_KEYS)
        outside = (path for path in named if path and not Path(path).is_relative_to(self.folder))
        return [path for path in outside if Path(path).is_file()]

    @property
    def remains(self) -> str:
        """What is to be removed for it to be run again, as a shell has it."""
        base = self.folder / self.run.name
        ends = [end for end in ENDS if Path(f"{base}{end}").exists()]
        return (
            f"{base}{{{','.join(ends)}}}" if len(ends) > 1 else "".join(f"{base}{e}" for e in ends)
        )

    def last_words(self, lines: int = 12) -> str:
        if not self.log.exists():
            return ""
        text = self.log.read_text(encoding="utf-8", errors="replace").rstrip()
        return "\n".join(f"    {line}" for line in text.split("\n")[-lines:])


def _sum_of(path: str) -> str:
    there = Path(path).stat()
    return _sum(path, there.st_mtime_ns, there.st_size)


@functools.lru_cache
def _sum(path: str, changed: int, size: int) -> str:
    return sha256_of(path)


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
        UserError: the file asks for something else than what a run was begun or done with, be it
            that only what was made from it is left, or a run was made from another one than the
            one that is there now.
    """
    kept = [name for name, record in records.items() if record.state in ("done", "begun")]
    made_from: set[str] = set()
    ahead: Sequence[str] = kept
    while ahead:
        made_from.update(ahead)
        ahead = [n for one in ahead for n in records[one].run.after if n not in made_from]
    for name in (name for name in records if name in made_from):
        record = records[name]
        if words := record.changed():
            what = f"{name} is {record.state} with other keys: {words}"
            if name not in kept:
                what = f"what is there was made from {name} with other keys: {words}"
            fix = f"take that back, give it to a system of another name, or {_again(name, records)}"
            raise UserError(what, where=where, fix=fix)
        for other, identity in record.facts.get("after", {}).items() if name in kept else ():
            there = records.get(other)
            if not identity or there is None:
                continue
            fix = f"{_again(name, records)}, and give the same command again"
            if there.identity and there.identity != identity:
                raise UserError(f"{name} was made from another {other}", where=where, fix=fix)
            brought = not there.run.system and not there.file.parent.exists()  # answers alone
            if there.state == "not begun" and not there.facts and not brought:
                what = f"{name} was made from {other}, of which nothing is left"
                raise UserError(what, where=where, fix=fix)


def _again(name: str, records: Mapping[str, Record]) -> str:
    """How a run, and all that was made from it, is removed, as a shell has it."""
    of_it = {name}
    for other, record in records.items():
        if of_it & {*record.run.after}:
            of_it.add(other)
    found = [remains for other in records if other in of_it and (remains := records[other].remains)]
    if len(found) > SHOWN:
        return "give the whole study another output"
    return f"rm -r {' '.join(found)}"


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
