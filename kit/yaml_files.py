"""YAML files: mappings in which no key stands twice, and values as they are written."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import yaml

from kit.errors import ConfigError
from kit.text import decoded


def read_yaml(path: str | Path, flag: str = "its path", *, as_text: bool = False) -> dict:
    """The mapping that a YAML file holds; empty for an empty file. ``flag``: what named it.
    ``as_text``: numbers, dates and truth values as they are written, for fields to type.

    Raises:
        ConfigError: not readable, not a mapping, or a key stands twice.
    """
    path = Path(path)
    try:
        content = yaml.load(decoded(path.read_bytes()), _TextLoader if as_text else _StrictLoader)
    except FileNotFoundError as error:
        raise ConfigError("no such config file", where=path, fix=f"check {flag}") from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"cannot read the config file: {reason}", where=path, fix="fix the YAML"
        ) from error
    return mapping_in(content, path)


def mapping_in(content: object, where: object) -> dict:
    """What should be a mapping, as one; nothing is an empty one.

    Raises:
        ConfigError: it is anything else.
    """
    if content is not None and not isinstance(content, dict):
        fix = "write 'key: value' lines"
        raise ConfigError("this must be a mapping of keys to values", where=where, fix=fix)
    if unnamed := [key for key in content or () if not isinstance(key, str)]:
        fix = "write it in quotes, if it is one"
        raise ConfigError(f"{unnamed[0]!r} cannot be a key", where=where, fix=fix)
    return content or {}


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error; by itself the last one would win."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"key {key.value!r} stands twice, again in line {line}")
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _TextLoader(_StrictLoader):
    """YAML whose values mean what they would on the command line: YAML 1.1 makes 43200 of 12:00:00,
    83 of 0123 and False of NO."""

    yaml_implicit_resolvers: ClassVar = {
        first: [one for one in found if one[0].endswith((":null", ":merge"))]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
