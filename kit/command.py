"""Command lines: one typed dataclass a stage, ``--cfg file.yaml``, every field a flag."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import yaml
from transformers.hf_argparser import HfArgumentParser
from transformers.utils import logging as transformers_logging

from kit.errors import ConfigError, UserError

Config = TypeVar("Config")

EXIT_USER_ERROR = 2


def option(default=dataclasses.MISSING, *, help: str, aliases: Sequence[str] = (), **kwargs):
    """A dataclass field with its help text and the short flags that mean the same.

    A mutable default is given as ``default_factory``.
    """
    metadata = {"help": help.replace("%", "%%")}
    if aliases:
        metadata["aliases"] = list(aliases)
    return dataclasses.field(default=default, metadata=metadata, **kwargs)


def parse(config_class: type[Config], arguments: Sequence[str] | None = None) -> Config:
    """Read ``--cfg`` (YAML, optional) and the flags that override it into ``config_class``.

    The dataclass may define ``__post_init__`` and raise :class:`ConfigError` there.

    Raises:
        ConfigError: unknown key (with the nearest known one), wrong type, file not readable.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--cfg")
    found, flags = finder.parse_known_args(arguments)
    from_file = _yaml_flags(config_class, Path(found.cfg)) if found.cfg else []
    if from_file:  # once alone, so that its mistakes are laid at its door
        _parser(config_class, where=found.cfg).parse_args(from_file)
    parser = _parser(config_class, where="command line")
    parser.add_argument("--cfg", help="YAML file with any of the keys below; flags override it")
    namespace = parser.parse_args([*from_file, *flags])
    values = {
        f.name: getattr(namespace, f.name) for f in dataclasses.fields(config_class) if f.init
    }
    return config_class(**values)


def run(stage: Callable[[], object]) -> None:
    """Run a stage's main; a user's mistake ends it with a clear message and exit code 2."""
    _quieten_libraries()
    try:
        sys.exit(stage() or 0)
    except UserError as error:
        if int(os.environ.get("RANK", 0)) == 0:
            print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(EXIT_USER_ERROR)
    except BrokenPipeError:  # the reader of our output went away (``| head``)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def to_yaml(config) -> str:
    """The resolved configuration, readable by ``--cfg`` again."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True)


def _quieten_libraries() -> None:
    """Notices of libraries that a user can do nothing about; errors still show."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()


class _Parser(HfArgumentParser):
    """argparse that raises :class:`ConfigError` with the place of the mistake."""

    where = "command line"

    def error(self, message: str):
        known = [o.lstrip("-") for a in self._actions for o in a.option_strings]
        if "unrecognized arguments:" in message:
            wrong = [w for w in message.split(":", 1)[1].split() if w.startswith("--")]
            hints = [_nearest(w.lstrip("-").split("=")[0], known) for w in wrong]
            fix = "; ".join(h for h in hints if h) or "see --help for the known options"
            raise ConfigError(
                f"unknown option {' '.join(wrong) or message}", where=self.where, fix=fix
            )
        raise ConfigError(message, where=self.where, fix="see --help for what the option takes")


def _parser(config_class: type, where: str) -> _Parser:
    doc = (config_class.__doc__ or "").strip()
    parser = _Parser(config_class, description=doc, allow_abbrev=False)
    parser.where = where
    return parser


def _yaml_flags(config_class: type, path: Path) -> list[str]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError("no such config file", where=path, fix="check --cfg") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"cannot read the config file: {reason}", where=path, fix="mend the YAML"
        ) from error
    if content is None:
        return []
    if not isinstance(content, dict):
        raise ConfigError(
            "a config file must be a mapping of keys to values",
            where=path,
            fix="write 'key: value' lines",
        )
    known = {f.name for f in dataclasses.fields(config_class) if f.init}
    flags = []
    for key, value in content.items():
        if key not in known:
            fix = _nearest(str(key), sorted(known)) or "remove it; --help lists the known keys"
            raise ConfigError(f"unknown key {key!r}", where=path, fix=fix)
        if isinstance(value, dict):
            raise ConfigError(f"key {key!r} takes no mapping", where=path, fix="see --help")
        if value is None:
            continue
        items = value if isinstance(value, list) else [value]
        if items:
            flags += (
                [f"--{key}", *map(str, items)] if isinstance(value, list) else [f"--{key}={value}"]
            )
    return flags


def _nearest(word: str, known: Sequence[str]) -> str | None:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else None
