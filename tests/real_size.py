"""Every stage once at the real size on a CPU: seconds and peak memory of each.

    python tests/real_size.py --folder /tmp/qwen2vl --work /tmp/real_size

Writes a folder laid out as the hub's Qwen2-VL-2B-Instruct, or that of another ``--model``
(``hub_folder``; 4.4 GB, kept for the next time), and a few phantoms, and gives the commands of the
kit to them one after the other, a process each. Prints a table; fails where a stage does or takes
more than ``--limit_gb``, or where the preflight is a tenth from what a training stage takes.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from helpers import ROOT, flags_of, metrics_of, rows
from hub_folder import write_hub_folder
from shapes import CONFIGS

from kit.data.phantom.dataset import write_slake_phantoms
from kit.data.prepare import PrepareConfig, prepare
from kit.grpo.config import GrpoConfig
from kit.model.folders import named_base
from kit.model.load import load_processor
from kit.plan.launches import plan_name
from kit.plan.preflight import count_images, example_trees, table_of_estimates
from kit.run.launches import Plan
from kit.train.config import SftConfig

TRAINING = {
    "max_steps": 1, "learning_rate": 1e-5, "per_device_train_batch_size": 2, "save_steps": 0,
    "logging_steps": 1, "report_to": "none", "warmup_ratio": 0.0,
}  # fmt: skip
ASKING = {"max_records": 2, "per_device_eval_batch_size": 4, "max_new_tokens": 24}


def stages(base: Path, work: Path) -> dict[str, dict[str, object]]:
    """The flags of each stage's command: images of 64 tokens, completions of 14."""
    data = work / "train.json"
    sft, proxy, grpo = work / "sft", work / "grpo.jsonl", work / "grpo"
    return {
        "train_sft": TRAINING | {
            "base_model": base, "data": data, "output_dir": sft, "lora_r": 8, "lora_alpha": 16,
            "direct_answers": True, "min_pixels": 56 * 56, "max_pixels": 224 * 224,
        },
        "cf_proxy": ASKING | {"adapter": sft, "data": data, "output": proxy},
        "train_grpo": TRAINING | {
            "sft_ckpt": sft, "data": proxy, "output_dir": grpo, "num_generations": 4,
            "max_completion_length": 24, "counterfactual": "online",
            "counterfactual_answers": "given",
        },
        "evaluate": ASKING | {
            "adapter": grpo, "data": data, "output": work / "evaluate", "counterfactual": True,
            "prompting_mode": "caption_reason_answer", "random_draws": 1,
        },
        "export": {"adapter": grpo, "output": work / "export"},
    }  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """The exit code of a command, its seconds, and the most memory that it held in GB: of all, with
    what it had read of the weights' files, and of its own (``own_gb``)."""

    code: int
    seconds: float
    peak_gb: float
    own_gb: float


def run(stage: str, flags: dict[str, object]) -> Measured:
    command = [sys.executable, f"launch/{stage}.py", *flags_of(flags)]
    started, own = time.monotonic(), 0
    process = subprocess.Popen(command, cwd=ROOT)
    ended = 0
    while not ended:
        time.sleep(0.2)
        status = Path(f"/proc/{process.pid}/status").read_text()
        if found := re.search(r"RssAnon:\s*(\d+) kB", status):
            own = max(own, int(found[1]))
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
    code, seconds = os.waitstatus_to_exitcode(status), time.monotonic() - started
    return Measured(code, seconds, used.ru_maxrss * 1024 / 1e9, own * 1024 / 1e9)


def told(stage: str, flags: dict[str, object]) -> float:
    """What the preflight says that a training stage takes, in GB."""
    config_class = {"train_sft": SftConfig, "train_grpo": GrpoConfig}[stage]
    plain = {key: str(v) if isinstance(v, Path) else v for key, v in flags.items()}
    config = config_class(**plain | {"report_to": ["none"]})
    adapter = getattr(config, "sft_ckpt", None)
    config = replace(config, base_model=config.base_model or named_base(adapter))
    bounds = {"min_pixels": config.min_pixels, "max_pixels": config.max_pixels}
    processor = load_processor(config.base_model, adapter, **bounds)
    trees = example_trees(config, processor, config.data)
    n_images = count_images(config, config.data)
    table = table_of_estimates(
        config, processor, trees, Plan(), bool(config.bf16), n_images=n_images
    )
    return table[plan_name(Plan()), config.quantization].total / 1e9


def check(work: Path) -> None:
    """Completions claimed boxes and were measured without them, and differed in reward."""
    (step,) = rows(work / "grpo")
    assert step["reward_std"] > 0, step
    assert "rewards/counterfactual/mean" in step, step
    assert any(row["delta_cf_rand"] is not None for row in rows(work, "grpo.jsonl"))
    assert metrics_of(work / "evaluate")["caption_reason_answer/box_rate"] == 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="of the model; made if missing")
    parser.add_argument("--model", choices=CONFIGS, default="Qwen2-VL-2B", help="what is made")
    parser.add_argument("--work", type=Path, required=True, help="a new folder for everything else")
    parser.add_argument("--tokenizer", type=Path, help="folder of Qwen2's own; else a stand-in")
    parser.add_argument("--small", action="store_true", help="a few layers, to try the script out")
    for name in ("gradient_checkpointing", "bf16"):
        parser.add_argument(f"--{name}", action="store_true", help="in training, for less memory")
    parser.add_argument("--only_sft", action="store_true", help="the first stage alone")
    parser.add_argument("--limit_gb", type=float, default=20.0)
    settings = parser.parse_args()
    if not settings.folder.exists():
        write_hub_folder(
            settings.folder, settings.model, small=settings.small, tokenizer=settings.tokenizer
        )
    work = settings.work
    write_slake_phantoms(work / "SLAKE", images={"train": 4, "validate": 1, "test": 1}, seed=1)
    data = str(work / "train.json")
    prepare(
        PrepareConfig(output=data, dataset="SLAKE", split="train", slake_root=str(work / "SLAKE"))
    )
    table, wrong = [], []
    for stage, flags in stages(settings.folder, work).items():
        if stage.startswith("train"):
            flags["gradient_checkpointing"] = settings.gradient_checkpointing
            flags["bf16"] = settings.bf16
        found = run(stage, flags)
        row = f"{stage:12} {found.seconds:6.0f} s  peak {found.peak_gb:5.1f} GB"
        if found.code:
            wrong.append(f"{stage} failed")
        if found.peak_gb > settings.limit_gb:
            wrong.append(f"{stage} took more than {settings.limit_gb:g} GB")
        if not found.code and stage.startswith("train"):
            expected = told(stage, flags)
            # weights in the type of their files are read where they lie
            taken = found.peak_gb if settings.bf16 else found.own_gb
            row += f", of its own {found.own_gb:5.2f}, the preflight says {expected:5.2f}"
            if not settings.small and abs(expected / taken - 1) > 0.1:
                wrong.append(f"the preflight is wrong about {stage}")
        table.append(row)
        print(row, flush=True)
        if found.code or settings.only_sft:
            break
    print("\n".join(["", *table]))
    if wrong:
        sys.exit("; ".join(wrong))
    if not settings.only_sft:
        check(work)


if __name__ == "__main__":
    main()
