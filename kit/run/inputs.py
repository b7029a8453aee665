"""What a command reads, looked at before torch is loaded, so that a wrong path is told at once.

The command looks again, and closer, when it reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kit.errors import need_extra
from kit.files import missing_data
from kit.model.folders import require_adapter, resolve_base

SMALL = 4 * 2**20  # bytes of a data file that is read at once


def require_inputs(config: object, read: Callable | None) -> None:
    """
    Args:
        config: of a command; the keys of models and data are looked at, where it has such.
        read: the reader of its records, if it reads any.

    Raises:
        UserError: a data file, an adapter or a base that is not there or cannot be used; broken
            lines of a small data file; a package that is not installed.
    """
    if getattr(config, "quantization", None) == "nf4":
        need_extra("bitsandbytes", "qlora")
    for key in ("sft_ckpt", "adapter"):
        if folder := getattr(config, key, None):
            require_adapter(folder)
    if base := getattr(config, "base_model", None):
        resolve_base(base)
    if read is None:
        return
    on_bad = "skip" if config.skip_bad else "report"
    for key in ("data", "eval_data", "train_data"):
        if not (named := getattr(config, key, None)) or named.startswith("hf:"):
            continue
        path = Path(named).expanduser()
        if not path.exists():
            raise missing_data(path)
        if key == "data" and path.is_file() and path.stat().st_size <= SMALL:
            read(path, on_bad, layout=config.layout)
