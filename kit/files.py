"""Writing files whole or not at all, and JSON lines: the one reader and the one writer of them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from kit.errors import DataError, RecordError, UserError
from kit.text import utf8_lines

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

# What other programs take for the end of a line, and halves of characters, which are no text.
_ESCAPED = {n: f"\\u{n:04x}" for n in (0x85, 0x2028, 0x2029, *range(0xD800, 0xE000))}


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


def sha256_of(path: str | Path) -> str:
    """The sum of a file, in hex digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return text.translate(_ESCAPED) + "\n"


# ---------------------------------------------------------------------- JSON lines


def json_line(row: dict) -> str:
    """The one text that the kit writes for a row: a single line in the eyes of any program, with
    its end. NaN and infinity are refused (ValueError).

    >>> json_line({"answer": "left\\u2028right"})
    '{"answer": "left\\\\u2028right"}\\n'
    """
    return json.dumps(row, ensure_ascii=False, allow_nan=False).translate(_ESCAPED) + "\n"


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    """Write one JSON object a line atomically."""
    with atomic_write(path) as stream:
        stream.writelines(map(json_line, rows))


def append_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    """Add lines to a log; half a line that a kill has left there is ended first.

    Raises:
        UserError: the disk refused; what stood there before is untouched.
    """
    path = Path(path)
    lines = "".join(map(json_line, rows)).encode()
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a+b") as stream:
            stream.seek(max(0, before - 1))
            stream.write(lines if stream.read(1) in (b"", b"\n") else b"\n" + lines)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.truncate(path, before)  # no half line
        raise explain_os_error(error, path) from error


def iter_json_lines(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Yield ``("file:line", value)`` for each line that is not blank; a broken line's value is
    the :class:`RecordError` that describes it. Lines end as :func:`kit.text.utf8_lines` has it.

    Raises:
        DataError: no such file, or it cannot be opened.
    """
    for where, _, value in _parsed_lines(Path(path)):
        yield where, value


def log_rows(path: str | Path) -> tuple[list[dict], list[RecordError]]:
    """The rows of a log, and its lines that are none. A log may be being written, or its process
    was killed as it wrote: a last line that is not whole is in neither. No file: no rows."""
    rows, broken = [], []
    for where, line, value in _parsed_lines(Path(path)) if Path(path).exists() else ():
        if isinstance(value, dict):
            rows.append(value)
        elif line.endswith(b"\n"):
            if not isinstance(value, RecordError):
                what, fix = "not a JSON object", "remove the line"
                value = RecordError(what, reason="wrong_type", where=where, fix=fix)
            broken.append(value)
    return rows, broken


def missing_data(path: Path) -> DataError:
    fix = "check the path; medvqa prepare_data writes data files"
    return DataError("no such data file", where=path, fix=fix)


def _parsed_lines(path: Path) -> Iterator[tuple[str, bytes, Any]]:
    try:
        stream = path.open("rb")
    except FileNotFoundError as error:
        raise missing_data(path) from error
    except OSError as error:
        raise DataError(
            f"cannot open: {error.strerror}", where=path, fix="check the path"
        ) from error
    with stream:
        for number, line in enumerate(utf8_lines(stream), 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                value = strict_json(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
                what = f"not valid JSON: {reason}"
                fix = "mend or remove the line"
                value = RecordError(what, reason="broken_json", where=where, fix=fix)
            yield where, line, value


def strict_json(text: str) -> Any:
    """``json.loads`` without NaN, Infinity and numbers that overflow to infinity (ValueError)."""

    def finite(literal: str) -> float:
        value = float(literal)
        if not math.isfinite(value):
            raise ValueError(f"number {literal} is not finite")
        return value

    def refuse(literal: str):
        raise ValueError(f"{literal} is not JSON")

    return json.loads(text, parse_float=finite, parse_constant=refuse)


def make_readable(path: str | Path) -> None:
    """Give a file that was made for its owner alone the mode of any other new file."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, 0o666 & ~umask)
