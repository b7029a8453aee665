"""The configuration files that come with the kit, from a checkout or an installed wheel, by name.

Both lay them out alike: ``launch/configs``, ``accelerate_configs``, ``ds_configs`` and ``slurm``
stand side by side.
"""

from __future__ import annotations

from pathlib import Path

_KIT = Path(__file__).resolve().parent
ROOT = _KIT / "_shipped" if (_KIT / "_shipped").is_dir() else _KIT.parent
CONFIGS, LAUNCHES, SLURM = "launch/configs", "accelerate_configs", "slurm"


def find(named: str | Path, folder: str) -> Path:
    """The file of that path, seen from the working folder; else the kit's own, by the path that it
    has in a checkout or by its bare name in ``folder``. The path as it is, if there is none.

    >>> find("sft", CONFIGS).relative_to(ROOT).as_posix()
    'launch/configs/sft.yaml'
    """
    path = Path(named).expanduser()
    places = (path, ROOT / path, ROOT / folder / path, ROOT / folder / f"{path}.yaml")
    return next((place for place in places if place.is_file()), path)


def names(folder: str) -> list[str]:
    """The bare names of the files in a folder of the kit's own.

    >>> "zero2" in names(LAUNCHES)
    True
    """
    return sorted(path.stem for path in (ROOT / folder).glob("*.yaml"))
