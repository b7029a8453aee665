"""The C++ extensions that DeepSpeed compiles when it is first used, and builds that were killed.

torch guards such a build by a file ``lock`` in its folder and waits for that file without end and
without a word (``torch.utils.file_baton``, read in torch 2.6 to 2.13). A build that was killed
leaves it there.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from torch.utils import cpp_extension

from kit.errors import UserError
from kit.run.machine import holders, is_of_this_machine

# module, the names that it must have, what they are for
LEANS_ON = (
    (
        "torch.utils.cpp_extension",
        ("get_default_build_root", "TORCH_EXTENSIONS_DIR", "'lock'"),
        "finding the lock of a killed build",
    ),
    ("torch.utils.file_baton", ("lock_file_path", "O_EXCL"), "telling a killed build"),
)

# seconds without a change: of a folder that other machines see, where the slowest compiler may be
# at one file for minutes; and of one that only processes here could be building in
BUILT_WITHIN = 900.0
SURE_WITHIN = 5.0
LOOKS_EVERY = 1.0


def await_builds() -> None:
    """Return when no build of an extension is left over from a run that was killed.

    One that a process of this machine is at is left to torch to wait for. One of nobody here, in
    a folder that other machines see, may be theirs: it is named, and waited for as long as
    anything in its folder changes. Times are those of the file system and of a clock that only
    runs forward, so that it does not matter what the clocks of machines say.

    Raises:
        UserError: nothing has changed for too long; names the lock.
    """
    announced, seen, since = False, None, 0.0
    while abandoned := [path for path in _locks() if not holders(path) and path.exists()]:
        lock = abandoned[0]
        changed = _last_change(lock.parent)
        if (lock, changed) != seen:
            before = 0.0 if seen else max(0.0, _now(lock.parent) - changed)
            seen, since = (lock, changed), time.monotonic() - before
        idle = time.monotonic() - since
        patience = SURE_WITHIN if is_of_this_machine(lock) else BUILT_WITHIN
        if idle > patience:
            ago = f"{idle / 60:.0f} minutes ago" if idle >= 90 else f"{idle:.0f} s ago"
            raise UserError(
                f"a build of DeepSpeed's {lock.parent.name} was killed {ago} "
                "and left its lock, for which every later run would wait for ever",
                where=lock,
                fix=f"rm {lock}",
            )
        if not announced and os.environ.get("LOCAL_RANK", "0") == "0":
            print(
                f"waiting up to {patience - idle:.0f} s: another machine is building DeepSpeed's "
                f"{lock.parent.name}, or a killed run left {lock} (then remove it)",
                flush=True,
            )
        announced = True
        time.sleep(max(0.0, min(LOOKS_EVERY, patience - idle + 0.1)))


def _locks() -> list[Path]:
    """The locks of extensions that are being built or were, of this Python and device."""
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root()
    return sorted([*Path(root).glob("*/lock"), *Path(root).glob("*/*/lock")])


def _last_change(folder: Path) -> float:
    """By the file system's clock; infinity when the folder goes meanwhile."""
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    except FileNotFoundError:  # the build has ended, or a compiler's own file has gone
        return float("inf")


def _now(folder: Path) -> float:
    """The file system's clock, which may be another machine's."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder.parent) as probe:
            return os.fstat(probe.fileno()).st_mtime
    except OSError:  # it may not be written
        return time.time()
