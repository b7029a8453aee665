"""Checkpoints are whole or do not exist."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from kit.errors import UserError
from kit.run import checkpoint


def write(folder, text="weights"):
    (folder / "a.bin").write_text(text)
    (folder / "b.bin").write_text("state")


@pytest.fixture
def run(tmp_path):
    for step in (5, 10, 20):
        checkpoint.publish(tmp_path / f"checkpoint-{step}", write)
    return tmp_path


def test_newest_valid_is_chosen(run):
    assert checkpoint.choose(run, "latest") == (run / "checkpoint-20", [])


def damage_flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


DAMAGES = {
    "flipped": damage_flip,
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "emptied": lambda p: p.write_bytes(b""),
    "deleted": lambda p: p.unlink(),
}


@pytest.mark.parametrize("name", ["a.bin", "b.bin", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_found_and_the_one_before_is_taken(run, name, damage):
    damage(run / "checkpoint-20" / name)
    folder, skipped = checkpoint.choose(run, "latest")
    assert folder == run / "checkpoint-10"
    assert len(skipped) == 1
    assert skipped[0].startswith("skipped checkpoint-20: ")
    with pytest.raises(UserError, match="damaged"):
        checkpoint.choose(run, str(run / "checkpoint-20"))


def test_nothing_valid_never_starts_afresh(run):
    for step in (5, 10, 20):
        (run / f"checkpoint-{step}" / "manifest.json").unlink()
    with pytest.raises(UserError, match="no valid checkpoint"):
        checkpoint.choose(run, "latest")


def test_failure_while_writing_leaves_nothing(tmp_path):
    def full(folder):
        write(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="disk is full"):
        checkpoint.publish(tmp_path / "checkpoint-1", full)
    assert list(tmp_path.iterdir()) == []


def test_publish_replaces_and_prune_keeps_the_newest(run):
    checkpoint.publish(run / "checkpoint-20", lambda folder: write(folder, "new"))
    assert (run / "checkpoint-20" / "a.bin").read_text() == "new"
    checkpoint.prune(run, keep=2)
    assert [p.name for p in checkpoint.checkpoints(run)] == ["checkpoint-20", "checkpoint-10"]
    assert {p.name for p in run.iterdir()} == {"checkpoint-20", "checkpoint-10"}


def half_deleted(folder):
    (folder / "manifest.json").unlink()


def deep(folder):
    (folder / "manifest.json").write_text("[" * 100_000)


def flipped(folder):
    damage_flip(folder / "b.bin")


CASES = {  # steps and what befell them, the one just saved, save_total_limit, what is left
    "all good": ({5: None, 10: None, 20: None}, 20, 1, [20]),
    "the one just saved is damaged": ({5: None, 10: None, 20: flipped}, 20, 1, [20, 10]),
    "a damaged one of a higher number": ({5: None, 10: None, 20: flipped}, 10, 1, [20, 10]),
    "a good one of another run": ({9: None, 10: None, 40: None}, 10, 1, [40, 10]),
    "nothing is good": ({5: flipped, 10: half_deleted, 20: deep}, 20, 1, [20, 10, 5]),
    "two of three damaged": ({5: None, 10: deep, 15: flipped, 20: None}, 20, 2, [20, 15, 10, 5]),
    "damaged ones are old": ({3: flipped, 5: None, 10: None, 20: None}, 20, 2, [20, 10]),
    "killed in a removal": ({5: None, 10: half_deleted, 20: None}, 20, 1, [20]),
    "killed before the removal": ({5: None, 10: None, 15: None, 20: None}, 20, 2, [20, 15]),
}


@pytest.mark.parametrize(("steps", "saved", "keep", "left"), CASES.values(), ids=CASES)
def test_a_good_one_goes_only_when_newer_good_ones_stand(steps, saved, keep, left, tmp_path):
    for step, damage in steps.items():
        checkpoint.publish(tmp_path / f"checkpoint-{step}", write)
        if damage:
            damage(tmp_path / f"checkpoint-{step}")
    (tmp_path / ".checkpoint-7.tmp").mkdir()  # of a kill
    checkpoint.prune(tmp_path, keep, tmp_path / f"checkpoint-{saved}")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert [checkpoint.step_of(path) for path in checkpoint.checkpoints(tmp_path)] == left


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_what_the_disk_refuses_to_read_is_skipped_and_not_counted(number, run, monkeypatch):
    opened = Path.open

    def refuse(path, *arguments, **options):
        if path == run / "checkpoint-20" / "a.bin":
            raise OSError(number, os.strerror(number))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    said = f"a.bin cannot be read: {os.strerror(number)}"
    expected = (run / "checkpoint-10", [f"skipped checkpoint-20: {said}"])
    assert checkpoint.choose(run, "latest") == expected
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint.choose(run, str(run / "checkpoint-20"))
    assert checkpoint.prune(run, 1) == [f"checkpoint-20 is not counted: {said}"]
    assert checkpoint.problem_with(run / "checkpoint-10") is None


def test_what_cannot_be_deleted_is_told_and_a_link_is_only_a_link(run, monkeypatch):
    elsewhere = run / "elsewhere"
    (run / "checkpoint-10").rename(elsewhere)
    (run / "checkpoint-10").symlink_to(elsewhere)
    remove = shutil.rmtree

    def refuse(path, *arguments, **options):
        if path == run / "checkpoint-5":
            raise PermissionError(errno.EACCES, "Permission denied")
        remove(path, *arguments, **options)

    monkeypatch.setattr(shutil, "rmtree", refuse)
    assert checkpoint.prune(run, 1) == ["checkpoint-5 cannot be deleted: Permission denied"]
    assert not (run / "checkpoint-10").exists()
    assert checkpoint.problem_with(elsewhere) is None


class Killed(BaseException):
    """In place of a signal that nothing survives."""


def test_killed_while_it_is_replaced_a_folder_can_be_put_back(tmp_path, monkeypatch):
    folder = tmp_path / "best"
    checkpoint.publish(folder, write)
    rename = os.rename

    def killed(source, target):
        if str(source).endswith(".tmp"):
            raise Killed
        rename(source, target)

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(Killed):
        checkpoint.publish(folder, lambda target: write(target, "new"))
    monkeypatch.undo()
    checkpoint.recover(folder)
    assert checkpoint.problem_with(folder) is None
    assert (folder / "a.bin").read_text() == "weights"


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    synced, seen = set(), []
    fsync, rename = os.fsync, os.rename

    def note(handle):
        synced.add(os.stat(handle).st_ino)
        fsync(handle)

    def look(source, target):
        seen.extend(path for path in source.rglob("*") if path.stat().st_ino not in synced)
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "rename", look)
    checkpoint.publish(tmp_path / "checkpoint-1", write)
    assert seen == []
    assert (tmp_path / "checkpoint-1" / "manifest.json").stat().st_ino in synced


def test_weights_stand_beside_all_that_belongs_to_them(tmp_path, monkeypatch):
    """At whatever moment a run is killed while it leaves its adapter behind."""
    names = ["README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"]
    replace = os.replace

    def watched(source, target):
        replace(source, target)
        there = {path.name for path in tmp_path.iterdir() if path.is_file()}
        assert "adapter_model.safetensors" not in there or there >= set(names)

    def final(folder):
        for name in names:
            (folder / name).write_text(name)

    monkeypatch.setattr(os, "replace", watched)
    checkpoint.publish_into(tmp_path, final)
    assert sorted(p.name for p in tmp_path.iterdir()) == names
