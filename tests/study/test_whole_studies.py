"""Whole studies of the embedded model, with the commands themselves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from helpers import ROOT, adapter_of, metrics_of, most_apart, rows

from kit import cli
from kit.study import study
from kit.study.config import StudyConfig

pytestmark = pytest.mark.slow

SMALL = {
    "output": "out",
    "train_sft": {
        "cfg": "sft_tiny", "max_steps": 3, "per_device_train_batch_size": 4, "save_steps": 1,
        "learning_rate": 1e-3, "report_to": "none",
    },
    "evaluate": {
        "prompting_mode": "caption_reason_answer", "counterfactual": True, "max_records": 8,
        "max_new_tokens": 96, "random_draws": 1,
    },
}  # fmt: skip
MODE = "caption_reason_answer"


def in_this_process(command: list[str], **_: object) -> SimpleNamespace:
    """A run at once, without the start of Python."""
    code = cli.execute(*command[3:])
    return SimpleNamespace(poll=lambda: code)


def test_from_phantoms_to_the_page(tmp_path, monkeypatch):
    """Two seeds, a system of GRPO and one of SFT on pairs, with prompts that are chosen."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "Popen", in_this_process)
    grpo = {
        "cfg": "grpo_tiny", "max_steps": 2, "per_device_train_batch_size": 2, "save_steps": 0,
        "num_generations": 2, "max_completion_length": 96, "learning_rate": 1e-2,
        "min_reward_std": 0, "log_completions": False, "report_to": "none",
    }  # fmt: skip
    content = SMALL | {
        "seeds": [0, 1],
        "phantoms": {"train": 6, "prompts": 6, "test": 2},
        "choose_prompts": {"others": 1},
        "data": {
            "drawn": {
                "command": "phantoms",
                "train": 6,
                "validate": 0,
                "test": 0,
                "twins": "train",
            },
            "twins": {"dataset": "SLAKE", "slake_root": "drawn", "leaks": "keep"},
            "pairs": {"command": "cf_pairs", "data": "twins"},
        },
        "train_grpo": grpo,
        "systems": {
            "named": {"weights": "format=0.5,answer=0.5"},
            "pairs": {"train_grpo": False, "train_sft": {"data": "pairs"}},
        },
    }
    Path("tiny.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    assert study.study(StudyConfig(study="tiny.yaml")) == 0

    start, other = (adapter_of(Path(f"out/seed{seed}/sft/train_sft")) for seed in (0, 1))
    assert most_apart(start, other) > 0, "each seed has its own start"
    assert most_apart(start, adapter_of(Path("out/seed0/named/train_grpo"))) > 0
    assert most_apart(start, adapter_of(Path("out/seed0/pairs/train_sft"))) > 0
    trained, held_out = rows(Path("out/data"), "chosen.json"), rows(Path("out/data"), "test.json")
    own, twins, pairs = (rows(Path("out/data"), f"{n}.json") for n in ("train", "twins", "pairs"))
    assert len(pairs) > len(twins) > len(own), "each made from what was drawn for it"
    assert any(row["regions"] for row in trained)
    assert any(not row["regions"] for row in trained)
    images = {Path(row["image_path"]).parts[-2] for row in trained}
    assert images
    assert not images & {Path(row["image"]).parts[-2] for row in held_out}

    found = json.loads(Path("out/page/study.json").read_text())
    (view,) = found["views"]
    for system in ("sft", "named", "pairs"):
        told = view["metrics"][system]["exact/all"]["seeds"]
        for seed, value in told.items():
            measured = metrics_of(Path(f"out/seed{seed}/{system}/evaluate_test"))
            assert value == pytest.approx(measured[f"{MODE}/exact/all"])
    assert {d["system"] for d in view["differences"]} == {"named", "pairs"}
    assert found["done"] == found["runs"] == 8 + 2 * 6
    assert found["hours_in_all"] >= 0
    monkeypatch.setattr(study, "Popen", None)
    assert study.study(StudyConfig(study="tiny.yaml")) == 0, "nothing is run again"


def test_killed_outright_it_goes_on_from_the_checkpoint(tmp_path, prepared):
    """With what it started: nothing is left running that nobody knows of."""
    data = {"train": str(prepared["train"]), "test": str(prepared["few"])}
    content = SMALL | {"seeds": [0], "data": data, "evaluate": SMALL["evaluate"] | {
        "counterfactual": False, "max_records": 2,
    }}  # fmt: skip
    content["train_sft"] = SMALL["train_sft"] | {"max_steps": 12}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "kit.cli", "study", "tiny.yaml"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    options = {"cwd": tmp_path, "env": environment, "text": True}
    trained = tmp_path / "out/seed0/sft/train_sft"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, **options) as first:
        while not (trained / "checkpoint-2").exists():
            assert first.poll() is None
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
    done = subprocess.run(command, capture_output=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seed0/sft/train_sft: goes on" in done.stdout
    log = trained.with_name("train_sft.log").read_text()
    assert "stopped at step" in log, "the first was asked to save when its study died"
    assert "resumed from" in log
    assert [row["step"] for row in rows(trained)][-1] == 12
    assert json.loads((tmp_path / "out/page/study.json").read_text())["done"] == 2
