"""Which processes of this machine are alive and have a file open, and whether others see it.

Linux tells it in ``/proc``. Where there is none nothing is known: a process counts as alive if it
can be signalled, a file as open by nobody here and as seen by other machines.
"""

from __future__ import annotations

import os
from pathlib import Path

# kinds of file systems that one machine has for itself
OWN = frozenset(
    ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "ramfs", "overlay")
)


def holders(path: Path) -> list[int]:
    """The processes that have a file open, of those that may be looked at."""
    wanted = str(path.resolve())
    found = set()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(descriptor) == wanted:
                found.add(int(descriptor.parts[2]))
        except OSError:  # it has ended, or is another user's
            continue
    return sorted(found)


def is_of_this_machine(path: Path) -> bool:
    """Whether no other machine sees a file, by the kind of its file system."""
    best, kind = Path("/"), ""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    for line in mounts.rstrip("\n").split("\n"):
        mount, _, source = line.partition(" - ")
        point = Path(mount.split()[4].replace("\\040", " "))
        if path.resolve().is_relative_to(point) and len(point.parts) >= len(best.parts):
            best, kind = point, source.split()[0]
    return kind in OWN


def started_at(pid: int) -> str | None:
    """When a process of this machine began, in the kernel's own count, which no clock changes;
    empty where it does not tell, None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return "" if _is_alive(pid) else None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not Path("/proc/self/stat").exists()
