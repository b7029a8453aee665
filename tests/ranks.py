"""Ranks without new interpreters: forked from a process that has imported everything already, with
the environment that ``accelerate launch --config_file`` gives. Two of them start in a second.

    done = run([*launcher("cpu_zero2"), "launch/train_sft.py", *flags])

runs the script on two ranks as the command line does; ``start`` returns while it runs.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import connection, forkserver
from pathlib import Path

import torch
import yaml
from torch.distributed import TCPStore

from kit.plan.accelerate_internals import environment_of

ROOT = Path(__file__).resolve().parent.parent
HANGS_AFTER = 240.0  # seconds; none takes half of that
LEAVES_WITHIN = 30.0  # seconds that the others have when a rank failed, as torch's launcher gives
LOOKS_EVERY = 0.1  # seconds, as torch's launcher
PRELOADED = (
    "torch", "transformers", "peft", "accelerate", "deepspeed", "sentence_transformers", "pytest",
    "kit.train.sft", "kit.grpo.grpo", "kit.evaluate.evaluation", "kit.evaluate.cf_proxy",
    "ranks", "hooks",
)  # fmt: skip
RANKED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(PRELOADED))
_one_at_a_time = threading.Lock()  # multiprocessing looks after all its processes at each start


def launcher(accelerate_config: str | Path | None) -> list[str]:
    """The beginning of a command that starts a script, with a config of accelerate_configs/ or
    another file; one process, as by plain Python, without one."""
    if accelerate_config is None:
        return []
    if isinstance(accelerate_config, str):
        return [f"accelerate_configs/{accelerate_config}.yaml"]
    return [str(accelerate_config)]


def run(
    command: list[str], hook: Callable | None = None, **environment: str
) -> subprocess.CompletedProcess:
    """Run a command that begins with ``launcher``, and keep what it says. One that hangs is ended,
    and says where. ``hook``: see :class:`Ranks`."""
    return Ranks(command, hook, **environment).communicate()


class Ranks:
    """The running ranks of a command that begins with ``launcher``. When one fails, the others are
    ended, as a launcher does.

    Args:
        hook: what each rank calls before the script; pickled, so of a module that can be imported.
        environment: variables beside those of this process.

    Attributes:
        pids: of the ranks, in their order.
        returncode: None while any runs; then 0, or the exit code of the one that failed first
            (negative: the signal that it died of).
    """

    def __init__(self, command: list[str], hook: Callable | None = None, **environment: str):
        self.args = command
        self.returncode: int | None = None
        config = command[0] if command[0].endswith(".yaml") else None
        self._said, self._complained = (
            tempfile.NamedTemporaryFile("r")  # noqa: SIM115 (goes when this goes)
            for _ in range(2)
        )
        files = (self._said.name, self._complained.name)
        common = {k: v for k, v in os.environ.items() if k not in RANKED} | environment
        ranks = [{}]
        if config:
            world = yaml.safe_load((ROOT / config).read_text())["num_processes"]
            self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            ranks = [_of_rank(rank, world, self._store.port) for rank in range(world)]
        with _one_at_a_time, _environment_of_the_server():
            self._processes = [
                _context.Process(
                    target=_rank, args=(config, command[bool(config) :], common | own, files, hook)
                )
                for own in ranks
            ]
            for process in self._processes:
                process.start()
        self.pids = [process.pid for process in self._processes]
        self._running = list(self._processes)
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        failed, killed_at = 0, float("inf")
        while self._running:
            connection.wait([process.sentinel for process in self._running], LOOKS_EVERY)
            with _one_at_a_time:
                ended = [process for process in self._running if process.exitcode is not None]
            self._running = [process for process in self._running if process not in ended]
            codes = [process.exitcode for process in ended if process.exitcode]
            if codes and not failed:
                failed, killed_at = codes[0], time.monotonic() + LEAVES_WITHIN
                time.sleep(LOOKS_EVERY)
                self.send_signal(signal.SIGTERM)
            if time.monotonic() > killed_at:
                self.send_signal(signal.SIGKILL)
        self.returncode = failed

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float = HANGS_AFTER) -> int:
        """Until all have ended.

        Raises:
            subprocess.TimeoutExpired: they have not.
        """
        self._watcher.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To all that run, as a launcher hands on what it gets."""
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)

    def communicate(self, timeout: float = HANGS_AFTER) -> subprocess.CompletedProcess:
        hung = ""
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            hung = f"hung: {' '.join(self.args)}\n"
            self.send_signal(signal.SIGABRT)
            self.wait()
        said, complained = self._said.read(), self._complained.read()
        return subprocess.CompletedProcess(self.args, self.returncode, said, hung + complained)


def _of_rank(rank: int, world: int, port: int) -> dict[str, str]:
    """The variables that torch's launcher adds; it too holds the store that ranks meet at."""
    values = (rank, rank, world, world, "127.0.0.1", port)
    told = {name: str(value) for name, value in zip(RANKED, values, strict=True)}
    return told | {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}


@contextlib.contextmanager
def _environment_of_the_server() -> Iterator[None]:
    """What it imports in: one thread, and the packages that can be imported here."""
    before = dict(os.environ)
    os.environ.update(OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    try:
        forkserver.ensure_running()
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@atexit.register  # before multiprocessing's own, which would wait for them
def _end_all() -> None:
    for process in multiprocessing.active_children():
        process.kill()


def _rank(config, command, environment, files, hook) -> None:
    """In the new process, which has a forked interpreter's state and must look as a fresh one."""
    gc.freeze()  # what was imported, and with it the pages shared with the server, stays untouched
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    faulthandler.enable()
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update({"OMP_NUM_THREADS": "1"} | environment)
    torch.set_num_threads(1)
    multiprocessing.set_start_method(None, force=True)
    sys.argv = command
    code = 1
    try:
        if config:
            os.environ.update(environment_of(config, processes=int(os.environ["WORLD_SIZE"])))
        if hook:
            hook()
        runpy.run_path(command[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
