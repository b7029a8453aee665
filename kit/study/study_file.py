"""A study file as it was read: its systems, and what each starts from."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kit.command import parse_part
from kit.errors import ConfigError
from kit.shipped import LAUNCHES, STUDIES, find
from kit.study.config import StudyFile
from kit.yaml_files import mapping_in, read_yaml

NAME = r"[A-Za-z]\w*([.+-]\w+)*"
START = "sft"  # the system that is nothing but what the others start from


@dataclass(frozen=True)
class System:
    """``sft``: keys over those of the common SFT, empty for that itself. ``grpo``: keys over the
    common ones, None for a system without GRPO."""

    name: str
    sft: Mapping
    grpo: Mapping | None


@dataclass(frozen=True)
class Study:
    """A study file that was read."""

    path: Path
    folder: Path
    file: StudyFile
    systems: Mapping[str, System]

    @property
    def launch(self) -> Path | None:
        named = self.file.accelerate_config
        return find(named, LAUNCHES) if named else None

    @property
    def evaluations(self) -> dict[str, Mapping]:
        """The keys of each evaluation by its name."""
        named = self.file.evaluations or {"test": {}}
        return {
            name: self.file.evaluate | mapping_in(keys, f"{self.path}, evaluations: {name}")
            for name, keys in named.items()
        }

    def owner(self, system: System) -> System:
        """The first system that starts from the same SFT: in its folder that stands."""
        return next(one for one in self.systems.values() if one.sft == system.sft)


def read_study(path: str | Path, output: str = "", reference: str = "") -> Study:
    """
    Args:
        output, reference: in place of the file's.

    Raises:
        ConfigError: not readable, an unknown key, or systems that cannot be told apart.
    """
    path = find(path, STUDIES)
    with laid_at(path):
        file = StudyFile(**parse_part(StudyFile, read_yaml(path, "--study", as_text=True), path))
    file.reference = reference or file.reference
    named = {START: {}} | file.systems
    systems = {
        name: _system(name, keys, f"{path}, systems: {name}") for name, keys in named.items()
    }
    for group, names in (
        ("systems", named),
        ("data", file.data),
        ("evaluations", file.evaluations),
    ):
        for name in names:
            if not re.fullmatch(NAME, str(name)):
                fix = "letters, digits, _ and -, a letter first"
                raise ConfigError(f"{name!r} cannot be a name", where=f"{path}, {group}", fix=fix)
    if START in file.systems:
        fix = "its keys stand under train_sft"
        raise ConfigError(f"{START} is there by itself", where=f"{path}, systems", fix=fix)
    if file.reference not in systems:
        fix = f"one of {', '.join(systems)}"
        where = f"{path}, reference"
        raise ConfigError(f"there is no system {file.reference!r}", where=where, fix=fix)
    return Study(path, Path(output or file.output), file, systems)


@contextlib.contextmanager
def laid_at(where: object) -> Iterator[None]:
    """Mistakes within say ``where``, if they do not."""
    try:
        yield
    except ConfigError as error:
        if str(where) in str(error.where):
            raise
        raise ConfigError(error.what, where=f"{where}: {error.where}", fix=error.fix) from error


def _system(name: str, keys: object, where: str) -> System:
    keys = dict(mapping_in(keys, where))
    sft = mapping_in(keys.pop("train_sft", None), f"{where}, train_sft")
    said = str(keys.pop("train_grpo", True)).lower()
    without = said in ("false", "no", "off")
    if not without and said not in ("true", "yes", "on"):
        fix = "write false, or leave it out: the keys of train_grpo stand beside it"
        raise ConfigError("train_grpo of a system is true or false", where=where, fix=fix)
    if without and keys:
        what = f"{next(iter(keys))} is a key of train_grpo, and that is false"
        raise ConfigError(what, where=where, fix="leave one out")
    return System(name, sft, None if without or name == START else keys)
