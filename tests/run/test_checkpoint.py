"""Checkpoints are whole or do not exist."""

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
