"""Images that lie in a column of a table, as files that are named by their content."""

from __future__ import annotations

import hashlib
from pathlib import Path

from kit.files import atomic_write

_EXTENSIONS = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png"}


def stored_image(content: bytes, folder: Path) -> Path:
    """The file in ``folder`` with these bytes, written if it is not there; the first 20 hex digits
    of their SHA-256 are its name.

    Raises:
        UserError: the disk refused.
    """
    extension = next((e for magic, e in _EXTENSIONS.items() if content.startswith(magic)), ".img")
    path = folder / (hashlib.sha256(content).hexdigest()[:20] + extension)
    if not path.is_file() or path.stat().st_size != len(content):
        with atomic_write(path, "wb") as stream:
            stream.write(content)
    return path.absolute()
