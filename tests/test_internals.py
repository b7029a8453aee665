"""What the kit leans on inside of other packages is still there, said in words where it is not."""

import contextlib
import importlib
import inspect
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kit.plan import accelerate_internals, torch_internals
from kit.run import deepspeed_internals, extensions

LEANS_ON = (
    *deepspeed_internals.LEANS_ON,
    *accelerate_internals.LEANS_ON,
    *torch_internals.LEANS_ON,
    *extensions.LEANS_ON,
)


def missing_from(module_name: str, names: tuple[str, ...]) -> list[str]:
    """Names that a module neither has nor speaks of: attributes of instances stand in its source
    alone."""
    if module_name == "torch.ops.aten":
        return [name for name in names if not hasattr(torch.ops.aten, name)]
    module = importlib.import_module(module_name)
    source = inspect.getsource(module)
    return [name for name in names if not hasattr(module, name) and name not in source]


@pytest.mark.parametrize(
    ("module", "names", "purpose"), LEANS_ON, ids=lambda value: str(value)[:60]
)
def test_what_is_leaned_on_is_there(module, names, purpose):
    missing = missing_from(module, names)
    version = importlib.import_module(module.split(".")[0]).__version__
    assert not missing, (
        f"{module} of version {version} no longer has {missing}, which the kit needs for "
        f"{purpose}: see the module that lists it"
    )


ROOT = Path(__file__).resolve().parents[1]
WANTED = [  # by setup.py
    Requirement(each)
    for each in re.findall(
        r'"([a-z][\w-]*[<>=]=?[\d.,<>=]+)"', (ROOT / "setup.py").read_text("utf-8")
    )
]


def test_what_is_leaned_on_has_a_ceiling_that_lets_in_what_is_tested():
    """``setup.py``, of which also everything else must allow what is installed here."""
    assert len(WANTED) > 25
    for each in WANTED:
        with contextlib.suppress(PackageNotFoundError):
            assert version(each.name) in each.specifier, each
    leaned_on = {module.split(".")[0] for module, *_ in LEANS_ON} | {"transformers", "peft"}
    ceilings = {each.name for each in WANTED if "<" in str(each.specifier)}
    assert leaned_on <= ceilings


def test_the_versions_that_were_tested_are_allowed():
    """``.ci/constraints.txt`` names one of each package that setup.py wants, and no place of this
    machine's."""
    text = (ROOT / ".ci/constraints.txt").read_text(encoding="utf-8")
    pins = [Requirement(line) for line in re.findall(r"^[^#\n].*", text, re.MULTILINE)]
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) and not pin.url for pin in pins)
    tested = {canonicalize_name(pin.name): str(pin.specifier)[2:] for pin in pins}
    assert len(tested) == len(pins)
    for each in WANTED:
        assert tested[canonicalize_name(each.name)] in each.specifier, each


def test_what_is_not_there_is_found():
    assert missing_from("deepspeed.runtime.engine", ("was_step_applied", "no_such_thing")) == [
        "no_such_thing"
    ]
