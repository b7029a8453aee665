"""The configuration files that come with the kit, from a checkout or an installed wheel, by name.

Both lay them out alike: ``launch/configs``, ``launch/studies``, ``accelerate_configs``,
``ds_configs`` and ``slurm`` stand side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kit.errors import ConfigError

_KIT = Path(__file__).resolve().parent
ROOT = _KIT / "_shipped" if (_KIT / "_shipped").is_dir() else _KIT.parent
CONFIGS, LAUNCHES, SLURM = "launch/configs", "accelerate_configs", "slurm"
STUDIES = "launch/studies"


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


def tell(asked: Sequence[str] = ()) -> str:
    """Where the files of these names are; of no names, which there are and what each is for.

    Raises:
        ConfigError: there is none of a name.
    """
    folders = {
        "--cfg": CONFIGS, "--accelerate_config": LAUNCHES, "study": STUDIES, "slurm": SLURM,
    }  # fmt: skip
    lines = []
    for name in asked:
        found = [folder for folder in folders.values() if name in names(folder)]
        if not found:
            fix = "medvqa configs lists them"
            raise ConfigError(f"no configuration is called {name!r}", where="configs", fix=fix)
        lines.append(str(ROOT / found[0] / f"{name}.yaml"))
    for flag, folder in () if asked else folders.items():
        lines.append(f"{flag + ':':<21}{', '.join(names(folder))}\n{'':<21}in {ROOT / folder}")
    return "\n".join(lines)
