"""What the README says to type can be typed: every command, flag and file of it."""

import dataclasses
import re
import shlex
import sys
from argparse import Namespace
from itertools import pairwise
from pathlib import Path

import pytest

from kit.cli import COMMANDS
from kit.command import parse
from kit.data.phantom.__main__ import PhantomConfig
from kit.errors import UserError
from slurm import submit
from slurm.local_cluster import __main__ as local_cluster
from slurm.resources import Resources

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOREIGN = {"pip", "pytest", "apt-get", "export", "$EDITOR", "hf", "git", "cd"}  # not ours to parse
FOREIGN_FLAGS = {"--config_file"}  # accelerate's


def commands() -> list[list[str]]:
    """The words of each command in the blocks of shell, without what stands before the script."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in line.partition(" #")[0].split("&&")]
    return [words for part in parts if (words := shlex.split(part))]


CLASSES = {f"{name}.py": command.config_class for name, command in COMMANDS.items()}


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A folder that has the repository's files and none of what a command leaves."""
    for path in ROOT.iterdir():
        if path.name not in ("runs", "checkpoints", "data"):
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def typed(checkout, monkeypatch):
    """Reads a command as far as its own parser does; returns what would have been started."""
    started = []
    for name in ("submit_all", "cancel", "status_of", "table_of"):
        monkeypatch.setattr(submit, name, lambda *told, n=name, **_: started.append(n) or [])
    monkeypatch.setattr(
        local_cluster, "LocalCluster", lambda **_: Namespace(
            start=lambda: started.append("start"), stop=lambda: started.append("stop"),
            nodes=2, configuration="",
        ),
    )  # fmt: skip

    def read(words: list[str]) -> list[str]:
        started.clear()
        if words[:2] == ["accelerate", "launch"]:
            words = words[2:]
            while words[0].startswith("--"):
                assert words[0] in FOREIGN_FLAGS
                assert Path(words[1]).is_file(), words[1]
                words = words[2:]
        elif words[0] == "python":
            words = words[1:]
        if words[:2] == ["-m", "kit.data.phantom"]:
            parse(PhantomConfig, words[2:])
            return ["phantoms"]
        monkeypatch.setattr(sys, "argv", words)
        if words[0] == "slurm/submit.py":
            submit.main()
        elif words[0] == "slurm/local_cluster":
            local_cluster.main()
        else:
            assert words[0].startswith("launch/")
            config = parse(CLASSES[words[0].removeprefix("launch/")], words[1:])
            started.append(type(config).__name__)
            for flag, value in pairwise(words):
                if flag in ("--cfg", "--config", "--accelerate_config"):
                    assert Path(value).is_file(), value
        return list(started)

    return read


def test_every_command_is_read_by_its_own_parser(typed):
    ours = [words for words in commands() if words[0] not in FOREIGN]
    assert len(ours) >= 10
    for words in ours:
        assert typed(words), words


def test_a_command_that_is_misspelt_is_not_read(typed):
    """So that the test above means something."""
    for words in commands():
        if words[0] not in FOREIGN and "slurm/local_cluster" not in words:
            with pytest.raises(UserError, match="no_such_flag"):
                typed([*words, "--no_such_flag", "1"])


def test_every_flag_that_the_text_names_exists():
    known = set(FOREIGN_FLAGS)
    for config_class in (*CLASSES.values(), PhantomConfig, Resources):
        for field in dataclasses.fields(config_class):
            known |= {f"--{field.name}", *field.metadata.get("aliases", ())}
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    for code in re.findall(r"`([^`]+)`", text):
        if code.split()[0] in FOREIGN or code.startswith("python tests/"):
            continue
        for flag in re.findall(r"(?<![\w-])--[a-z]\w*", code):
            submits = flag in ("--help", "--dry_run", "--shards", "--accelerate_config", "--cfg")
            assert flag in known or submits, code


def test_every_file_that_it_names_is_there():
    names = set(
        re.findall(r"\b(?:kit|launch|tests|slurm|accelerate_configs|data)/[\w/.*]+", README)
    )
    names = {name.rstrip("./") for name in names}
    made = {name for name in names if name.startswith("data/") and not name.endswith(".md")}
    assert len(names - made) > 20
    assert not [name for name in names - made if not list(ROOT.glob(name))]


def test_every_config_that_is_shipped_is_named():
    """And every DeepSpeed file is what an accelerate config points to."""
    for folder in ("launch/configs", "accelerate_configs"):
        shipped = {path.name for path in (ROOT / folder).iterdir()}
        assert len(shipped) >= 7
        assert not [name for name in shipped if f"{name}`" not in README], folder
    pointing = "".join(p.read_text() for p in (ROOT / "accelerate_configs").iterdir())
    for path in (ROOT / "ds_configs").iterdir():
        assert f"ds_configs/{path.name}" in pointing, path
