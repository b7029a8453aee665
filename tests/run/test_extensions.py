"""Builds of DeepSpeed's extensions that were killed are noticed and named."""

import os
import time

import pytest

from kit.errors import UserError
from kit.run import extensions, process


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


def test_a_fresh_lock_of_nobody_here_is_waited_for_aloud_and_not_for_ever(
    lock, monkeypatch, capsys
):
    monkeypatch.setattr(extensions, "BUILT_WITHIN", 0.5)
    lock.touch()
    with pytest.raises(UserError, match="was killed"):
        extensions.await_builds()
    assert str(lock) in capsys.readouterr().out


def test_where_another_machine_ends_its_build_the_run_goes_on(lock, monkeypatch):
    lock.touch()
    monkeypatch.setattr(extensions.time, "sleep", lambda seconds: lock.unlink())
    extensions.await_builds()
