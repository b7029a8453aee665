"""Kill training runs again and again, resume them, and compare what comes out to the last bit.

    python tests/faults/kill.py --kills 100

Each case is a stage (SFT, GRPO) under a launch (one process, ZeRO-2 and ZeRO-3 with two). A run is
killed at moments uniform over its training (all its processes, or one rank), inside saving,
renaming and deleting (``hooks.die_at``), or after a checkpoint was damaged as soon as it stood
(``hooks.damage_at``); what stands then is damaged further; it is resumed, with another
``save_total_limit`` (1 or 2), killed again, and in the end compared with a run that was left alone:
weights, moments, schedule, random generators, adapter and metrics.
Prints a line a round and a table; exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers import flags_of, lasting
from hooks import SAVING, damage_at, die_at, flip_a_bit
from ranks import Ranks, launcher

from kit.run import checkpoint

LAUNCHES = {"one process": None, "ZeRO-2, 2": "cpu_zero2", "ZeRO-3, 2": "cpu_zero3"}
KILLS_A_ROUND = 4
FILES = (
    "manifest.json", "state.json", "trained.safetensors", "optimizer.safetensors",
    "random.safetensors",
)  # fmt: skip
SETTINGS = {
    "max_steps": 6, "save_steps": 1, "save_total_limit": 2, "logging_steps": 1, "report_to": "none",
    "learning_rate": 1e-3, "per_device_train_batch_size": 2,
}  # fmt: skip


@dataclass
class Case:
    """A stage under a launch: how to start it, and what a run that is left alone leaves."""

    stage: str
    launch: str
    command: list[str]
    folder: Path
    expected: dict[str, object] = field(default_factory=dict)
    begins: float = 0.0
    ends: float = 0.0
    kills: int = 0
    differences: list[str] = field(default_factory=list)

    def start(self, folder: Path, *flags: str, hook=None) -> Ranks:
        return Ranks([*self.command, f"--output_dir={folder}", *flags], hook)

    def leave_alone(self) -> None:
        """The uninterrupted run; also takes the times of its first and last step."""
        folder = self.folder / "whole"
        started = time.monotonic()
        process = self.start(folder)
        while process.poll() is None:
            if not self.begins and (folder / "metrics.jsonl").exists():
                self.begins = time.monotonic() - started
            time.sleep(0.02)
        self.ends = time.monotonic() - started
        if process.returncode:
            raise SystemExit(process.communicate().stderr[-3000:])
        self.expected = outcome(folder)


def outcome(folder: Path) -> dict[str, object]:
    """What must not differ. The manifest lists the sha256 of weights, optimizer, schedule and
    random generators after the last step."""
    last = folder / f"checkpoint-{SETTINGS['max_steps']}"
    return {
        "checkpoint": (last / "manifest.json").read_text(),
        "problem": checkpoint.problem_with(last),
        "adapter": (folder / "adapter_model.safetensors").read_bytes(),
        "metrics": lasting(folder),
    }


def kill_round(case: Case, rng: random.Random, wanted: int, number: int) -> int:
    """One run, killed up to ``wanted`` times and then left to its end; how often it was."""
    folder = case.folder / f"round{number}"
    killed, told = 0, []
    while True:
        limit = rng.choice((1, 2))
        flags, stands = [f"--save_total_limit={limit}"], bool(good_in(folder))
        if stands:
            flags += ["--resume_from_checkpoint=latest"]
        forced = rng.random() < 0.6 and killed < wanted
        hook = None
        if forced and rng.random() < 0.5:
            call, name = rng.randint(1 if stands else 2, 3), rng.choice(FILES)
            moment, hook = f"damaged {name}:{call}", partial(damage_at, call, name)
        elif forced:
            kind, call = rng.choice(list(SAVING)), rng.randint(1, 12)
            moment, hook = f"{kind}:{call}", partial(die_at, kind, call)
        process = case.start(folder, *flags, hook=hook)
        if forced or killed >= wanted:
            process.wait()
        else:
            after = rng.uniform(case.begins, case.ends)
            try:
                process.wait(after)
            except subprocess.TimeoutExpired:
                moment = f"{kill(process, rng)} after {after:.1f} s"
        if process.returncode == 0:
            break
        if process.returncode not in (-signal.SIGKILL, 1) or killed >= wanted:
            case.differences.append(f"round {number}: exit code {process.returncode}")
            break
        killed += 1
        told.append(f"{moment}, limit {limit}{damage(folder, rng)}")
    if process.returncode == 0:
        found = outcome(folder)
        for name, expected in case.expected.items():
            if found[name] != expected:
                case.differences.append(f"round {number}: {name}")
    print(f"{case.stage}, {case.launch}: killed {killed} times ({'; '.join(told)})", flush=True)
    case.kills += killed
    if not case.differences:
        shutil.rmtree(folder)
    return killed


def good_in(folder: Path) -> list[Path]:
    """Its good checkpoints, newest first."""
    found = checkpoint.checkpoints(folder)
    return [path for path in found if checkpoint.problem_with(path) is None]


def damage(folder: Path, rng: random.Random) -> str:
    """Harm what a kill has left, but for the last good checkpoint; says what was done."""
    good = good_in(folder)
    if good and rng.random() < 0.3:
        (folder / "checkpoint-99").mkdir(exist_ok=True)  # of another run, and half of one
        return ", beside a torn checkpoint-99"
    if len(good) < 2 or rng.random() < 0.5:
        return ""
    name = rng.choice(FILES)
    if rng.random() < 0.5:
        flip_a_bit(good[0] / name)
    else:
        (good[0] / name).unlink()
    return f", then {good[0].name} without its {name}"


def kill(process: Ranks, rng: random.Random) -> str:
    """SIGKILL everything, or one rank of several, and the others are ended."""
    if len(process.pids) < 2 or rng.random() < 0.5:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return "all"
    rank = rng.randrange(len(process.pids))
    os.kill(process.pids[rank], signal.SIGKILL)
    process.wait()
    return f"rank {rank}"


def make_cases(
    work: Path, sft_data: Path, adapter: Path, grpo_data: Path, bases: Sequence[str]
) -> list[Case]:
    """``bases``: the base model of each launch; GRPO on the embedded one begins at an adapter."""
    cases = []
    for (launch, config), base in zip(LAUNCHES.items(), bases, strict=True):
        new = {"base_model": base, "lora_r": 4, "freeze_vision_tower": False}
        own = {
            "sft": new | {"data": sft_data},
            "grpo": ({"sft_ckpt": adapter} if base == "tiny" else new) | {
                "data": grpo_data, "num_generations": 4, "beta": 0.1, "max_completion_length": 24,
                "inpainting": "mean", "log_completions": False,
            },
        }  # fmt: skip
        for stage, settings in own.items():
            command = [
                *launcher(config), f"launch/train_{stage}.py", *flags_of(SETTINGS | settings),
            ]  # fmt: skip
            folder = work / f"{stage}_{config or 'one'}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            cases.append(Case(stage, launch, command, folder))
    return cases


def make_data(work: Path) -> tuple[Path, Path, Path]:
    """A few phantoms, an SFT adapter of a few steps, and its GRPO records."""
    from kit.data.phantom.dataset import write_slake_phantoms
    from kit.data.prepare import PrepareConfig, prepare
    from kit.evaluate.cf_proxy import cf_proxy
    from kit.evaluate.config import CfProxyConfig
    from kit.train.config import SftConfig
    from kit.train.sft import train

    data, adapter, proxy = work / "train.json", work / "sft", work / "grpo.jsonl"
    write_slake_phantoms(work / "SLAKE", images={"train": 12, "validate": 2, "test": 2}, seed=1)
    prepare(
        PrepareConfig(
            output=str(data), dataset="SLAKE", split="train", slake_root=str(work / "SLAKE")
        )
    )
    train(
        SftConfig(
            base_model="tiny", data=str(data), output_dir=str(adapter), max_steps=4, lora_r=4,
            learning_rate=1e-3, save_steps=0, direct_answers=True, report_to=["none"],
        )
    )  # fmt: skip
    cf_proxy(
        CfProxyConfig(
            data=str(data), output=str(proxy), adapter=str(adapter), max_records=16,
            max_new_tokens=80,
        )
    )  # fmt: skip
    return data, adapter, proxy


def run_cases(cases: list[Case], kills: int, seed: int) -> list[Case]:
    """Spread the kills evenly over the cases."""
    rng = random.Random(seed)
    shares = [kills // len(cases) + (place < kills % len(cases)) for place in range(len(cases))]
    for case, share in zip(cases, shares, strict=True):
        case.leave_alone()
        number = 0
        while case.kills < share:
            kill_round(case, rng, min(KILLS_A_ROUND, share - case.kills), number)
            number += 1
    return cases


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bases", nargs=3, default=["tiny"] * 3, help="a base for each launch")
    parser.add_argument("--work", default=None, help="folder; kept if given")
    settings = parser.parse_args()
    work = Path(settings.work or tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    cases = run_cases(
        make_cases(work, *make_data(work), settings.bases), settings.kills, settings.seed
    )
    for case in cases:
        bad = "; ".join(case.differences) or "0 differences"
        print(f"{case.stage:5} {case.launch:12} {case.kills:4} kills  {bad}")
    print(f"{sum(case.kills for case in cases)} kills in all")
    if not settings.work:
        shutil.rmtree(work)
    return int(any(case.differences for case in cases))


if __name__ == "__main__":
    sys.exit(main())
