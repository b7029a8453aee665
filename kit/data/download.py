"""Fetching the datasets from their public hub mirrors; the only part of the data room that uses
the network, and only when asked to."""

from __future__ import annotations

from pathlib import Path

from kit.errors import DataError

MIRRORS = {"SLAKE": "BoKelvin/SLAKE", "VQA_RAD": "flaviagiammarino/vqa-rad"}

_PATTERNS = {"SLAKE": ["*.json", "imgs.zip"], "VQA_RAD": ["data/*.parquet"]}


def download(dataset: str, root: str | Path) -> None:
    """Fetch a dataset's mirror into ``root``; files that are there already are kept.

    Raises:
        DataError: no network, no such repository, or the disk refused.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name = MIRRORS[dataset]
    try:
        huggingface_hub.snapshot_download(
            name, repo_type="dataset", local_dir=str(root), allow_patterns=_PATTERNS[dataset]
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        fix = f"check the network, or fetch it by hand into {root} (see data/README.md)"
        what = f"cannot download the dataset {name}: {reason}"
        raise DataError(what, where="--download", fix=fix) from error
