"""Checkpoints that are whole or do not exist.

A checkpoint is written under a temporary name, fsynced, listed with sha256 in ``manifest.json``
and renamed. A folder without a valid manifest is no checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from kit.errors import UserError
from kit.files import explained, json_text, make_readable, sha256_of, write_json

_NAME = re.compile(r"checkpoint-(\d+)")


def publish(folder: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary folder and rename it to ``folder``, atomically.

    Raises:
        UserError: disk full or not writable; nothing half-written stays.
    """
    with _staged(folder, write) as temporary:
        sums = {str(p.relative_to(temporary)): sha256_of(p) for p in _files(temporary)}
        write_json(temporary / "manifest.json", {"files": sums})
        old = _aside(folder)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.rename(folder, old)
        os.rename(temporary, folder)
        _sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Put back what ``publish`` had moved aside when it was killed before it put the new one in
    its place."""
    if _aside(folder).exists() and not folder.exists():
        with contextlib.suppress(FileNotFoundError):  # another rank was faster
            os.rename(_aside(folder), folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def publish_into(folder: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary folder and move its files into ``folder``, weights last.

    Raises:
        UserError: disk full or not writable; what stood in ``folder`` before is untouched.
    """
    with _staged(folder / "final", write) as temporary:
        for path in sorted(_files(temporary), key=lambda p: p.suffix == ".safetensors"):
            target = folder / path.relative_to(temporary)
            target.parent.mkdir(exist_ok=True)
            os.replace(path, target)
        _sync(folder)


@contextlib.contextmanager
def _staged(folder: Path, write: Callable[[Path], None]) -> Iterator[Path]:
    """A temporary sibling of ``folder`` that ``write`` has filled, safe on the disk; removed on
    leaving."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    try:
        with explained(folder):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            write(temporary)
            for path in _files(temporary):
                make_readable(path)
                _sync(path)
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def problem_with(folder: Path, *, sums: bool = True) -> str | None:
    """Why a folder is no valid checkpoint, or None. Without ``sums`` its files are only looked
    for, not read."""
    try:
        text = (folder / "manifest.json").read_text(encoding="utf-8")
        manifest = json.loads(text)
        expected = dict(manifest["files"])
    except FileNotFoundError:
        return "no manifest.json"
    except OSError as error:
        return f"manifest.json cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "manifest.json is damaged"
    if text != json_text(manifest):  # damage that JSON would not notice
        return "manifest.json is damaged"
    if not expected:
        return "manifest.json lists no file"
    for name, expected_sum in expected.items():
        path = folder / name
        try:
            if not path.is_file():
                return f"{name} is missing"
            if sums and sha256_of(path) != expected_sum:
                return f"{name} is damaged (sha256 differs)"
        except OSError as error:  # the disk or its rights refuse
            return f"{name} cannot be read: {error.strerror}"
    return None


def checkpoints(run_folder: Path) -> list[Path]:
    """Folders named checkpoint-N, newest first."""
    found = [p for p in run_folder.glob("checkpoint-*") if p.is_dir() and _NAME.fullmatch(p.name)]
    return sorted(found, key=step_of, reverse=True)


def step_of(folder: Path) -> int:
    """
    >>> step_of(Path("runs/a/checkpoint-250"))
    250
    """
    return int(_NAME.fullmatch(folder.name)[1])


def choose(run_folder: Path, asked: str) -> tuple[Path, list[str]]:
    """The checkpoint to resume from, and a line for each newer one that was skipped.

    ``asked``: a checkpoint folder, or ``latest`` for the newest valid one of the run.

    Raises:
        UserError: there is none, or the one that was named is damaged or not the last.
    """
    if asked != "latest":
        folder = Path(asked)
        if not _NAME.fullmatch(folder.name) or not folder.is_dir():
            fix = "give a folder named checkpoint-N, or latest"
            raise UserError("no such checkpoint", where=asked, fix=fix)
        problem = problem_with(folder)
        if problem:
            raise UserError(f"the checkpoint is damaged: {problem}", where=folder, fix="use latest")
        # what the run saves would be older than those: never found again, and deleted first
        later = [p for p in checkpoints(run_folder) if step_of(p) > step_of(folder)]
        if later := [p.name for p in later if problem_with(p) is None]:
            what = f"the run folder holds later checkpoints than {folder.name}: {', '.join(later)}"
            fix = "move them elsewhere, or resume from latest"
            raise UserError(what, where=run_folder, fix=fix)
        return folder, []
    skipped = []
    for folder in checkpoints(run_folder):
        problem = problem_with(folder)
        if problem is None:
            return folder, skipped
        skipped.append(f"skipped {folder.name}: {problem}")
    detail = f" ({'; '.join(skipped)})" if skipped else ""
    fix = "leave out --resume_from_checkpoint to start from the beginning"
    raise UserError(f"no valid checkpoint to resume from{detail}", where=run_folder, fix=fix)


def prune(run_folder: Path, keep: int, saved: Path | None = None) -> list[str]:
    """Delete what is older than the newest ``keep`` good checkpoints, and what kills have left
    under temporary names. Returns a line for each that is damaged, or cannot be deleted.

    A good one is deleted only when ``keep`` newer ones have been read again and found whole. Those
    with a higher number than ``saved``, which the run has just written, are not of its past: they
    neither count nor go.
    """
    good, told = 0, []
    found = [p for p in checkpoints(run_folder) if not saved or step_of(p) <= step_of(saved)]
    for folder in found if len(found) > keep else ():
        if good >= keep:
            told += _delete(folder)
        elif problem := problem_with(folder):
            told.append(f"{folder.name} is not counted: {problem}")
        else:
            good += 1
    for folder in (*run_folder.glob(".checkpoint-*.tmp"), *run_folder.glob(".checkpoint-*.old")):
        told += _delete(folder)
    return told


def _delete(folder: Path) -> list[str]:
    """Delete a folder, or the link to one; a line if that is refused."""
    try:
        if folder.is_symlink():
            folder.unlink()
        else:
            (folder / "manifest.json").unlink(missing_ok=True)  # from here on it does not exist
            shutil.rmtree(folder)
    except OSError as error:
        return [f"{folder.name} cannot be deleted: {error.strerror or error}"]
    return []


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
