"""Builds of DeepSpeed's extensions that were killed are noticed and named."""

import os
import time
from pathlib import Path

import pytest

from kit.errors import UserError
from kit.run import extensions, machine, process


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """The lock of a build, in torch's layout."""
    path = tmp_path / "py311_cpu" / "deepspeed_shm_comm" / "lock"
    path.parent.mkdir(parents=True)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    return path


def long_ago(lock) -> None:
    for path in (lock, lock.parent):
        os.utime(path, (time.time() - 600,) * 2)


def test_without_a_lock_nothing_is_waited_for(lock, capsys):
    extensions.await_builds()
    assert capsys.readouterr().out == ""


def test_a_lock_of_a_killed_build_is_named_before_deepspeed_starts(lock, monkeypatch):
    lock.touch()
    long_ago(lock)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match="deepspeed_shm_comm was killed 10 minutes ago") as caught:
        process.join()
    assert caught.value.where == lock
    assert caught.value.fix == f"rm {lock}"


def test_a_build_that_is_going_on_is_left_to_torch(lock, capsys):
    with lock.open("w"):
        long_ago(lock)
        extensions.await_builds()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("shared", [False, True], ids=["own disk", "shared disk"])
@pytest.mark.parametrize("age", [0, 3600, -3600], ids=["now", "an hour ago", "in an hour"])
def test_a_lock_of_nobody_here_is_named_at_once_and_not_waited_for_long(
    age, shared, lock, monkeypatch, capsys
):
    """Whatever the clock says of it: it may have jumped, or be a file server's."""
    monkeypatch.setattr(extensions, "is_of_this_machine", lambda path: not shared)
    monkeypatch.setattr(extensions, "BUILT_WITHIN" if shared else "SURE_WITHIN", 0.3)
    lock.touch()
    for path in (lock, lock.parent):
        os.utime(path, (time.time() - age,) * 2)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"was killed (60 minutes|0 s) ago") as caught:
        extensions.await_builds()
    assert time.monotonic() - began < 3
    assert caught.value.fix == f"rm {lock}"
    assert (str(lock) in capsys.readouterr().out) == (age <= 0)


def test_a_disk_of_this_machine_is_told_from_one_that_is_shared(tmp_path, monkeypatch):
    """By the last mount above the file, as ``/proc`` lists them."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        f"2 1 0:9 / {tmp_path} rw shared:2 - nfs4 server:/home rw\n"
        f"3 2 8:2 / {tmp_path}/own rw - xfs /dev/sdb rw\n"
    )
    real = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda path, **_: real(mounts if "mountinfo" in str(path) else path)
    )
    assert not machine.is_of_this_machine(tmp_path / "a" / "lock")
    assert machine.is_of_this_machine(tmp_path / "own" / "lock")
    assert machine.is_of_this_machine(Path("/usr"))
    mounts.unlink()
    assert not machine.is_of_this_machine(tmp_path / "own"), "nothing is known"


def test_a_build_of_another_machine_is_not_called_dead_because_clocks_differ(lock, monkeypatch):
    monkeypatch.setattr(extensions, "is_of_this_machine", lambda path: False)
    monkeypatch.setattr(extensions.time, "time", lambda: 4e9)
    monkeypatch.setattr(extensions.time, "sleep", lambda seconds: lock.unlink())
    lock.touch()
    extensions.await_builds()


def test_where_another_machine_ends_its_build_the_run_goes_on(lock, monkeypatch):
    lock.touch()
    monkeypatch.setattr(extensions.time, "sleep", lambda seconds: lock.unlink())
    extensions.await_builds()
