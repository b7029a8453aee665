"""The command medvqa: what it lists, how it starts what it names, and what a wheel holds."""

import os
import subprocess
import sys
import zipfile
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from kit import cli
from kit.cli import COMMANDS, OTHERS
from kit.errors import UserError
from kit.shipped import CONFIGS, LAUNCHES, STUDIES, names

ROOT = Path(__file__).resolve().parents[1]


def medvqa(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-X", "importtime", "-m", "kit.cli", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)


def test_help_lists_every_command_and_loads_nothing(tmp_path):
    done = medvqa("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert not {*COMMANDS, *OTHERS} - {line.split()[0] for line in done.stdout.splitlines() if line}
    assert not [
        name for name in ("transformers", "torch", "yaml", "argparse") if name in done.stderr
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trian_sft"], "did you mean 'train_sft'"),
        (["train-sft", "--data", "nope.json"], "no such data file"),
        (["train_sft", "--data", "{data}", "--lr", "fast"], "argument --learning_rate"),
        (["train_sft", "--data", "{broken}"], "broken.json:2"),
        (["train_sft", "--data", "{data}", "--base_model", "./nope"], "no such model folder"),
        (["train_grpo", "--data", "{data}", "--sft_ckpt", "nope"], "no such adapter folder"),
        (
            ["evaluate", "--data", "{data}", "--output", "o", "--adapter", "."],
            "adapter_config.json",
        ),
        (["train_sft", "--cfg", "nope", "--data", "{data}"], "sft_qlora"),
        (["train_sft", "--data", "{data}", "--accelerate_config", "nope"], "no such config file"),
        (["export", "--adapter", "nope", "--output", "o"], "no such adapter folder"),
        (["check_boxes", "--base_model", "./nope", "--output", "o"], "no such model folder"),
        (["gpu_setup", "--stage", "grpo", "--config", "nope"], "no such config file"),
        (["report", "--output", "o", "a=b"], "say which flag it is for"),
        (["configs", "nope"], "medvqa configs lists them"),
        (["completion", "cmd"], "bash"),
        (["slurm", "status"], "required: run"),
    ],
)
def test_a_mistake_is_told_without_torch(words, told, tmp_path, monkeypatch, capsys, prepared):
    """Which takes seconds to load: here any use of it ends the test."""
    broken = tmp_path / "broken.json"
    with Path(prepared["train"]).open(encoding="utf-8") as stream:
        broken.write_text(f"{stream.readline()}{{\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    for stage in COMMANDS.values():
        monkeypatch.setitem(sys.modules, stage.function.partition(":")[0], None)
    places = {"data": prepared["train"], "broken": broken}
    with pytest.raises(UserError) as caught:
        cli.execute(*(word.format(**places) for word in words))
    assert told in str(caught.value)
    assert caught.value.fix


def test_words_ahead_of_the_flags_fill_a_list():
    assert cli.with_words(COMMANDS["report"], ["a=b", "--seed", "1"]) == [
        "--evaluations", "a=b", "--seed", "1",
    ]  # fmt: skip
    assert cli.with_words(COMMANDS["report"], ["--seed", "1"]) == ["--seed", "1"]
    assert cli.with_words(COMMANDS["evaluate"], ["a"]) == ["a"]


def test_a_command_becomes_accelerate_launch(tmp_path, monkeypatch, prepared):
    """With the file of the name that was given, and every other flag as it was."""
    started = []
    monkeypatch.setattr(os, "execv", lambda _, words: started.append(words) or sys.exit(0))
    monkeypatch.chdir(tmp_path)
    flags = ["--data", str(prepared["train"]), "--base_model", "tiny", "--cfg", "sft"]
    with pytest.raises(SystemExit):
        cli.execute("train_sft", *flags, "--accelerate_config", "zero2", "--num_processes", "3")
    config = str(ROOT / "accelerate_configs/zero2.yaml")
    launch = ["accelerate.commands.launch", f"--config_file={config}", "--num_processes=3"]
    assert started == [[sys.executable, "-m", *launch, "-m", "kit.cli", "train_sft", *flags]]


def test_the_files_of_the_kit_are_listed_with_their_place(capsys):
    cli.execute("configs")
    told = capsys.readouterr().out
    folders = (CONFIGS, LAUNCHES, STUDIES)
    assert not [name for folder in folders for name in names(folder) if name not in told]
    cli.execute("configs", "zero2")
    assert yaml.safe_load(Path(capsys.readouterr().out.strip()).read_text())["num_processes"]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_every_flag(shell, capsys, tmp_path):
    cli.execute("completion", shell)
    script = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert name in script
        assert not [f.name for f in fields(command.config_class) if f"--{f.name}" not in script]
    if shell == "bash":
        (tmp_path / "c").write_text(script)
        asks = "source ./c; COMP_WORDS=(medvqa train_sft --lora_r); COMP_CWORD=2; _shtab_medvqa"
        done = subprocess.run(
            ["bash", "-c", f'{asks}; echo "${{COMPREPLY[@]}}"'], cwd=tmp_path, capture_output=True,
            text=True,
        )  # fmt: skip
        assert "--lora_r" in done.stdout.split(), done


def test_a_wheel_holds_what_a_checkout_has(tmp_path):
    """And works from it, in an empty folder: by name, and what SLURM would be given."""
    source, folder = tmp_path / "source", tmp_path / "empty"
    folder.mkdir()
    beside = (
        "launch/configs", "launch/studies", "launch/notebooks", "accelerate_configs", "ds_configs",
        "slurm",
    )  # fmt: skip
    names = ["setup.py", "pyproject.toml", "README.md"] + [
        str(path.relative_to(ROOT))
        for folder in ("kit", *beside)
        for path in (ROOT / folder).rglob("*.*")
        if path.is_file() and path.suffix != ".pyc"
    ]
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    build = "import setuptools.build_meta as b; b.build_sdist('..'); b.build_wheel('..')"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as held:
        held.extractall(tmp_path / "installed")
        inside = set(held.namelist())
    wanted = {name for name in names if name.startswith("kit/")}
    wanted |= {f"kit/_shipped/{name}" for name in names if name.startswith(beside)}
    assert wanted - inside == set()
    (sdist,) = tmp_path.glob("*.tar.gz")
    held = subprocess.run(["tar", "tzf", sdist], capture_output=True, text=True).stdout
    assert "/ds_configs/zero2.json" in held
    assert "medvqa = kit.cli:main" in "".join(
        p.read_text() for p in (tmp_path / "installed").rglob("entry_points.txt")
    )

    def installed(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "kit.cli", *words], cwd=folder, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(tmp_path / "installed"), "PATH": "/nowhere"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert str(tmp_path / "installed/kit/_shipped/accelerate_configs/zero2.yaml") in installed(
        "configs", "zero2"
    )
    told = installed(
        "slurm", "stage", "train_sft", "--cfg", "sft_tiny", "--data", "x.json",
        "--accelerate_config", "cpu_zero2", "--dry_run",
    )  # fmt: skip
    assert "#SBATCH --ntasks-per-node=4" in told
