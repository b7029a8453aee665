"""What a run is made of: what is noticed when it has changed, and what it costs."""

import hashlib
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import rows
from PIL import Image

from kit.data.grpo_records import read_grpo_records
from kit.errors import UserError
from kit.files import json_line, write_json, write_jsonl
from kit.run import sources


@pytest.fixture
def config(tmp_path, monkeypatch) -> SimpleNamespace:
    """Seven records of seven images, and an adapter, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for number in range(7):
        Image.new("RGB", (40, 30 + number)).save(f"{number}.bmp")
    write_jsonl(
        "d.json", [{"image_path": f"{n}.bmp", "question": "肺?", "gold": "yes"} for n in range(7)]
    )
    shutil.copy("d.json", "held.json")
    Path("sft").mkdir()
    Path("sft/adapter_model.safetensors").write_bytes(b"weights")
    Path("base").mkdir()
    Path("base/model.safetensors").write_bytes(b"weights")
    return SimpleNamespace(
        data="d.json", eval_data="held.json", sft_ckpt="sft", base_model="base", adapter=None
    )


def made_of(config, before=None, **options) -> dict:
    records = {name: read_grpo_records(getattr(config, name))[0] for name in ("data", "eval_data")}
    return sources.unchanged(config, records, before, **options)


def paint(name: str, colour: str = "red") -> None:
    """Other contents of the same size at the same time."""
    stat = os.stat(name)
    Image.new("RGB", Image.open(name).size, colour).save(name)
    os.utime(name, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (os.stat(name).st_size, os.stat(name).st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)


def edit(**changes) -> None:
    write_jsonl("d.json", [row | changes for row in rows(Path(), "d.json")])


REFUSED = {
    "an answer": (lambda: edit(gold="no"), r"data \(d.json\): its records \(7, before 7\)"),
    "a record less": (
        lambda: write_jsonl("d.json", rows(Path(), "d.json")[1:]),
        r"its records \(6, before 7\), 0.bmp",
    ),
    "their order": (lambda: write_jsonl("d.json", rows(Path(), "d.json")[::-1]), "its records"),
    "another field": (lambda: edit(delta_cf_roi=0.5), r"its records \(7, before 7\)$"),
    "an image": (lambda: paint("3.bmp"), r"data \(d.json\): 3.bmp; eval_data \(held.json\): 3.bmp"),
    "all images": (
        lambda: [paint(f"{n}.bmp") for n in range(7)],
        "0.bmp, 1.bmp, 2.bmp, 3.bmp, 4.bmp, 2 files more;",
    ),
    "held-out records": (
        lambda: write_jsonl("held.json", rows(Path(), "held.json")[1:]),
        r"^.*changed: eval_data \(held.json\): its records \(6, before 7\), 0.bmp$",
    ),
    "the adapter": (
        lambda: Path("sft/adapter_model.safetensors").write_bytes(b"Weights"),
        r"sft_ckpt \(sft\): adapter_model.safetensors",
    ),
    "the base": (
        lambda: Path("base/model.safetensors").write_bytes(b"Weights"),
        r"base_model \(base\): model.safetensors",
    ),
}


@pytest.mark.parametrize(("change", "said"), REFUSED.values(), ids=REFUSED)
def test_what_has_changed_is_refused_by_name(change, said, config):
    before = made_of(config)
    write_json("state.json", before)  # as a checkpoint keeps it
    change()
    with pytest.raises(UserError) as caught:
        made_of(config, before, where=Path("checkpoint-3"), fix="put it back")
    assert str(caught.value.where) == "checkpoint-3"
    assert caught.value.fix == "put it back"
    caught.match(f"(?m){said}")


def moved(folder: Path) -> None:
    """All files are copies, without their times."""
    for path in list(folder.iterdir()):
        if path.is_file():
            path.write_bytes(path.read_bytes())


def spaced(folder: Path) -> None:
    lines = [json_line(row).replace(": ", ":") for row in rows(folder, "d.json")]
    (folder / "d.json").write_text("\r\n\r\n".join(line.rstrip() for line in lines))


@pytest.mark.parametrize("change", [moved, spaced, lambda _: None])
def test_times_and_spaces_are_no_change(change, config, tmp_path):
    before = made_of(config)
    change(tmp_path)
    assert not sources.changes(before, made_of(config, before))


def test_other_held_out_data_by_another_name_is_the_configurations_matter(config):
    before = made_of(config)
    config.eval_data = "d.json"
    assert made_of(config, before)["eval_data"]["path"] == "d.json"


def test_files_of_their_size_and_times_are_not_read_again(config, monkeypatch):
    read = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *a: read.append(a[0].name) or digest(*a))
    before = made_of(config)
    assert len(read) == 16, "seven images for each data file, base and adapter"
    read.clear()
    assert made_of(config, before) == before
    assert read == []
    os.utime("3.bmp")
    made_of(config, before)
    assert [Path(name).name for name in read] == ["3.bmp", "3.bmp"]


def test_other_packages_are_told(config, monkeypatch):
    before, said = made_of(config), []
    monkeypatch.setattr(sources, "version", lambda name: {"torch": "1.0"}.get(name, "2"))
    made_of(config, before, say=said.append)
    (line,) = said
    assert f"torch {before['packages']['torch']} -> 1.0" in line
    said.clear()
    made_of(config, made_of(config), say=said.append)
    made_of(config, {"data": before["data"]}, say=said.append)  # of an earlier version
    assert said == []
