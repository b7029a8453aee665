"""One run a folder: the lock, who holds it, and what a run that was killed left of it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import IO

from kit.errors import UserError
from kit.run.machine import holders, started_at

PATIENCE = 30.0  # seconds for one on its way out
ELSEWHERE = 120.0  # until a file server gives up on a machine that has died (90 s, RFC 8881)
LOOKS_EVERY = 0.2


class FolderLock:
    """Holds a run folder for this process until ``close``, or until the process ends, however it
    does. The file ``.lock`` says who that is.

    One that is held is waited for, saying for whom and how long: ``patience`` seconds, or longer
    if that is a process of another machine, where one may have died whose lock the file server
    still keeps. On a file system without locks the file alone tells: a process of this machine
    that lives holds it, one of another machine is named and passed over.

    Raises:
        UserError: another process holds it; names it, and what to do.
    """

    def __init__(self, folder: str | Path, patience: float = PATIENCE):
        self.path = Path(folder) / ".lock"
        self._stream = self.path.open("a+", encoding="utf-8")
        began, announced = time.monotonic(), False
        while not self._taken():
            who, fix, more = self._other()
            limit = max(patience, ELSEWHERE) if more else patience
            waited = time.monotonic() - began
            if waited > limit:
                self._stream.close()
                what = f"another process is writing here: {who}"
                raise UserError(what, where=folder, fix=fix)
            if not announced:
                print(f"waiting up to {limit:.0f} s for {folder}: {who}", flush=True)
            announced = True
            time.sleep(LOOKS_EVERY)
        self._write({"host": socket.gethostname(), "pid": os.getpid(),
                     "started": started_at(os.getpid())})  # fmt: skip

    def close(self) -> None:
        """Let it go."""
        self._write({})
        self._stream.close()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _taken(self) -> bool:
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            owner = self._owner()
            if owner and owner["host"] == socket.gethostname():
                return started_at(owner["pid"]) != owner["started"]
            if owner:
                print(
                    f"warning: {self.path.parent} was held by process {owner['pid']} of "
                    f"{owner['host']}, and this file system cannot say whether it still is: "
                    "make sure that it has ended",
                    flush=True,
                )
            return True

    def _other(self) -> tuple[str, str, bool]:
        """Who holds it, what to do about that, and whether it is of another machine."""
        fix = "wait for it, end it, or choose another output folder"
        owner = self._owner()
        if not owner:
            return "one that does not say which it is", fix, False
        who = f"process {owner['pid']} of {owner['host']}"
        if owner["host"] != socket.gethostname():
            return who, f"{fix}; if that machine is down: rm {self.path}", True
        if started_at(owner["pid"]) == owner["started"]:
            return f"{who}, this machine", fix, False
        heirs = " ".join(str(pid) for pid in holders(self.path) if pid != os.getpid())
        if not heirs:
            return f"{who}, this machine, which has ended", f"rm {self.path}", False
        return f"{who} has ended, but what it started has not: {heirs}", f"kill {heirs}", False

    def _owner(self) -> dict | None:
        """Who has written its name, or None."""
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self.path.read_text(encoding="utf-8"))
            if {"host", "pid", "started"} <= found.keys():
                return found
        return None

    def _write(self, owner: dict) -> None:
        stream: IO = self._stream
        with contextlib.suppress(OSError):  # a full disk keeps nobody from holding it
            stream.truncate(0)
            stream.write(json.dumps(owner) if owner else "")
            stream.flush()
