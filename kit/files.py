"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from kit.errors import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


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
        make_readable(temporary)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise explain_os_error(error, path) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def require_folder(path: str | Path) -> None:
    """Check, without making it, that ``path`` is a folder for results or can become one.

    Raises:
        UserError: a file stands there or above it, or nothing may be written there.
    """
    path = Path(path)
    standing = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not standing.is_dir():
        what = "is a file, not a folder" if standing == path else f"{standing} is a file"
        raise UserError(what, where=path, fix="choose another output folder")
    if not os.access(standing, os.W_OK | os.X_OK):
        raise UserError("no permission to write", where=path, fix="choose another output path")


def lock(folder: str | Path, patience: float = 30.0) -> IO:
    """Hold a folder for this process until what is returned is closed, or the process ends,
    however it does. One that is on its way out is waited for, ``patience`` seconds.

    Raises:
        UserError: another process holds it.
    """
    stream = (Path(folder) / ".lock").open("w")
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return stream
        except BlockingIOError as error:
            if time.monotonic() > until:
                stream.close()
                fix = "wait for it, end it, or choose another output folder"
                what = "another process is writing here"
                raise UserError(what, where=folder, fix=fix) from error
            time.sleep(0.2)
        except OSError:  # a file system without locks
            return stream


@contextlib.contextmanager
def explained(path: str | Path) -> Iterator[None]:
    """Let a library write below ``path``; what it raises if it cannot is a clear error.

    Raises:
        UserError: the disk is full, or the operating system refused otherwise.
    """
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, path) from error
    except Exception as error:
        # safetensors and tokenizers give the number in their text, torch none
        number = re.search(r"os error (\d+)", str(error))
        if number:
            os_error = OSError(int(number[1]), os.strerror(int(number[1])))
            raise explain_os_error(os_error, path) from error
        if "inline_container" in str(error):
            raise explain_os_error(OSError(errno.ENOSPC, ""), path) from error
        raise


def explain_os_error(error: OSError, path: str | Path) -> UserError:
    """Turn an operating-system refusal at ``path`` into an error that says what to do."""
    if error.errno in DISK_FULL:
        fix = "free some space or choose another output folder; nothing half-written was left"
        return UserError("the disk is full", where=path, fix=fix)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError("no permission to write", where=path, fix="choose another output path")
    return UserError(f"cannot write: {error.strerror or error}", where=path, fix="check the path")


def write_json(path: str | Path, value: Any) -> None:
    """Write one indented JSON document atomically; NaN and infinity are refused (ValueError)."""
    with atomic_write(path) as stream:
        stream.write(json_text(value))


def read_json(path: str | Path) -> dict:
    """The JSON object that a file holds; empty if the file is missing or holds something else."""
    try:
        return dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def json_text(value: Any) -> str:
    """The one text of a JSON document that the kit writes for a value."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    """Write one JSON object a line atomically; NaN and infinity are refused (ValueError)."""
    with atomic_write(path) as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def make_readable(path: str | Path) -> None:
    """Give a file that was made for its owner alone the mode of any other new file."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, 0o666 & ~umask)
