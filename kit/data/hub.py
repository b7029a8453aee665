"""A data set of the hub, or a local folder laid out as one, by ``datasets``. Its code is never run:
this version of ``datasets`` has no way to."""

from __future__ import annotations

import os
from pathlib import Path

from kit.data.tables import HUB, SPLITS, Row, Table, without_nulls
from kit.errors import DataError


def read_hub(name: str) -> Table:
    """The rows of ``hf:owner/name``, ``hf:owner/name:config`` or ``hf:folder``, all splits.

    Raises:
        DataError: it cannot be loaded, or is one of several configurations.
    """
    import datasets

    source, _, config = name.removeprefix(HUB).partition(":")
    folder = Path(source).expanduser()
    try:
        loaded = datasets.load_dataset(str(folder) if folder.is_dir() else source, config or None)
    except Exception as error:  # hub, files and formats each raise their own kinds
        what = f"cannot load the data set: {' '.join(str(error).split())[:300]}"
        fix = "check name and network; of several configurations name one: hf:owner/name:config"
        raise DataError(what, where=name, fix=fix) from error
    images = Path(datasets.config.HF_DATASETS_CACHE) / "medvqa_images" / source.replace("/", "--")
    if folder.is_dir():
        images = folder / ".images"
    table = Table(name, [], images)
    for split, rows in loaded.items():
        for column, kind in rows.features.items():
            if isinstance(kind, datasets.Image):
                rows = rows.cast_column(column, datasets.Image(decode=False))
        known = SPLITS.get(split.lower(), "") if len(loaded) > 1 else ""
        base = folder if folder.is_dir() else Path(os.getcwd())
        table.rows += [
            Row(
                f"{name}[{split}][{number}]", without_nulls(_named(row, rows.features)), base, known
            )
            for number, row in enumerate(rows)
        ]
    return table


def _named(row: dict, features: dict) -> dict:
    """A row whose class labels have their names instead of their numbers."""
    return {
        name: features[name].int2str(value)
        if hasattr(features[name], "int2str") and isinstance(value, int)
        else value
        for name, value in row.items()
    }
