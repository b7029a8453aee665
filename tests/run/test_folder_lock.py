"""One run a folder, and no waiting for one that has ended."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from kit.errors import UserError
from kit.run import folder_lock
from kit.run.folder_lock import FolderLock
from kit.run.machine import started_at

HOLD = """
import os, sys, time
from kit.run.folder_lock import FolderLock
lock = FolderLock(sys.argv[1])
if "heir" in sys.argv and os.fork() == 0:
    time.sleep(60)
print("held", flush=True)
time.sleep(60)
"""
ME = socket.gethostname()


@pytest.fixture
def holder(tmp_path):
    """A process that holds the folder; with an heir, after it was killed."""
    started = []

    def hold(*words: str) -> int:
        command = [sys.executable, "-c", HOLD, str(tmp_path), *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process.pid

    yield hold
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def refused(folder, patience: float = 0.1) -> UserError:
    began = time.monotonic()
    with pytest.raises(UserError, match="another process is writing here") as caught:
        FolderLock(folder, patience)
    assert time.monotonic() - began < 2
    return caught.value


def write(folder, **owner) -> None:
    (folder / ".lock").write_text(json.dumps(owner))


def test_who_holds_it_is_named_at_once(holder, tmp_path, capsys):
    pid = holder()
    error = refused(tmp_path)
    assert f"process {pid} of {ME}, this machine" in error.what
    assert f"process {pid} of {ME}" in capsys.readouterr().out
    os.kill(pid, signal.SIGKILL)
    FolderLock(tmp_path, 5.0).close()


def test_what_a_killed_run_has_started_may_still_hold_it(holder, tmp_path):
    """Workers that outlive it; a lock goes with the last of them."""
    pid = holder("heir")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, os.WNOHANG)
    error = refused(tmp_path, 0.3)
    assert f"process {pid} of {ME} has ended, but what it started has not" in error.what
    heir = int(error.fix.removeprefix("kill "))
    os.kill(heir, signal.SIGKILL)
    FolderLock(tmp_path, 5.0).close()


def test_one_of_another_machine_is_named_and_not_waited_for_long(tmp_path, monkeypatch):
    """A file server keeps the lock of a machine that has died for a while."""
    monkeypatch.setattr(folder_lock, "ELSEWHERE", 0.3)
    with FolderLock(tmp_path):
        write(tmp_path, host="node7", pid=12, started="3")
        error = refused(tmp_path)
    assert "process 12 of node7" in error.what
    assert f"if that machine is down: rm {tmp_path}/.lock" in error.fix


@pytest.mark.parametrize(
    "left",
    ["", "{", "\0\0\0", "[]", '{"host": 1}', json.dumps({"host": ME, "pid": 1, "started": "0"})],
)
def test_what_is_left_in_the_file_keeps_nobody_out(left, tmp_path):
    (tmp_path / ".lock").write_text(left)
    with FolderLock(tmp_path, 0.1):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert (tmp_path / ".lock").read_text() == ""


@pytest.mark.parametrize(
    ("owner", "free"),
    [
        ({"host": ME, "pid": os.getpid(), "started": started_at(os.getpid())}, False),
        ({"host": ME, "pid": os.getpid(), "started": "1"}, True),  # the number was given again
        ({"host": ME, "pid": 2**22 + 1, "started": "1"}, True),
        ({"host": "node7", "pid": 12, "started": "1"}, True),
        ({}, True),
    ],
    ids=["alive", "another of its number", "dead", "another machine", "nobody"],
)
def test_where_there_are_no_locks_the_file_tells(owner, free, tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    write(tmp_path, **owner)
    if not free:
        assert "this machine" in refused(tmp_path).what
        return
    FolderLock(tmp_path, 0.1).close()
    assert ("held by process 12 of node7" in capsys.readouterr().out) == ("node7" in str(owner))
