"""The house holds: top level, order of rooms, thin scripts, nothing that starts on import."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kit
from kit.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
TOP_LEVEL = {
    "kit", "launch", "accelerate_configs", "ds_configs", "slurm", "data", "tests", "setup.py",
    "README.md", "LICENSE", "pyproject.toml",
}  # fmt: skip
FOUNDATION = ("errors", "text", "files", "yaml_files", "shipped", "command")
ROOMS = (
    "data", "prompting", "scoring", "model", "counterfactual", "run", "train", "grpo", "plan",
    "report", "audit", "evaluate", "share", "study", "demo",
)  # fmt: skip
MODULES = sorted((ROOT / "kit").rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> Iterator[str]:
    """What a module imports, wherever it does: of ``from a import b`` a and a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str | None:
    """None: not of the kit, or nothing but ``kit`` itself."""
    parts = module.split(".")
    return parts[1] if parts[0] == "kit" and len(parts) > 1 else None


def arrows_of(imports: dict[str, set[str]]) -> dict[tuple[str, str], set[str]]:
    """Which room takes from which other, with the modules that do."""
    arrows: dict[tuple[str, str], set[str]] = {}
    for module, names in imports.items():
        taker = room_of(module)
        for giver in {room_of(name) for name in names} & {*ROOMS, *FOUNDATION}:
            if taker and taker != giver:
                arrows.setdefault((taker, giver), set()).add(module)
    return arrows


IMPORTS = {module_name(path): set(imports_of(path)) for path in MODULES}
ARROWS = arrows_of(IMPORTS)


def test_top_level_is_as_designed():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    found = {name.split("/")[0] for name in tracked if name}
    assert {name for name in found if not name.startswith(".")} <= TOP_LEVEL
    assert {path.name for path in ROOT.iterdir()} >= TOP_LEVEL


def test_rooms_are_those_of_the_design():
    found = {path.parent.name for path in (ROOT / "kit").glob("*/__init__.py")}
    assert found == set(ROOMS)
    assert {path.stem for path in (ROOT / "kit").glob("*.py")} == {"__init__", "cli", *FOUNDATION}


def test_imports_run_downwards():
    """Foundation lies under every room; each room takes from itself and from those before it."""
    order = (*FOUNDATION, *ROOMS, "cli")
    upwards = {
        f"{taker} takes from {giver}": sorted(modules)
        for (taker, giver), modules in ARROWS.items()
        if order.index(taker) < order.index(giver)
    }
    assert not upwards
    assert len(ARROWS) > 30  # the imports were read


def test_evaluation_imports_no_trainer():
    """Nor does it by what it imports."""
    reached, ahead = set(), [name for name in IMPORTS if room_of(name) == "evaluate"]
    while ahead:
        module = ahead.pop()
        if module not in reached:
            reached.add(module)
            ahead += [name for name in IMPORTS[module] if name in IMPORTS and name != "kit"]
    assert len(reached) > 20
    assert not [name for name in reached if room_of(name) in ("train", "grpo")]


def test_the_newcomer_s_page_names_each_room_once_in_the_order_of_the_imports():
    listed = re.findall(r"^- (\w+): \S.*", kit.__doc__, re.MULTILINE)
    assert sorted(listed) == sorted(ROOMS)
    for taker, giver in ARROWS:
        if taker in ROOMS and giver in ROOMS:
            assert listed.index(giver) < listed.index(taker), f"{taker} takes from {giver}"
    for name in FOUNDATION:
        assert f"``{name}``" in kit.__doc__


def test_modules_stay_short():
    lines = {module_name(path): path.read_text("utf-8").count("\n") for path in MODULES}
    assert not {name: count for name, count in lines.items() if count > 300}


def test_the_loops_can_be_seen_at_once():
    for file in ("train/sft.py", "grpo/grpo.py"):
        body = ast.parse((ROOT / "kit" / file).read_text(encoding="utf-8")).body
        (loop,) = (n for n in body if isinstance(n, ast.FunctionDef) and n.name == "run")
        assert loop.end_lineno - loop.lineno < 120, file


def test_the_kit_knows_nothing_of_what_starts_it_nor_of_test_doubles():
    unwanted = {"slurm", "launch", "tests", "unittest", "pytest"}
    found = {m: [n for n in names if n.split(".")[0] in unwanted] for m, names in IMPORTS.items()}
    assert not {module: names for module, names in found.items() if names}


def test_data_room_needs_no_torch():
    for module, names in IMPORTS.items():
        if room_of(module) == "data":
            assert "torch" not in {name.split(".")[0] for name in names}, module


def lines_by_hand(path: Path) -> set[int]:
    """Where a module reads or writes JSON lines by itself: a file's text that it takes apart,
    JSON of the variable of a loop, JSON to which it adds an end of line."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text) if re.search(r"json|splitlines|split\(", text) else ast.Module([], [])
    calls, over = [], set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.For, ast.comprehension)):
            over |= {n.id for n in ast.walk(node.target) if isinstance(n, ast.Name)}
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("loads", "strict_json", "splitlines", "split"):
                calls.append((node.lineno, ast.unparse(node)))
        elif isinstance(node, (ast.BinOp, ast.JoinedStr)):
            calls.append((node.lineno, ast.unparse(node)))
    read = rf"(json\.loads|strict_json)\(({'|'.join(over) or '-'})\)$"
    cut = r".*read(_text|_bytes)?\(.*\)\.split(lines\(|\(b?'\\n')"
    written = r".*json\.dumps\(.*\\n'"
    return {line for line, call in calls if re.match(f"{read}|{cut}|{written}", call)}


def test_json_lines_are_read_and_written_in_one_place():
    """``kit.files``; ``str.splitlines`` parts at what stands in the middle of a text."""
    own = {ROOT / "kit/files.py", ROOT / "tests/test_files.py"}
    rooms = ("kit", "launch", "slurm", "tests")
    paths = {path for room in rooms for path in (ROOT / room).rglob("*.py")}
    found = {str(path.relative_to(ROOT)): lines_by_hand(path) for path in paths - own}
    assert not {name: lines for name, lines in found.items() if lines}
    assert all(map(lines_by_hand, own)), "they are found"


def test_configuration_needs_no_torch():
    """A typing mistake or ``--help`` costs no import of it, by no command."""
    parsed = {one.config.partition(":")[0] for one in COMMANDS.values()}
    assert len(parsed) >= 6
    code = f"import sys, {', '.join(sorted(parsed))}\nprint('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.stdout.strip(), done.returncode) == ("False", 0), done.stderr


def unannotated(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    """Public functions and methods that leave the type of a parameter or of the result open."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from unannotated(node.body, f"{prefix}.{node.name}")
        hidden = isinstance(node, ast.FunctionDef) and re.match(r"_(?!_)", node.name)
        if isinstance(node, ast.FunctionDef) and not hidden:
            names = {name.id for name in node.decorator_list if isinstance(name, ast.Name)}
            bound = prefix.rpartition(".")[2][0].isupper() and "staticmethod" not in names
            a = node.args
            taken = [*(a.posonlyargs + a.args)[bound:], a.vararg, *a.kwonlyargs, a.kwarg]
            known = node.returns or node.name in ("__init__", "__post_init__")
            if not known or any(each and each.annotation is None for each in taken):
                yield f"{prefix}.{node.name}"


def test_what_is_public_says_its_types():
    """Which ``py.typed`` promises to whoever imports it."""
    assert (ROOT / "kit/py.typed").is_file()
    trees = {module_name(path): ast.parse(path.read_text("utf-8")).body for path in MODULES}
    assert not [name for module, body in trees.items() for name in unannotated(body, module)]
    open_ones = ast.parse(
        "def f(a): ...\nclass A:\n def g(self): ...\n def h(self, *b) -> None: ..."
    )
    assert [*unannotated(open_ones.body, "m")] == ["m.f", "m.A.g", "m.A.h"]


def test_scripts_do_nothing_but_start_the_command_of_their_name():
    scripts = {path.stem: path.read_text("utf-8") for path in (ROOT / "launch").glob("*.py")}
    assert scripts.keys() == COMMANDS.keys() - {"phantoms"}
    for name, text in scripts.items():
        body = f'from kit import cli\n\nif __name__ == "__main__":\n    cli.main_of("{name}")\n'
        assert text.partition('"""\n\n')[2] == body, name


@pytest.mark.slow
def test_importing_every_module_starts_nothing(tmp_path):
    """No output, no file, no thread, no network, in one fresh process."""
    code = f"""
import importlib, socket, sys, threading
sys.path.insert(0, {str(ROOT)!r})
def refuse(*_, **__): raise AssertionError("something was started")
socket.socket.connect = refuse
before = threading.active_count()
for module in {sorted(IMPORTS)!r}: importlib.import_module(module)
assert threading.active_count() == before, threading.enumerate()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert not [*tmp_path.iterdir()]
