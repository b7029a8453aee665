"""Every stage once at the real size on a CPU: seconds and peak memory of each.

    python tests/real_size.py --folder /tmp/qwen2vl --work /tmp/real_size

Writes a folder laid out as the hub's Qwen2-VL-2B-Instruct (``hub_folder``; 4.4 GB, kept for the
next time) and a few phantoms, and gives the commands of the kit to them one after the other, a
process each. Prints a table; fails where a stage does, or takes more than ``--limit_gb``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from helpers import ROOT, flags_of, metrics_of, rows
from hub_folder import SMALL, write_hub_folder

from kit.data.phantom.dataset import write_slake_phantoms
from kit.data.prepare import PrepareConfig, prepare

TRAINING = {
    "max_steps": 1, "learning_rate": 1e-5, "per_device_train_batch_size": 2, "save_steps": 0,
    "logging_steps": 1, "report_to": "none", "warmup_ratio": 0.0,
}  # fmt: skip
ASKING = {"max_records": 4, "per_device_eval_batch_size": 4, "max_new_tokens": 24}


def stages(base: Path, work: Path) -> dict[str, dict[str, object]]:
    """The flags of each stage's command: images of 64 tokens, completions of 14."""
    data = work / "train.json"
    sft, proxy, grpo = work / "sft", work / "grpo.jsonl", work / "grpo"
    return {
        "train_sft": TRAINING | {
            "base_model": base, "data": data, "output_dir": sft, "lora_r": 8, "lora_alpha": 16,
            "direct_answers": True, "max_pixels": 224 * 224,
        },
        "cf_proxy": ASKING | {"adapter": sft, "data": data, "output": proxy},
        "train_grpo": TRAINING | {
            "sft_ckpt": sft, "data": proxy, "output_dir": grpo, "num_generations": 8,
            "max_completion_length": 24, "counterfactual": "online",
            "counterfactual_answers": "given",
        },
        "evaluate": ASKING | {
            "adapter": grpo, "data": data, "output": work / "evaluate", "counterfactual": True,
            "prompting_mode": "caption_reason_answer",
        },
        "export": {"adapter": grpo, "output": work / "export"},
    }  # fmt: skip


def measured(stage: str, flags: dict[str, object]) -> tuple[int, float, float]:
    """The exit code of a command, its seconds and the most memory (GB) that it held, pages of the
    weights' files that were read among them."""
    command = [sys.executable, f"launch/{stage}.py", *flags_of(flags)]
    started = time.monotonic()
    _, status, used = os.wait4(subprocess.Popen(command, cwd=ROOT).pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code, time.monotonic() - started, used.ru_maxrss * 1024 / 1e9


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
    parser.add_argument("--work", type=Path, required=True, help="a new folder for everything else")
    parser.add_argument("--tokenizer", type=Path, help="folder of Qwen2's own; else a stand-in")
    parser.add_argument("--small", action="store_true", help="a few layers, to try the script out")
    parser.add_argument("--limit_gb", type=float, default=20.0)
    settings = parser.parse_args()
    if not settings.folder.exists():
        changes = SMALL if settings.small else {}
        write_hub_folder(settings.folder, tokenizer=settings.tokenizer, **changes)
    work = settings.work
    write_slake_phantoms(work / "SLAKE", images={"train": 4, "validate": 1, "test": 1}, seed=1)
    data = str(work / "train.json")
    prepare(
        PrepareConfig(output=data, dataset="SLAKE", split="train", slake_root=str(work / "SLAKE"))
    )
    table, failed = [], False
    for stage, flags in stages(settings.folder, work).items():
        code, seconds, peak = measured(stage, flags)
        failed |= code != 0 or peak > settings.limit_gb
        table.append(f"{stage:12} {seconds:6.0f} s {peak:6.1f} GB" + f"  exit {code}" * bool(code))
        print(table[-1], flush=True)
        if code:
            break
    print("\n".join(["", *table]))
    if failed:
        sys.exit(f"a stage failed or took more than {settings.limit_gb:g} GB")
    check(work)


if __name__ == "__main__":
    main()
