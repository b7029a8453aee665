"""Memory and seconds a step on a GPU, beside what the preflight says; and resuming, bit for bit.

    python tests/gpu_matrix.py

Writes a model of ``--shape`` with random weights and the embedded tokenizer, and runs SFT and GRPO
on phantoms as LoRA and QLoRA, in one process, under ZeRO-2 and under ZeRO-3, on one GPU in
bfloat16. Then, under ``full_determinism``, each is cut off in the middle and resumed, and must end
in the same bits as without. ``--shape tiny --resume_steps 4`` tries the script out where there is
no GPU. Prints a line a run; exit code 1 if one failed or differs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from faults.kill import make_data
from helpers import flags_of, launcher, rows, run
from shapes import CONFIGS, TOKENS, shape
from transformers import AutoConfig, AutoModelForImageTextToText

from kit.grpo.config import GrpoConfig
from kit.model.folders import base_folder
from kit.model.load import load_processor
from kit.plan.preflight import GIB, count_images, example_trees, table_of_estimates
from kit.run.launches import Plan
from kit.train.config import SftConfig

LAUNCHES = {"one process": None, "zero2": "zero2", "zero3": "zero3"}
PLANS = {"one process": "none or DDP", "zero2": "zero2", "zero3": "zero3"}
SETTINGS = {
    "max_steps": 6, "logging_steps": 1, "save_steps": 0, "report_to": "none",
    "per_device_train_batch_size": 4, "gradient_checkpointing": True, "learning_rate": 1e-5,
}  # fmt: skip
OWN = {
    "sft": {},
    "grpo": {
        "num_generations": 8, "max_completion_length": 64, "log_completions": False, "beta": 0.04,
        "inpainting": "mean", "per_device_train_batch_size": 2,
    },
}  # fmt: skip


def write_base(folder: Path, model: str) -> None:
    """Random weights with the embedded model's tokenizer and image processor."""
    shutil.copytree(base_folder(), folder)
    if model == "tiny":
        return
    config, embedded = shape(model), AutoConfig.from_pretrained(folder)
    for key in TOKENS:
        setattr(config, key, getattr(embedded, key))
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config.text_config, key, getattr(embedded.text_config, key))
    preprocessor = folder / "preprocessor_config.json"
    cut = {"patch_size": config.vision_config.patch_size}
    preprocessor.write_text(json.dumps(json.loads(preprocessor.read_text()) | cut))
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        weights = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    weights.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=[*CONFIGS, "tiny"], default="Qwen2-VL-2B")
    parser.add_argument("--stages", nargs="+", default=["sft", "grpo"])
    parser.add_argument("--launches", nargs="+", default=list(LAUNCHES), choices=LAUNCHES)
    parser.add_argument("--only_resume", action="store_true", help="no memory and seconds")
    parser.add_argument("--resume_steps", type=int, default=200, help="even; 0 is off")
    work = Path(tempfile.mkdtemp())
    settings = parser.parse_args()
    base = work / "base"
    write_base(base, settings.shape)
    data, _, _ = make_data(work / "phantoms")
    bf16 = torch.cuda.is_available()
    failed = False
    for stage in settings.stages:
        for quantization in ("none", "nf4"):
            chosen = SETTINGS | OWN[stage] | {"data": data, "base_model": base}
            chosen |= {"quantization": quantization}
            estimates = estimate(stage, chosen, bf16)
            for launch in settings.launches:
                folder = work / f"{stage}_{quantization}_{launch.split()[0]}"
                start = partial(train, stage, LAUNCHES[launch])
                row = {"stage": stage, "quantization": quantization, "launch": launch}
                row["estimate_gib"] = round(estimates[PLANS[launch], quantization].total / GIB, 2)
                try:
                    if not settings.only_resume:
                        start(folder, chosen)
                        row |= measured(folder)
                    if settings.resume_steps:
                        row["differ"] = resumed(start, folder, chosen, settings.resume_steps)
                except RuntimeError as error:
                    row["failed"] = str(error)
                failed |= "failed" in row or bool(row.get("differ"))
                print(json.dumps(row), flush=True)
    shutil.rmtree(work)
    sys.exit(int(failed))


def train(stage: str, config: str | None, folder: Path, chosen: dict) -> None:
    """Run a stage in a process of its own.

    Raises:
        RuntimeError: it failed.
    """
    if config and not torch.cuda.is_available():
        config = f"cpu_{config}"
    command = [*launcher(config), *["--num_processes=1"] * bool(config)]
    flags = flags_of(chosen | {"output_dir": folder})
    done = run([*command, f"launch/train_{stage}.py", *flags], timeout=None)
    if done.returncode:
        raise RuntimeError(done.stderr[-800:])


def resumed(start: Callable, folder: Path, chosen: dict, steps: int) -> list[str]:
    """The files of the last checkpoint in which a run that was resumed in the middle differs from
    one that was not, under ``full_determinism``."""
    whole, parts = (folder.with_name(f"{folder.name}_{how}") for how in ("whole", "parts"))
    chosen = chosen | {"full_determinism": True, "max_steps": steps, "save_steps": steps // 2}
    start(whole, chosen)
    middle = f"checkpoint-{steps // 2}"
    shutil.copytree(whole / middle, parts / middle)
    start(parts, chosen | {"resume_from_checkpoint": "latest"})
    last = [folder / f"checkpoint-{steps}" for folder in (whole, parts)]
    names = sorted({path.name for folder in last for path in folder.iterdir()})
    bits = [[(folder / name).read_bytes() for name in names] for folder in last]
    return [name for name, one, other in zip(names, *bits, strict=True) if one != other]


def estimate(stage: str, chosen: dict, bf16: bool) -> dict:
    """What the preflight says, for the longest records."""
    config_class = {"sft": SftConfig, "grpo": GrpoConfig}[stage]
    plain = {key: str(v) if isinstance(v, Path) else v for key, v in chosen.items()}
    config = config_class(**plain | {"report_to": ["none"], "output_dir": "-"})
    processor = load_processor(config.base_model)
    trees = example_trees(config, processor, config.data)
    n_images = count_images(config, config.data)
    return table_of_estimates(config, processor, trees, Plan(), bf16=bf16, n_images=n_images)


def measured(folder: Path) -> dict:
    """Of a finished run; the first step is left out of the time."""
    summary = json.loads((folder / "summary.json").read_text())
    found = {"peak_gib": round(summary["peak_memory_bytes"] / GIB, 2)}
    steps = [sum(v for k, v in row.items() if k.startswith("time/")) for row in rows(folder)]
    if any(steps):
        found["seconds_a_step"] = round(sum(steps[1:]) / len(steps[1:]), 2)
    else:
        found["seconds_a_step"] = round(summary["seconds"] / summary["step"], 2)
    return found


if __name__ == "__main__":
    main()
