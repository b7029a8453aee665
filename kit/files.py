"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from kit.errors import UserError


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Open a temporary sibling of ``path``; on success fsync and rename it, on error remove it.

    Raises:
        UserError: the folder cannot be made or written, or the disk is full. What stood at
            ``path`` before is untouched.
    """
    path = Path(path)
    encoding = None if "b" in mode else "utf-8"
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
        )
        with os.fdopen(handle, mode, encoding=encoding) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise explain_os_error(error, path) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def explain_os_error(error: OSError, path: str | Path) -> UserError:
    """Turn an operating-system refusal at ``path`` into an error that says what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        fix = "free some space or choose another output folder; nothing half-written was left"
        return UserError("the disk is full", where=path, fix=fix)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError("no permission to write", where=path, fix="choose another output path")
    return UserError(f"cannot write: {error.strerror or error}", where=path, fix="check the path")


def write_json(path: str | Path, value: Any) -> None:
    """Write one indented JSON document atomically; NaN and infinity are refused (ValueError)."""
    with atomic_write(path) as stream:
        json.dump(value, stream, indent=2, ensure_ascii=False, allow_nan=False)
        stream.write("\n")


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    """Write one JSON object a line atomically; NaN and infinity are refused (ValueError)."""
    with atomic_write(path) as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
