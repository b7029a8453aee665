"""The C++ extensions that DeepSpeed compiles when it is first used, and builds that were killed.

torch guards such a build by a file ``lock`` in its folder and waits for that file without end and
without a word (``torch.utils.file_baton``, read in torch 2.6 to 2.13). A build that was killed
leaves it there.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from torch.utils import cpp_extension

from kit.errors import UserError

# module, the names that it must have, what they are for
LEANS_ON = (
    (
        "torch.utils.cpp_extension",
        ("get_default_build_root", "TORCH_EXTENSIONS_DIR", "'lock'"),
        "finding the lock of a killed build",
    ),
    ("torch.utils.file_baton", ("lock_file_path", "O_EXCL"), "telling a killed build"),
)

BUILT_WITHIN = 180.0  # seconds; the slowest compiler between two files that it writes
LOOKS_EVERY = 1.0


def await_builds() -> None:
    """Return when no build of an extension is left over from a run that was killed.

    One that a process of this machine is at is left to torch to wait for. One of nobody here may
    be of another machine that shares the folder: it is waited for, saying so, as long as anything
    in its folder changes.

    Raises:
        UserError: nothing has changed for ``BUILT_WITHIN`` seconds; names the lock.
    """
    announced = False
    while abandoned := [path for path in _locks() if not _is_open(path)]:
        lock = abandoned[0]
        idle = time.time() - _last_change(lock.parent)
        if idle > BUILT_WITHIN:
            raise UserError(
                f"a build of DeepSpeed's {lock.parent.name} was killed {idle / 60:.0f} minutes ago "
                "and left its lock, for which every later run would wait for ever",
                where=lock,
                fix=f"rm {lock}",
            )
        if not announced and os.environ.get("LOCAL_RANK", "0") == "0":
            left = BUILT_WITHIN - idle
            print(
                f"waiting up to {left:.0f} s: another machine is building DeepSpeed's "
                f"{lock.parent.name}, or a killed run left {lock} (then remove it)",
                flush=True,
            )
        announced = True
        time.sleep(min(LOOKS_EVERY, BUILT_WITHIN - idle + 0.1))


def _locks() -> list[Path]:
    """The locks of extensions that are being built or were, of this Python and device."""
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root()
    return sorted([*Path(root).glob("*/lock"), *Path(root).glob("*/*/lock")])


def _last_change(folder: Path) -> float:
    times = []
    for path in (folder, *folder.iterdir()):
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:  # the build has ended meanwhile
            times.append(time.time())
    return max(times)


def _is_open(path: Path) -> bool:
    """Whether a process of this machine that may be looked at has the file open."""
    wanted = str(path.resolve())
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(descriptor) == wanted:
                return True
        except OSError:  # it has ended, or is another user's
            continue
    return False
