"""The command: runs what is missing of a study, as processes, and makes its page."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL, Popen

from kit.files import require_folder
from kit.run.folder_lock import FolderLock
from kit.study.config import StudyConfig
from kit.study.page import write_page
from kit.study.plan import LAUNCHED, plan
from kit.study.records import Record, has_progress, require_unchanged, wanted
from kit.study.study_file import Study, read_study

COMMAND = ["-m", "kit.cli"]
LOOKS_EVERY = 0.2  # seconds
INTERRUPTED = 130  # as a shell has it


def study(config: StudyConfig) -> int:
    """Run what is missing; returns the exit code: 1 if a run failed, 130 if it was stopped.

    Raises:
        UserError: the study file is wrong, or asks for something else than what was run.
    """
    read = read_study(config.study, config.output, config.reference)
    require_folder(read.folder)
    runs = plan(read, config.only, config.seeds)
    records = {run.name: Record(read.folder, run) for run in runs}
    require_unchanged(records, read.path)
    if config.dry_run:
        for name, record in records.items():
            print(f"{record.state:<10} {name}: medvqa {record.run.command} --cfg {record.config}")
        return 0
    code = 0
    if not config.page_only:
        read.folder.mkdir(parents=True, exist_ok=True)
        with FolderLock(read.folder), Runner(read, records, config.parallel) as runner:
            code = runner.run()
    page = write_page(read, Path(config.page or read.folder / "page"))
    print(f"open {page} in a browser" if page else "nothing is evaluated yet: no page", flush=True)
    return code


class Runner:
    """Runs of a study as processes, ``parallel`` at a time.

    A context: within it SIGINT and SIGTERM are passed on, so that what runs saves and ends.
    """

    def __init__(self, study: Study, records: dict[str, Record], parallel: int):
        self.study, self.records, self.parallel = study, records, parallel
        self.left = wanted(records)
        self.total, self.ended = len(self.left), 0
        self.running: dict[str, Popen] = {}
        self.failed: dict[str, int] = {}
        self.stopping = 0

    def __enter__(self) -> Runner:
        self._before = {n: signal.signal(n, self._stop) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self) -> int:
        """Until nothing can be run any more; returns the exit code."""
        print(f"{self.total} of {len(self.records)} runs are to be done", flush=True)
        while self.running or (self.left and not self.stopping):
            for name in self._ready():
                self._start(name)
            if not self.running:
                break  # what is left waits for what failed
            time.sleep(LOOKS_EVERY)
            for name, code in self._ended():
                self._note(name, code)
        for name, code in self.failed.items():
            print(f"\n{name} failed with code {code}; {self.records[name].log} ends:")
            print(self.records[name].last_words())
        if self.stopping:
            print("stopped; the same command goes on")
            return INTERRUPTED
        if self.failed:
            waiting = f", {len(self.left)} that need them were not run" if self.left else ""
            print(f"\n{len(self.failed)} runs failed{waiting}; the same command tries again")
        return 1 if self.failed else 0

    def _ready(self) -> list[str]:
        """What may start now, in the order of the plan."""
        waiting = {*self.left, *self.running, *self.failed}
        free = [n for n in self.left if not waiting & {*self.records[n].run.after}]
        return [] if self.stopping else free[: self.parallel - len(self.running)]

    def _start(self, name: str) -> None:
        record = self.records[name]
        self.left.remove(name)
        record.log.parent.mkdir(parents=True, exist_ok=True)
        again = record.run.command.startswith("train") and has_progress(record.run)
        record.begin(self.records)
        command = self._command(record, again)
        with record.log.open("ab") as log:
            log.write(f"$ {' '.join(command[1:])}\n".encode())
            log.flush()
            self.running[name] = Popen(
                command, stdin=DEVNULL, stdout=log, stderr=log,
                env=self._environment(), preexec_fn=_end_with_parent,
            )  # fmt: skip
        print(f"{name}: {'goes on' if again else 'starts'}", flush=True)

    def _command(self, record: Record, again: bool) -> list[str]:
        command = [sys.executable, *COMMAND, record.run.command, "--cfg", str(record.config)]
        if self.study.launch and record.run.command in LAUNCHED:
            command += ["--accelerate_config", str(self.study.launch)]
        return command + (["--resume_from_checkpoint", "latest"] if again else [])

    def _environment(self) -> dict[str, str]:
        """The cores are shared, where nobody has said how."""
        import kit

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        shared = {"OMP_NUM_THREADS": str(max(1, cores // self.parallel))}
        path = [str(Path(kit.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        return shared | os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}

    def _ended(self) -> Iterator[tuple[str, int]]:
        for name, process in [*self.running.items()]:
            if (code := process.poll()) is not None:
                del self.running[name]
                yield name, code

    def _note(self, name: str, code: int) -> None:
        record = self.records[name]
        record.end(code)
        self.ended += 1
        took = f"{record.seconds / 60:.1f} min"
        if code == 0 and record.state == "done":
            print(f"[{self.ended}/{self.total}] {name}: done, {took}", flush=True)
        elif self.stopping:
            print(f"{name}: stopped after {took}", flush=True)
        else:
            self.failed[name] = code
            print(f"[{self.ended}/{self.total}] {name}: FAILED, see {record.log}", flush=True)

    def _stop(self, number: int, frame: object) -> None:
        """Ask what runs to save and end; the third time it is killed."""
        self.stopping += 1
        for process in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill() if self.stopping > 2 else process.send_signal(signal.SIGTERM)


def _end_with_parent() -> None:
    """In a child: be asked to stop when the study is killed (Linux), rather than run unseen."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
