"""Command lines: files and flags into dataclasses, mistakes into messages, ends into exit codes."""

import errno
import io
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from kit.command import EXIT_USER_ERROR, option, parse, run, to_yaml
from kit.data.prepare import PrepareConfig
from kit.errors import ConfigError, UserError
from kit.evaluate.config import EvaluateConfig
from kit.train.config import SftConfig

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Config:
    """A stage."""

    name: str = option("none yet", help="100% of it", aliases=["--called"])
    learning_rate: float = option(1e-4, help="rate", aliases=["--lr"])
    steps: int = option(3, help="how many")
    limit: int | None = option(None, help="at most")
    fast: bool = option(False, help="off by default")
    safe: bool = option(True, help="on by default")
    half: bool | None = option(None, help="left out: wherever it is there")
    shape: Literal["flat", "round"] = option("flat", help="of it")
    tools: list[str] = option(help="with what", default_factory=lambda: ["hammer"])

    def __post_init__(self):
        if self.steps > 99:
            raise ConfigError("too many steps", where="steps", fix="fix the value")


def cfg(tmp_path, text: str) -> list[str]:
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    return ["--cfg", str(tmp_path / "c.yaml")]


def test_defaults_then_file_then_flags(tmp_path):
    file = cfg(tmp_path, "steps: 5\nname: file\n")
    assert parse(Config, []) == Config()
    assert parse(Config, file) == Config(steps=5, name="file")
    assert parse(Config, [*file, "--name", "flag"]) == Config(steps=5, name="flag")
    assert parse(Config, ["--name", "flag", *file]) == Config(steps=5, name="flag")
    assert parse(Config, [*file, "--called=flag"]) == Config(steps=5, name="flag")


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001", '"1e-4"', "1E-4", ".0001"])
def test_numbers_arrive_as_numbers(text, tmp_path):
    """YAML 1.1 reads 1e-4 as text."""
    found = parse(Config, cfg(tmp_path, f"learning_rate: {text}")).learning_rate
    assert (type(found), found) == (float, 1e-4)
    assert parse(Config, ["--lr", text.strip('"')]).learning_rate == 1e-4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("limit: 7", {"limit": 7}),
        ("limit: null", {}),
        ("limit:", {}),
        ("", {}),
        ("# nothing", {}),
        ("fast: true", {"fast": True}),
        ("fast: yes", {"fast": True}),
        ("safe: off", {"safe": False}),
        ("half: false", {"half": False}),
        ("tools: [saw, file]", {"tools": ["saw", "file"]}),
        ("tools: saw", {"tools": ["saw"]}),
        ('name: "--fast"', {"name": "--fast"}),
        ("name: a=b -c", {"name": "a=b -c"}),
        ('name: ""', {"name": ""}),
        ("name: 12", {"name": "12"}),
        ("name: 12:00:00", {"name": "12:00:00"}),
        ("name: 0123", {"name": "0123"}),
        ("name: NO", {"name": "NO"}),
        ("name: 2030-01-20T12:34:00", {"name": "2030-01-20T12:34:00"}),
        ("steps: 010", {"steps": 10}),
        ("<<: {steps: 7}", {"steps": 7}),
        ("steps: -2", {"steps": -2}),
        ("shape: round", {"shape": "round"}),
        ("a: &a\n", None),
    ],
)
def test_values_of_a_file(text, expected, tmp_path):
    if expected is None:
        with pytest.raises(ConfigError, match="unknown key 'a'"):
            parse(Config, cfg(tmp_path, text))
    else:
        assert parse(Config, cfg(tmp_path, text)) == Config(**expected)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--fast", {"fast": True}),
        ("--fast false", {}),
        ("--fast=1", {"fast": True}),
        ("--no_safe", {"safe": False}),
        ("--safe no", {"safe": False}),
        ("--half true", {"half": True}),
        ("--steps -2", {"steps": -2}),
        ("--tools saw file", {"tools": ["saw", "file"]}),
        ("--steps 1 --steps 2", {"steps": 2}),
    ],
)
def test_values_of_flags(flags, expected):
    assert parse(Config, flags.split()) == Config(**expected)


def test_both_spellings_of_a_flag_are_one():
    assert parse(Config, ["--learning_rate", "1", "--lr", "2"]).learning_rate == 2
    assert parse(Config, ["--lr", "2", "--learning_rate", "1"]).learning_rate == 1


MISTAKES = {
    "unknown flag": (["--stepps", "1"], ["--stepps", "did you mean 'steps'?", "command line"]),
    "two unknown": (["--namee", "x", "--zebra"], ["--namee --zebra", "'name'"]),
    "nothing near": (["--zebra"], ["--zebra", "--help"]),
    "abbreviation": (["--learning", "1"], ["--learning", "'learning_rate'"]),
    "word": (["zebra"], ["zebra", "command line"]),
    "no value": (["--steps"], ["steps", "expected one argument"]),
    "not a number": (["--steps", "1.5"], ["steps", "'1.5'"]),
    "not a choice": (["--shape", "square"], ["square", "flat", "round"]),
    "not a bool": (["--fast", "perhaps"], ["fast", "perhaps"]),
    "own rule": (["--steps", "100"], ["too many steps", "where: steps"]),
}


@pytest.mark.parametrize(("flags", "words"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_on_the_command_line(flags, words):
    with pytest.raises(ConfigError) as caught:
        parse(Config, flags)
    assert not [word for word in words if word not in str(caught.value)]
    assert caught.value.fix


FILES = {
    "unknown": ("stepps: 1", ["unknown key 'stepps'", "did you mean 'steps'?"]),
    "alias": ("lr: 1", ["unknown key 'lr'", "did you mean 'learning_rate'?"]),
    "dashes": ("--steps: 1", ["unknown key '--steps'", "'steps'"]),
    "not a number": ("steps: many", ["steps", "'many'"]),
    "not a choice": ("shape: on", ["shape", "'on'", "flat"]),
    "list": ("steps: [1, 2]", ["key 'steps' takes one value"]),
    "list of one": ("steps: [1]", ["key 'steps' takes one value"]),
    "empty list": ("tools: []", ["key 'tools' is an empty list"]),
    "mapping": ("tools: {a: 1}", ["key 'tools' takes no mapping"]),
    "twice": ("steps: 1\nsteps: 1", ["'steps' stands twice", "line 2"]),
    "twice inside": ("name: {a: 1, a: 2}", ["'a' stands twice"]),
    "two documents": ("steps: 1\n---\nsteps: 2", ["cannot read the config file"]),
    "a tab": ("steps:\t1\n\tname: x", ["cannot read the config file", "line"]),
    "list at top": ("[steps]", ["must be a mapping"]),
    "a file of JSON lines": ('{"steps": 1}\n{"steps": 2}', ["cannot read the config file"]),
}


@pytest.mark.parametrize(("text", "words"), FILES.values(), ids=FILES)
def test_mistakes_in_a_file_name_the_file(text, words, tmp_path):
    """Even where flags would override what is wrong."""
    for flags in ([], ["--steps", "2", "--tools", "saw"]):
        with pytest.raises(ConfigError) as caught:
            parse(Config, [*cfg(tmp_path, text), *flags])
        assert not [word for word in [*words, "c.yaml"] if word not in str(caught.value)]
        assert caught.value.fix


def test_help_names_every_field_and_ends_with_0(capsys):
    for config_class in (SftConfig, EvaluateConfig, PrepareConfig, Config):
        with pytest.raises(SystemExit) as left:
            parse(config_class, ["--help"])
        assert left.value.code == 0
        text = capsys.readouterr().out
        assert not [f.name for f in fields(config_class) if f"--{f.name}" not in text]
    assert "100% of it" in text


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    name=TEXT,
    learning_rate=st.floats(min_value=1e-300, max_value=1e300),
    limit=st.none() | st.integers(-(2**60), 2**60),
    safe=st.booleans(),
    half=st.none() | st.booleans(),
    tools=st.lists(st.text("abc xyz_.é1-", min_size=1).filter(lambda t: t[0] != "-"), min_size=1),
)
@example(name="--", learning_rate=1.0, limit=None, safe=False, half=None, tools=["1"])
def test_resolved_config_can_be_read_again(tmp_path_factory, **values):
    config = Config(**values)
    path = tmp_path_factory.mktemp("cfg") / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert parse(Config, ["--cfg", str(path)]) == config


def test_resolved_configs_of_the_stages_can_be_read_again(tmp_path):
    configs = [
        SftConfig(data="train.json", eval_data="1e-4", bf16=False, report_to=["none"], max_steps=3),
        EvaluateConfig(data="2024-01-01", output="no", base_model="tiny", max_records=4),
        PrepareConfig(output="null"),
    ]
    for config in configs:
        assert parse(type(config), cfg(tmp_path, to_yaml(config))) == config


# ------------------------------------------------------------------------------------ exit codes
def ends(stage) -> object:
    with pytest.raises(SystemExit) as left:
        run(stage)
    return left.value.code


def raising(error: BaseException):
    def stage():
        raise error

    return stage


def test_exit_codes(capsys):
    assert ends(lambda: None) == 0
    assert ends(lambda: 0) == 0
    assert ends(lambda: 99) == 99
    assert capsys.readouterr().err == ""
    assert ends(raising(UserError("no file", where="a.json", fix="look"))) == EXIT_USER_ERROR == 2
    assert capsys.readouterr().err == "error: no file\n  where: a.json\n  fix:   look\n"
    assert ends(raising(OSError(errno.ENOSPC, "No space", "runs/a"))) == 2
    assert capsys.readouterr().err.startswith("error: the disk is full\n  where: runs/a\n")


def test_letters_that_the_locale_lacks_end_no_run(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", out)
    assert ends(lambda: print("hépatique, 肝", flush=True)) == 0
    assert out.buffer.getvalue() == "hépatique, \\u809d\n".encode("latin-1")


@pytest.mark.parametrize("error", [ValueError("bug"), OSError(errno.EIO, "x")])
def test_what_is_no_mistake_of_the_user_is_not_hidden(error):
    with pytest.raises(type(error)):
        run(raising(error))


def test_who_interrupts_gets_the_exit_code_of_a_shell():
    assert ends(raising(KeyboardInterrupt())) == 130


def test_threads_tell_of_everything_but_a_full_disk(capsys, monkeypatch):
    told = []
    monkeypatch.setattr(threading, "__excepthook__", told.append)

    def stage():
        for error in (OSError(errno.ENOSPC, "No space"), ValueError("bug")):
            thread = threading.Thread(target=raising(error))
            thread.start()
            thread.join()

    before = threading.excepthook
    assert ends(stage) == 0
    assert threading.excepthook is before
    assert [str(failure.exc_value) for failure in told] == ["bug"]


def test_errors_pass_whole_between_processes():
    import pickle

    from kit.errors import DataError, RecordError

    line = RecordError("broken", reason="broken_json", where="a.json:3")
    error = DataError("1 broken line", where="a.json", fix="fix it", problems=[line])
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (DataError, str(error))
    assert copy.problems[0].reason == "broken_json"


def test_reader_that_goes_away_is_no_traceback():
    code = "from kit.command import run\nrun(lambda: [print('x' * 99) for _ in range(9999)] and 0)"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, env=os.environ,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait() == 1
    assert process.stderr.read() == b""


def test_yaml_is_plain():
    assert yaml.safe_load(to_yaml(Config()))["tools"] == ["hammer"]
    assert "!!" not in to_yaml(Config())
