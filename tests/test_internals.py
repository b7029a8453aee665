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


def test_what_is_leaned_on_has_a_ceiling_that_lets_in_what_is_tested():
    """``setup.py``, of which also everything else must allow what is installed here."""
    text = (Path(__file__).resolve().parents[1] / "setup.py").read_text(encoding="utf-8")
    wanted = [Requirement(each) for each in re.findall(r'"([a-z][\w-]*[<>=]=?[\d.,<>=]+)"', text)]
    assert len(wanted) > 25
    for each in wanted:
        with contextlib.suppress(PackageNotFoundError):
            assert version(each.name) in each.specifier, each
    leaned_on = {module.split(".")[0] for module, *_ in LEANS_ON} | {"transformers", "peft"}
    ceilings = {each.name for each in wanted if "<" in str(each.specifier)}
    assert leaned_on <= ceilings


def test_what_is_not_there_is_found():
    assert missing_from("deepspeed.runtime.engine", ("was_step_applied", "no_such_thing")) == [
        "no_such_thing"
    ]
