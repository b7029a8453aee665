"""Break the code in one place after the other, and see whether the tests notice.

    python tests/mutants.py [--only WORD] [--jobs 2] [--list]

``tests/breaks/`` holds the breaks: a place, the text that stands there, a plausible mistake in its
stead, and the tests that must fail then. Everything runs in copies of the checkout, which itself
is never changed. Prints a table; exit code 1 if a test fails without a break, if a break is not
noticed, or if a text is not found exactly once. Not a test: it takes a quarter of an hour.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import contextlib
import importlib
import json
import multiprocessing
import os
import py_compile
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

import pytest
from breaks import BREAKS, Break

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded, and for what tests start
sys.dont_write_bytecode = True  # a broken module's would outlive the break

ROOT = Path(__file__).resolve().parent.parent
HANGS_AFTER = 600.0  # seconds; none takes a tenth of that on two idle cores
# What tests and kit import of others, loaded once; the kit itself is loaded anew for each break.
PRELOADED = (
    "accelerate", "bitsandbytes", "cv2", "datasets", "deepspeed", "hypothesis.strategies", "peft",
    "plotly.graph_objects", "rich.console", "sacrebleu", "scipy.stats", "sentence_transformers",
    "submitit", "torch.utils.tensorboard", "transformers.models.qwen2_vl.modeling_qwen2_vl",
    "transformers.models.qwen2_vl.image_processing_pil_qwen2_vl", "transformers.integrations",
)  # fmt: skip


class Outcomes:
    """Pytest's plugin: the tests that failed, that were left out, and files that do not load."""

    def __init__(self):
        self.failed: list[str] = []
        self.skipped: list[str] = []
        self.unloadable: list[str] = []
        self.passed = 0

    def pytest_runtest_logreport(self, report):
        self.passed += report.passed and report.when == "call"
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.skipped:
            self.skipped.append(report.nodeid)

    def pytest_collectreport(self, report):
        if report.failed:
            self.unloadable.append(report.nodeid)


def run_tests(copy: Path, tests: Sequence[str], result: Path, log: Path, first_only: bool) -> None:
    """In a process of its own: run tests of a copy, and write what came of them."""
    os.setsid()  # what a test leaves running is ended with it
    with log.open("w") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    os.chdir(copy)
    sys.path[:] = [str(copy), str(copy / "tests"), *(p for p in sys.path if p and p != sys.path[0])]
    os.environ |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    outcomes = Outcomes()
    flags = ["-q", "-p", "no:cacheprovider", "--basetemp", str(result.with_suffix(".tmp"))]
    code = pytest.main([*tests, *flags, *(["-x"] if first_only else [])], plugins=[outcomes])
    result.write_text(json.dumps(vars(outcomes) | {"code": int(code)}))
    sys.stdout.flush()
    os._exit(0)  # threads of libraries are not waited for


@dataclass
class Run:
    """Tests that run in a copy, with a break or without."""

    copy: Path
    process: multiprocessing.Process
    result: Path
    log: Path
    started: float
    broken: Break | None = None

    @classmethod
    def start(cls, copy: Path, tests: Sequence[str], broken: Break | None = None) -> Run:
        result, log = copy.parent / "result.json", copy.parent / "log.txt"
        result.unlink(missing_ok=True)
        arguments = (copy, tests, result, log, broken is not None)
        process = multiprocessing.get_context("fork").Process(target=run_tests, args=arguments)
        process.start()
        return cls(copy, process, result, log, time.monotonic(), broken)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def outcomes(self) -> dict | None:
        """What came of it; None if it hung or died."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()
        shutil.rmtree(self.result.with_suffix(".tmp"), ignore_errors=True)
        return json.loads(self.result.read_text()) if self.result.exists() else None


def copy_of_checkout(folder: Path) -> Path:
    """The tracked files and new ones in ``folder/checkout``, compiled but for what changes."""
    copy = folder / "checkout"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
    mode = py_compile.PycInvalidationMode.CHECKED_HASH  # a broken module is compiled anew
    compileall.compile_dir(copy / "kit", quiet=1, invalidation_mode=mode)
    if (shared := ROOT.parent / "shared").is_dir():
        (folder / "shared").symlink_to(shared)
    return copy


def apply(one: Break, copy: Path) -> None:
    path = copy / one.file
    path.write_text(path.read_text("utf-8").replace(one.old, one.new), "utf-8")


def revert(one: Break, copy: Path) -> None:
    shutil.copy2(ROOT / one.file, copy / one.file)


def faults_of(one: Break) -> list[str]:
    """Why a break cannot be made."""
    path = ROOT / one.file
    text = path.read_text("utf-8") if path.is_file() else ""
    faults = []
    if text.count(one.old) != 1:
        faults.append(f"{one.file} holds it {text.count(one.old)} times: {one.old!r}")
    for test in one.tests:
        file, _, name = test.partition("::")
        function = name.partition("[")[0].split("::")[-1]
        there = (ROOT / file).exists() and (not name or function in (ROOT / file).read_text())
        if not there and not name.startswith("kit."):  # a doctest has its module's name
            faults.append(f"no test {test}")
    if path.suffix == ".py" and not faults:
        try:
            ast.parse(text.replace(one.old, one.new))
        except SyntaxError as error:
            faults.append(f"no longer Python: {error}")
    return faults


def noticed_by(outcomes: dict | None) -> str | None:
    """The test that failed, or None: also where the tests hang or cannot be loaded, since a mistake
    that nobody could overlook shows nothing of the tests."""
    if outcomes is None or outcomes["unloadable"] or not outcomes["failed"]:
        return None
    return outcomes["failed"][0]


def run_unbroken(copy: Path, breaks: Sequence[Break]) -> bool:
    """Whether all named tests pass where nothing is broken."""
    run = Run.start(copy, list(dict.fromkeys(test for one in breaks for test in one.tests)))
    run.process.join(20 * HANGS_AFTER)
    found = run.outcomes() or {"failed": ["hangs or dies"], "unloadable": []}
    for name in [*found["failed"], *found["unloadable"]]:
        print(f"FAILS UNBROKEN: {name}")
    if found["failed"] or found["unloadable"]:
        print(run.log.read_text()[-3000:])
        return False
    print(f"unbroken: {found['passed']} tests pass, {len(found['skipped'])} are skipped, "
          f"{run.seconds:.0f} s", flush=True)  # fmt: skip
    return True


def run_broken(copies: Sequence[Path], breaks: Sequence[Break]) -> int:
    """Print a line a break; returns how many were not noticed."""
    waiting, free, running, missed = list(breaks), list(copies), [], 0
    while waiting or running:
        while waiting and free:
            one, copy = waiting.pop(0), free.pop()
            apply(one, copy)
            running.append(Run.start(copy, one.tests, one))
        wait([run.process.sentinel for run in running], timeout=1.0)
        for run in [r for r in running if not r.process.is_alive() or r.seconds > HANGS_AFTER]:
            running.remove(run)
            by = noticed_by(run.outcomes())
            missed += by is None
            print(f"{run.broken.what:<62} {by or 'NOT NOTICED'}  {run.seconds:.0f} s", flush=True)
            if by is None:
                print("    " + run.log.read_text()[-1500:].replace("\n", "\n    "))
            revert(run.broken, run.copy)
            free.append(run.copy)
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="breaks whose words or file hold this")
    parser.add_argument("--jobs", type=int, default=2, help="breaks at a time")
    parser.add_argument("--list", action="store_true", help="look whether each can be made")
    told = parser.parse_args()
    breaks = [one for one in BREAKS if told.only in f"{one.what} {one.file}"]
    faults = [(one, fault) for one in breaks for fault in faults_of(one)]
    for one, fault in faults:
        print(f"{one.what}: {fault}")
    if told.list:
        for one in breaks:
            print(f"{one.file}: {one.what}")
        print(f"{len(breaks)} breaks, {len(faults)} faults")
    if told.list or faults:
        return int(bool(faults))
    started = time.monotonic()
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies = []
        for number in range(told.jobs):
            (Path(folder) / str(number)).mkdir()
            copies.append(copy_of_checkout(Path(folder) / str(number)))
        if not run_unbroken(copies[0], breaks):
            return 1
        missed = run_broken(copies, breaks)
    print(f"{len(breaks)} breaks, {missed} not noticed, {time.monotonic() - started:.0f} s")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
