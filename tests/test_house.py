"""The house holds: top level, import direction, thin scripts, nothing that starts on import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOP_LEVEL = {
    "kit", "launch", "accelerate_configs", "ds_configs", "slurm", "data", "tests", "setup.py",
    "README.md", "LICENSE", "pyproject.toml",
}  # fmt: skip
FOUNDATION = ("errors", "files", "command")
ROOMS = (
    "data", "prompting", "scoring", "model", "counterfactual", "run", "train", "grpo", "plan",
    "report", "evaluate", "share", "demo",
)  # fmt: skip
MODULES = sorted((ROOT / "kit").rglob("*.py"))


def floor_of(module: str) -> int:
    """Foundation lies under every room; rooms follow each other."""
    parts = module.split(".")
    if len(parts) == 1:
        return -2
    return -1 if parts[1] in FOUNDATION else ROOMS.index(parts[1])


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            if node.module == "kit" or node.module.startswith("kit."):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "kit"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_top_level_is_as_designed():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    found = {name.split("/")[0] for name in tracked if name}
    assert {name for name in found if not name.startswith(".")} <= TOP_LEVEL


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_run_downwards(path):
    own = floor_of(module_name(path))
    above = [name for name in imports_of(path) if floor_of(name) > own]
    assert not above, f"{module_name(path)} imports from rooms that come after it: {above}"


def test_the_kit_knows_nothing_of_what_starts_it():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.module.split(".")[0] not in ("slurm", "launch", "tests"), path


def test_data_room_needs_no_torch():
    for path in (ROOT / "kit" / "data").rglob("*.py"):
        names = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for name in (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
            )
        }
        assert "torch" not in names, path


def test_scripts_are_thin():
    for path in (ROOT / "launch").glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 45, path


def test_importing_every_module_starts_nothing():
    """No output, no folder, no network: each module is imported in one fresh process."""
    modules = [module_name(path) for path in MODULES]
    code = f"import importlib\nfor m in {modules!r}: importlib.import_module(m)"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
