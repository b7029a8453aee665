"""Mistakes in what a user gives to cf_proxy and train_grpo: named, exit code 2, nothing left."""

import runpy
import sys
from pathlib import Path

import pytest
from helpers import rows

from kit.errors import UserError
from kit.files import write_jsonl

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch) -> Path:
    """A working folder with two prepared records, and nothing else."""
    two = rows(prepared["test"].parent, "test.json")[:2]
    for row in two:
        row["image"] = str(prepared["test"].parent / row["image"])
    write_jsonl(tmp_path / "data.json", two)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(folder, monkeypatch, capsys):
    """Run a script that must refuse; what it says."""

    def run(script: str, *flags: str) -> str:
        before = sorted(folder.rglob("*"))
        monkeypatch.setattr(sys, "argv", [script, *flags])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(ROOT / "launch" / script), run_name="__main__")
        said = capsys.readouterr().err
        assert left.value.code == 2, said
        assert "Traceback" not in said
        assert sorted(folder.rglob("*")) == before, "something was left behind"
        return said

    return run


GRPO = ("--base_model", "tiny", "--data_jsonl", "data.json", "--out_dir", "run")
PROXY = ("--base_model", "tiny", "--data", "data.json", "--output", "out.jsonl")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--data_jsonl", "none.jsonl"), "no such data file"),
        (("--base_model", "./none"), "no such model folder"),
        (("--sft_ckpt", "none"), "no such adapter folder"),
        (("--num_generation", "4"), "did you mean 'num_generations'?"),
        (("--num_generations", "1"), "must be at least 2"),
        (("--num_generations", "many"), "invalid int value"),
        (("--weights", "0.2,0.4"), "must be four numbers"),
        (("--weights=-1,1,1,1",), "must not be negative"),
        (("--counterfactual", "maybe"), "invalid choice"),
        (("--loss_type", "ppo"), "invalid choice"),
        (("--consistency_model", "./none"), "cannot load the sentence encoder"),
        (("--reward_funcs", "nowhere:fn"), "no reward function 'nowhere:fn'"),
        (("--eval_steps", "3"), "nothing to evaluate on"),
        (("--eval_data", "none.json"), "no such data file"),
        (("--max_completion_length", "5000"), "exceeds the model's"),
        (("--cfg", "none.yaml"), "no such config file"),
        (("--resume_from_checkpoint", "latest"), "no valid checkpoint"),
        (("--report_to", "nothing"), "unknown tracker"),
        (("--beta", "nan"), "must not be negative"),
        (("--finetuning", "full", "--sft_ckpt", "sft"), "starts from a whole model"),
        (("--out_dir", "data.json"), "is a file, not a folder"),
    ],
)
def test_train_grpo(refused, flags, message):
    assert message in refused("train_grpo.py", *GRPO, *flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--data", "none.json"), "no such data file"),
        (("--base_model", "./none"), "no such model folder"),
        (("--sft_ckpt", "none"), "no such adapter folder"),
        (("--inpainting", "magic"), "invalid choice"),
        (("--random_draws", "0"), "must be at least 1"),
        (("--max_new_tokens", "5000"), "exceeds the model's"),
        (("--output", "data.json/out.jsonl"), "is a file"),
        (("--outputs", "x"), "did you mean 'output'?"),
    ],
)
def test_cf_proxy(refused, flags, message):
    assert message in refused("cf_proxy.py", *PROXY, *flags)


@pytest.mark.parametrize(("script", "flags"), [("train_grpo.py", GRPO), ("cf_proxy.py", PROXY)])
def test_every_broken_line_is_listed(refused, folder, script, flags):
    with (folder / "data.json").open("a") as stream:
        stream.write('{"image_path": "https://host/x.png", "question": "What?", "gold": "x"}\n')
        stream.write("{broken\n")
    said = refused(script, *flags)
    assert "data.json:3" in said
    assert "data.json:4" in said
    assert "skip_bad" in said


def test_errors_say_what_to_do(refused):
    """In the form of UserError: what, where, fix."""
    said = refused("train_grpo.py", *GRPO, "--weights", "1")
    expected = str(UserError("weights must be four numbers", where="weights"))
    assert expected.splitlines()[0] in said
    assert "  where: weights" in said
    assert "  fix:   " in said
