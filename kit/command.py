"""Command lines: one typed dataclass a stage, ``--cfg file.yaml``, every field a flag."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

import yaml
from transformers.hf_argparser import HfArgumentParser, string_to_bool
from transformers.utils import logging as transformers_logging

from kit.errors import ConfigError, UserError
from kit.files import DISK_FULL, explain_os_error
from kit.shipped import CONFIGS, find, names
from kit.yaml_files import mapping_in, read_yaml

Config = TypeVar("Config")

EXIT_USER_ERROR = 2
SECONDS_TO_BE_ENDED = 3.0
DEPRECATED = ("`is_gradient_checkpointing`", "`torch.distributed")  # in PEFT's and DeepSpeed's use
DEEPSPEED_NOTICES = (
    "Setting accelerator to CPU",
    "A module has unknown inputs or outputs type",  # ours only calls others, which have the hooks
)


def option(
    default: Any = dataclasses.MISSING, *, help: str, aliases: Sequence[str] = (), **kwargs: Any
) -> Any:
    """A dataclass field with its help text and the short flags that mean the same.

    A mutable default is given as ``default_factory``.
    """
    metadata = {"help": help.replace("%", "%%")} | ({"aliases": [*aliases]} if aliases else {})
    return dataclasses.field(default=default, metadata=metadata, **kwargs)


def parse(
    config_class: type[Config],
    arguments: Sequence[str] | None = None,
    *,
    also: type | None = None,
    prog: str | None = None,
) -> Config:
    """Read ``--cfg`` (YAML, optional) and the flags that override it into ``config_class``.

    The dataclass may define ``__post_init__`` and raise :class:`ConfigError` there. ``also``: the
    class of the flags that were taken before, which a misspelt one may have been meant for.
    ``prog``: what help calls the command, if not as it was started.

    Raises:
        ConfigError: unknown key (with the nearest known one), wrong type, file not readable.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    finder = _Parser([], add_help=False, allow_abbrev=False)
    finder.add_argument("--cfg")
    found, flags = finder.parse_known_args(arguments)
    cfg = find(found.cfg, CONFIGS) if found.cfg else None
    from_file = _yaml_flags(config_class, cfg) if cfg else []
    if from_file:  # once alone, so that its mistakes are laid at its door
        _parser(config_class, where=str(cfg)).parse_args(from_file)
    parser = _with_cfg(_parser(config_class, where="command line", prog=prog))
    parser.also = [f.name for f in dataclasses.fields(also)] if also else []
    namespace = parser.parse_args([*from_file, *flags])
    values = {
        f.name: getattr(namespace, f.name) for f in dataclasses.fields(config_class) if f.init
    }
    config = config_class(**values)
    if cfg:
        vars(config)["source"] = str(cfg)  # not a field: where its mistakes are to be fixed
    return config


def parse_mapping(config_class: type[Config], content: dict, where: object) -> Config:
    """Read a mapping, as a part of a YAML file, into ``config_class``; its key ``cfg`` may name a
    file that it goes over.

    Raises:
        ConfigError: as :func:`parse`.
    """
    content = dict(mapping_in(content, where))
    cfg = content.pop("cfg", None)
    parse_part(config_class, content, where)  # so that its mistakes are laid at its door
    flags = _flags_of(config_class, content, where)
    return parse(config_class, [*(["--cfg", str(cfg)] if cfg else []), *flags])


def parse_part(config_class: type, content: dict, where: object) -> dict:
    """The values of a mapping, as a part of a YAML file, in the types of ``config_class``, of which
    it may leave any out. A field of type ``dict`` takes a mapping, as it is.

    Raises:
        ConfigError: unknown key, or a value of another type or shape.
    """
    content = mapping_in(content, where)
    types = get_type_hints(config_class)
    inner = {k: mapping_in(v, f"{where}, {k}") for k, v in content.items() if types.get(k) is dict}
    empty = {k: [] for k, v in content.items() if v == [] and get_origin(types.get(k)) is list}
    values = {k: v for k, v in content.items() if v is not None and k not in inner | empty}
    flags = _flags_of(config_class, values, where)
    namespace = _parser(config_class, where=str(where)).parse_args(flags)
    return inner | empty | {key: getattr(namespace, key) for key in values}


def parse_known(config_class: type, arguments: Sequence[str]) -> tuple[dict, list[str]]:
    """The values of the flags of ``config_class`` that are given, and the other arguments."""
    parser = _parser(config_class, where="command line", add_help=False)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    namespace, rest = parser.parse_known_args(list(arguments))
    return vars(namespace), rest


def flags_help(config_class: type) -> str:
    """The flags of ``config_class`` with what each is for."""
    formatter = argparse.HelpFormatter("")
    formatter.add_arguments(_parser(config_class, where="", add_help=False)._actions)
    return formatter.format_help()


def flags_of(config_class: type) -> argparse.ArgumentParser:
    """The parser of ``config_class`` without help, to be the parent of another."""
    return _with_cfg(_parser(config_class, where="command line", add_help=False))


def require(fine: bool, key: str, rule: str, value: object) -> None:
    """Raise ConfigError for a value of ``key`` that breaks its ``rule``, unless it is ``fine``."""
    if not fine:
        raise ConfigError(f"{key} {rule}, not {value}", where=key, fix="fix the value")


def source_of(config: object) -> str:
    """The file that a configuration was read from, for messages."""
    return getattr(config, "source", "the kit's config")


def run(stage: Callable[[], object]) -> None:
    """Run a stage's main; a user's mistake ends it with a clear message and exit code 2."""
    _quieten_libraries()
    for stream in (sys.stdout, sys.stderr):  # a locale may lack the letters of a question
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    threading.excepthook, before = _unless_disk_is_full, threading.excepthook
    try:
        sys.exit(stage() or 0)
    except UserError as error:
        _refuse(error)
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell has it
    except BrokenPipeError:  # the reader of our output went away (``| head``)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        _refuse(explain_os_error(error, error.filename or "a file of the run"))
    finally:
        threading.excepthook = before


def _unless_disk_is_full(failure: threading.ExceptHookArgs) -> None:
    """A tracker's thread dies of a full disk with a traceback; its next call says so again."""
    error = failure.exc_value
    if not (isinstance(error, OSError) and error.errno in DISK_FULL):
        threading.__excepthook__(failure)


def _refuse(error: UserError) -> None:
    rank = int(os.environ.get("RANK", 0))
    if rank > 0:  # if the first process says the same, the launcher ends this one meanwhile
        time.sleep(SECONDS_TO_BE_ENDED)
    name = f"error in process {rank}" if rank > 0 else "error"
    print(f"{name}: {error}", file=sys.stderr, flush=True)
    sys.exit(EXIT_USER_ERROR)


def to_yaml(config: Any) -> str:
    """The resolved configuration, readable by ``--cfg`` again (so without empty lists, which are
    the default where they may be)."""
    values = {key: value for key, value in dataclasses.asdict(config).items() if value != []}
    return yaml.safe_dump(values, sort_keys=False)


def _quieten_libraries() -> None:
    """Notices of libraries that a user can do nothing about; errors still show."""
    for message in DEPRECATED:
        warnings.filterwarnings("ignore", message, FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    logging.getLogger("DeepSpeed").addFilter(
        lambda record: not any(notice in record.getMessage() for notice in DEEPSPEED_NOTICES)
    )
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()


class _Parser(HfArgumentParser):
    """argparse that raises :class:`ConfigError` with the place of the mistake."""

    where = "command line"
    also: Sequence[str] = ()

    def _get_values(self, action, arg_strings):
        """As argparse's own, which before Python 3.13 takes a value that is ``--`` away."""
        if action.option_strings and action.nargs is None and arg_strings == ["--"]:
            value = self._get_value(action, "--")
            self._check_value(action, value)
            return value
        return super()._get_values(action, arg_strings)

    def _get_value(self, action, arg_string):
        if action.type is string_to_bool:  # YAML has two more words
            arg_string = {"on": "yes", "off": "no"}.get(arg_string.lower(), arg_string)
        return super()._get_value(action, arg_string)

    def error(self, message: str):
        known = [o.lstrip("-") for a in self._actions for o in a.option_strings]
        known += self.also
        if "unrecognized arguments:" in message:
            wrong = [w for w in message.split(":", 1)[1].split() if w.startswith("--")]
            hints = [_nearest(w.lstrip("-").split("=")[0], known) for w in wrong]
            fix = "; ".join(h for h in hints if h) or "say which flag it is for; see --help"
            what = f"unknown option {' '.join(wrong)}" if wrong else message
            raise ConfigError(what, where=self.where, fix=fix)
        raise ConfigError(message, where=self.where, fix="see --help for what the option takes")


def _parser(config_class: type, where: str, **options) -> _Parser:
    doc = (config_class.__doc__ or "").strip()
    parser = _Parser(config_class, description=doc, allow_abbrev=False, **options)
    parser.where = where
    return parser


def _with_cfg(parser: _Parser) -> _Parser:
    parser.add_argument("--cfg", help=f"YAML file of these keys, or {', '.join(names(CONFIGS))}")
    return parser


def _yaml_flags(config_class: type, path: Path) -> list[str]:
    flag = f"--cfg; the kit's own are {', '.join(names(CONFIGS))}"
    return _flags_of(config_class, read_yaml(path, flag, as_text=True), path)


def _flags_of(config_class: type, content: dict, where: object) -> list[str]:
    """A mapping of keys to values as flags.

    Raises:
        ConfigError: a key is unknown, or its value has another shape.
    """
    known = {f.name: f for f in dataclasses.fields(config_class) if f.init}
    types = get_type_hints(config_class)
    flags = []
    for key, value in content.items():
        if key not in known:
            fix = _known_key(str(key), known) or "remove it; --help lists the known keys"
            raise ConfigError(f"unknown key {key!r}", where=where, fix=fix)
        problem = _wrong_shape(value, takes_list=get_origin(types[key]) is list)
        if problem:
            raise ConfigError(f"key {key!r} {problem}", where=where, fix="see --help")
        if isinstance(value, list):
            flags += [f"--{key}", *map(str, value)]
        elif value is not None:
            flags.append(f"--{key}={value}")
    return flags


def _wrong_shape(value: object, takes_list: bool) -> str | None:
    if isinstance(value, dict):
        return "takes no mapping"
    if isinstance(value, list) and not takes_list:
        return "takes one value, not a list"
    if isinstance(value, list) and any(v is None or isinstance(v, (dict, list)) for v in value):
        return "takes a list of single values: put each into quotation marks"
    if value == []:
        return "is an empty list: remove it for the default, or write none"
    return None


def _known_key(word: str, known: dict[str, dataclasses.Field]) -> str | None:
    """A hint at the key that was meant: of a short flag its long name, else the nearest."""
    for name, field in known.items():
        if f"--{word}" in field.metadata.get("aliases", ()):
            return f"did you mean {name!r}?"
    return _nearest(word, sorted(known))


def _nearest(word: str, known: Sequence[str]) -> str | None:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else None
