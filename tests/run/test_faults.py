"""Nothing is lost and nothing silently different: torn checkpoints, full disks, other launches,
files with code in them, kills."""

import contextlib
import json
import os
import pickle
import shutil
import subprocess
from pathlib import Path

import pytest
from faults import kill
from helpers import adapter_of, flags_of, most_apart, rows, settings_of
from ranks import launcher, run

from kit.errors import UserError
from kit.run import checkpoint, sources
from kit.run.folder_lock import FolderLock

# ---------------------------------------------------------------------- torn checkpoints


def zeroed_end(path: Path) -> None:
    data = path.read_bytes()
    half = len(data) // 2
    path.write_bytes(data[:half] + bytes(len(data) - half))


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(bytes(data))


DAMAGES = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "one byte short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "zeroed at the end": zeroed_end,
    "one bit flipped": flipped,
    "emptied": lambda path: os.truncate(path, 0),
    "deleted": lambda path: path.unlink(),
}
FILES = (
    "manifest.json", "state.json", "trained.safetensors", "optimizer.safetensors",
    "random.safetensors",
)  # fmt: skip


@pytest.fixture
def finished(once, start) -> Path:
    """The folder of a run to its end."""

    def make(folder: Path) -> None:
        assert start("sft", folder) == 0
        assert all(row["grad_norm"] for row in rows(folder)), "its steps move the weights"

    return once("finished", make)


def test_a_checkpoint_holds_these_files(finished):
    assert {path.name for path in (finished / "checkpoint-4").iterdir()} == set(FILES)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_torn_checkpoints_are_found(finished, name, damage, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    damage(tmp_path / "run" / "checkpoint-4" / name)
    folder, skipped = checkpoint.choose(tmp_path / "run", "latest")
    assert folder.name == "checkpoint-3"
    assert len(skipped) == 1
    assert skipped[0].startswith("skipped checkpoint-4: ")


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_the_run_falls_back_and_says_so(finished, name, start, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "summary.json").unlink()
    flipped(folder / "checkpoint-4" / name)
    capsys.readouterr()
    assert start("sft", folder, resume_from_checkpoint="latest") == 0
    said = capsys.readouterr().out
    assert "warning: skipped checkpoint-4: " in said
    assert "resumed from" in said
    assert "checkpoint-3" in said
    assert most_apart(adapter_of(finished), adapter_of(folder)) == 0
    same = [(f / "checkpoint-4" / "manifest.json").read_text() for f in (finished, folder)]
    assert same[0] == same[1]


def test_what_was_moved_aside_is_put_back(tmp_path):
    """A kill between the two renames that replace a folder."""
    checkpoint.publish(tmp_path / "best", lambda folder: (folder / "a").write_text("1"))
    (tmp_path / "best").rename(tmp_path / ".best.old")
    checkpoint.recover(tmp_path / "best")
    assert checkpoint.problem_with(tmp_path / "best") is None
    checkpoint.recover(tmp_path / "best")
    checkpoint.publish(tmp_path / "best", lambda folder: (folder / "a").write_text("2"))
    assert {path.name for path in tmp_path.iterdir()} == {"best"}
    assert (tmp_path / "best" / "a").read_text() == "2"


# ---------------------------------------------------------------------- other launches


@pytest.mark.slow
def test_another_launch_is_refused_but_for_the_weights(finished, start, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    facts = json.loads((folder / "checkpoint-4" / "state.json").read_text())
    facts["launch"] = {"num_processes": 8, "zero_stage": 2, "mixed_precision": "bf16"}
    for step in (2, 3):
        shutil.rmtree(folder / f"checkpoint-{step}")
    shutil.copytree(folder / "checkpoint-4", tmp_path / "old")
    (tmp_path / "old" / "state.json").write_text(json.dumps(facts))

    def write(target: Path) -> None:
        for name in FILES[1:]:
            shutil.copy(tmp_path / "old" / name, target)

    checkpoint.publish(folder / "checkpoint-4", write)
    with pytest.raises(UserError, match="num_processes: 8 -> 1; zero_stage: 2 -> 0") as caught:
        start("sft", folder, resume_from_checkpoint="latest")
    assert "--resume_weights_only true" in str(caught.value)
    changes = {"resume_from_checkpoint": str(folder / "checkpoint-4"), "resume_weights_only": True}
    with pytest.raises(UserError, match="earlier run"):
        start("sft", folder, **changes)
    changes |= {"learning_rate": 1e-9, "max_steps": 1}
    assert start("sft", tmp_path / "new", **changes) == 0
    assert most_apart(adapter_of(folder), adapter_of(tmp_path / "new")) < 1e-7
    with pytest.raises(UserError, match="other trained weights"):
        start("sft", tmp_path / "other", **changes, lora_r=8)


def test_a_finished_run_has_nothing_left_to_do(finished, start, tmp_path):
    """Its last checkpoint gives the same adapter again."""
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "adapter_model.safetensors").unlink()
    assert start("sft", tmp_path / "run", resume_from_checkpoint="latest") == 0
    assert most_apart(adapter_of(finished), adapter_of(tmp_path / "run")) == 0
    assert rows(finished) == rows(tmp_path / "run")


@pytest.mark.slow
def test_later_checkpoints_are_never_outranked_in_silence(finished, start, tmp_path):
    """What an earlier one went on to save would be deleted at once, and never found."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    earlier = str(folder / "checkpoint-3")
    with pytest.raises(UserError, match="later checkpoints than checkpoint-3: checkpoint-4"):
        start("sft", folder, resume_from_checkpoint=earlier)
    flipped(folder / "checkpoint-4" / "state.json")
    assert start("sft", folder, resume_from_checkpoint=earlier, save_total_limit=1) == 0
    assert [path.name for path in checkpoint.checkpoints(folder)] == ["checkpoint-4"]
    assert checkpoint.problem_with(folder / "checkpoint-4") is None


@pytest.mark.parametrize("stage", ["sft", "grpo"])
@pytest.mark.slow
def test_data_that_has_changed_is_refused(stage, start, tmp_path, monkeypatch):
    """``kit.run.sources`` tells what; evaluate and cf_proxy ask it too."""
    assert start(stage, tmp_path / "run", max_steps=1) == 0
    again = {"resume_from_checkpoint": "latest", "max_steps": 1}
    monkeypatch.setattr(sources, "_sum_of_records", lambda path: "9 other")
    with pytest.raises(
        UserError, match=r"has changed: data \(.*\): its records \(9, before"
    ) as told:
        start(stage, tmp_path / "run", **again)
    assert told.value.where == tmp_path / "run" / "checkpoint-1"
    assert "--resume_weights_only true" in told.value.fix
    if stage == "sft":
        again |= {"resume_from_checkpoint": str(told.value.where), "resume_weights_only": True}
        assert start(stage, tmp_path / "anew", **again) == 0


@pytest.mark.slow
def test_dropout_goes_on_where_it_was(start, tmp_path):
    """What the random generators give next."""
    changes = {"lora_dropout": 0.3, "max_steps": 3}
    assert start("sft", tmp_path / "whole", **changes) == 0
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "parts" / "checkpoint-2")
    changes["resume_from_checkpoint"] = "latest"
    assert start("sft", tmp_path / "parts", **changes) == 0
    assert most_apart(adapter_of(tmp_path / "whole"), adapter_of(tmp_path / "parts")) == 0


def test_two_runs_never_share_a_folder(finished, start, tmp_path, monkeypatch):
    monkeypatch.setattr(FolderLock.__init__, "__defaults__", (0.1,))
    shutil.copytree(finished, tmp_path / "run")
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    with FolderLock(tmp_path / "run"), pytest.raises(UserError, match="another process is writing"):
        start("sft", tmp_path / "run", resume_from_checkpoint="latest")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


# ---------------------------------------------------------------------- full disks


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int):
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def kilobytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) // 1024


@pytest.mark.slow
def test_a_full_disk_loses_nothing(undisturbed, prepared, trained, tmp_path):
    """At the writes of a run: disks from too small for anything to large enough, in steps that
    are smaller than a checkpoint."""
    settings = settings_of("sft", prepared, trained, "-", save_total_limit=9)
    whole = undisturbed("sft", settings)
    command = [*launcher(None), "launch/train_sft.py"]
    needed, step = kilobytes_of(whole), kilobytes_of(whole) // 8
    assert step < kilobytes_of(whole / "checkpoint-1")
    failed_after = set()
    for number, size in enumerate(range(40, needed + 400, step)):
        disk = tmp_path / f"disk{number}"
        with small_disk(disk, size):
            done = run([*command, *flags_of(settings | {"output_dir": str(disk / "run")})])
            found = checkpoint.checkpoints(disk / "run")
            if done.returncode == 0:
                break
            assert done.returncode == 2, done.stderr
            assert "the disk is full" in done.stderr
            assert "Traceback" not in done.stderr
            assert all(checkpoint.problem_with(folder) is None for folder in found)
            for folder in found:
                name = f"{folder.name}/manifest.json"
                assert (disk / "run" / name).read_text() == (whole / name).read_text()
            failed_after.add(len(found))
    assert done.returncode == 0, "large enough at last"
    assert failed_after >= {0, 1, 2, 3, 4}, "before the first checkpoint, and after each"


# ---------------------------------------------------------------------- files with code in them


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", FILES[1:])
def test_no_code_in_a_checkpoint_is_run(finished, name, start, tmp_path):
    """Its manifest is in order, so that it is really read."""
    folder, mark = tmp_path / "run", tmp_path / "executed"
    payload = pickle.dumps(Payload(mark))
    shutil.copytree(finished, folder)

    def write(target: Path) -> None:
        for other in FILES[1:]:
            shutil.copy(finished / "checkpoint-4" / other, target)
        (target / name).write_bytes(payload)
        (target / "optimizer.pt").write_bytes(payload)
        (target / "pytorch_model.bin").write_bytes(payload)

    checkpoint.publish(folder / "checkpoint-4", write)
    with pytest.raises(UserError, match="cannot read the checkpoint"):
        start("sft", folder, resume_from_checkpoint=str(folder / "checkpoint-4"))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.safetensors"])
def test_no_code_in_an_adapter_is_run(trained, name, start, tmp_path):
    folder, mark = tmp_path / "adapter", tmp_path / "executed"
    shutil.copytree(trained["sft"], folder)
    (folder / "adapter_model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(UserError, match=r"adapter_model.safetensors|does not fit"):
        start("grpo", tmp_path / "run", sft_ckpt=str(folder))
    assert not mark.exists()


# ---------------------------------------------------------------------- kills


@pytest.mark.slow
def test_killed_again_and_again_it_is_the_same_run(prepared, trained, taught_family, tmp_path):
    """Each family, GRPO in one process and under ZeRO-2, SFT under ZeRO-3; for more of them
    ``python tests/faults/kill.py --kills 100``."""
    bases = (taught_family("qwen3_vl"), taught_family("qwen2_5_vl"), "tiny")
    data = (prepared["train"], trained["sft"], trained["data"])
    cases = [kill.make_cases(tmp_path, *data, bases)[number] for number in (1, 3, 4)]
    kill.run_cases(cases, 6, seed=3)
    assert sum(case.kills for case in cases) == 6
    assert not [difference for case in cases for difference in case.differences]
