"""What a run is made of beside its configuration: records, images, adapters, packages. Whatever
goes on with a run compares them, be it training or a model that is asked."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kit.data.fields import relative_image
from kit.data.grpo_records import GrpoRecord
from kit.data.records import SftRecord
from kit.data.tables import plain_values, read_table
from kit.errors import RecordError, UserError
from kit.files import json_line, sha256_of

# Whose other version may make other numbers.
PACKAGES = (
    "torch", "transformers", "peft", "accelerate", "deepspeed", "bitsandbytes", "tokenizers",
    "safetensors", "numpy", "pillow", "sentence-transformers",
    "torchvision",  # if there, it and not PIL makes the pixels that a model sees
)  # fmt: skip
SHOWN = 5  # names of files in a message

Record = SftRecord | GrpoRecord


def unchanged(
    config: object,
    data: Mapping[str, Sequence[Record]],
    before: dict | None,
    *,
    where: Path | None = None,
    fix: str = "",
    say: Callable[[str], None] = print,
) -> dict:
    """What a run is made of now, as plain JSON: a group for each data file, local base model and
    adapter (``path``, the sum of its ``records``, the ``files`` with theirs), and ``packages``.

    Args:
        data: the fields of the configuration that name data files, and the records whose images
            count.
        before: the same of the run that is gone on with, None for a new one. A file of its size
            and times is not read again.
        where, fix: for the error.

    Raises:
        UserError: records or files are not what they were; names them. Other packages are only
            said, and a file that was named anew is the configuration's matter.
    """
    now: dict[str, dict] = {"packages": versions()}
    for name, records in data.items():
        if path := getattr(config, name, ""):
            distinct = dict.fromkeys(image for r in records for image in r.images)
            folder = Path(path).parent
            images = {relative_image(Path(image), folder): image for image in distinct}
            files = _sums(images, _files_of(before, name))
            now[name] = {"path": path, "records": _sum_of_records(path), "files": files}
    for name in ("base_model", "adapter", "sft_ckpt"):
        folder = getattr(config, name, "") or ""
        weights = {path.name: str(path) for path in Path(folder or ".none").glob("*.safetensors")}
        if weights:  # a hub's model is named by its commit
            files = _sums(weights, _files_of(before, name))
            now[name] = {"path": folder, "records": "", "files": files}
    if before is not None:
        if changed := changes(before, now):
            what = f"what the run is made of has changed: {'; '.join(changed)}"
            raise UserError(what, where=where, fix=fix)
        old, new = before.get("packages", {}), now["packages"]
        if old and (names := _differing(old, new)):
            other = ", ".join(f"{name} {old.get(name)} -> {new.get(name)}" for name in names)
            say(f"warning: other packages than before, numbers may differ: {other}")
    return now


def changes(before: dict, now: dict) -> list[str]:
    """A line for each group of which records or files differ; a file's times alone do not count.

    >>> old = {"data": {"path": "a.json", "records": "2 x", "files": {"1.png": "9 5 5 x"}}}
    >>> new = {"data": {"path": "a.json", "records": "3 y", "files": {"1.png": "9 6 6 z"}}}
    >>> changes(old, new)
    ['data (a.json): its records (3, before 2), 1.png']
    """
    told = []
    for name in now.keys() & before.keys() - {"packages"}:
        old, new = before[name], now[name]
        if old["path"] != new["path"]:
            continue
        found = []
        if old["records"] != new["records"]:
            counts = [group["records"].split()[0] for group in (new, old)]
            found.append("its records ({}, before {})".format(*counts))
        files = _differing(_contents(old["files"]), _contents(new["files"]))
        found += files[:SHOWN] + [f"{len(files) - SHOWN} files more"] * (len(files) > SHOWN)
        if found:
            told.append(f"{name} ({new['path']}): {', '.join(found)}")
    return sorted(told)


def versions() -> dict[str, str | None]:
    """The versions of the packages that matter; None where one is not installed."""
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found | {"opencv": _opencv_version()}


def _opencv_version() -> str | None:
    """Of what is imported, whichever of its four packages it came with."""
    with contextlib.suppress(ImportError):
        return importlib.import_module("cv2").__version__
    return None


def _sum_of_records(path: str) -> str:
    """How many records a data file holds, and the sum of what they say, however it is written."""
    digest, count = hashlib.sha256(), 0
    for row in read_table(path).rows:
        if not isinstance(row.value, RecordError):
            digest.update(json_line(plain_values(row.value)).encode())
            count += 1
    return f"{count} {digest.hexdigest()}"


def _sums(paths: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """Size, times (of contents and of the file itself, ns) and sum of each file, by its name."""

    def look(name: str) -> str:
        stat = os.stat(paths[name])
        seen = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} "
        if known.get(name, "").startswith(seen):
            return known[name]
        return seen + sha256_of(paths[name])

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(paths, pool.map(look, paths), strict=True))


def _files_of(before: dict | None, name: str) -> dict[str, str]:
    return (before or {}).get(name, {}).get("files", {})


def _contents(files: Mapping[str, str]) -> dict[str, list[str]]:
    return {name: entry.split()[::3] for name, entry in files.items()}


def _differing(old: Mapping, new: Mapping) -> list[str]:
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
