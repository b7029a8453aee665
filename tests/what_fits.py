"""Which GPU each model fits on under the shipped configurations: a table in Markdown.

    python tests/what_fits.py

Computes on the meta device, of each size of ``shapes.CONFIGS``, what ``launch/gpu_setup.py`` says
of its hub folder, in one process and bfloat16: GiB, and the smallest of the cards with room for
them. An image is as large as ``max_pixels`` allows, an SFT answer of 160 tokens, a completion as
long as it may be. Options of a stage's configuration go over all of them, as in
``--per_device_train_batch_size 1``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from hub_folder import write_hub_folder
from shapes import CONFIGS

from kit.command import parse
from kit.grpo.config import GrpoConfig
from kit.model.load import load_processor
from kit.plan.preflight import GIB, device_memory, example_trees, table_of_estimates
from kit.run.launches import Plan
from kit.train.config import SftConfig

CARDS = (16, 24, 40, 80)  # GiB
STAGES = {"sft": SftConfig, "grpo": GrpoConfig}
KINDS = {"none": "LoRA", "nf4": "QLoRA"}
COLUMNS = [(stage, quantization) for stage in STAGES for quantization in KINDS]


def main() -> None:
    print("|  |", " | ".join(f"{stage.upper()}, {KINDS[kind]}" for stage, kind in COLUMNS), "|")
    print("|---" * (1 + len(COLUMNS)) + "|")
    with tempfile.TemporaryDirectory() as work:
        tokenizer = None
        for model in CONFIGS:
            folder = Path(work) / model
            write_hub_folder(folder, model, weights=False, tokenizer=tokenizer)
            tokenizer = tokenizer or folder
            needed = bytes_of(folder, sys.argv[1:])
            print(f"| {model} |", " | ".join(cell(needed[key]) for key in COLUMNS), "|", flush=True)


def bytes_of(folder: Path, options: list[str]) -> dict[tuple[str, str], int]:
    """By stage and quantization."""
    needed = {}
    for stage, config_class in STAGES.items():
        flags = ["--cfg", f"launch/configs/{stage}.yaml", "--base_model", str(folder)]
        config = parse(config_class, [*flags, "--data", "-", *options])
        processor = load_processor(
            str(folder), min_pixels=config.min_pixels, max_pixels=config.max_pixels
        )
        trees = example_trees(config, processor, None)
        table = table_of_estimates(config, processor, trees, Plan(), bf16=True)
        for kind in KINDS:
            needed[stage, kind] = table["none or DDP", kind].total
    return needed


def cell(needed: int) -> str:
    """
    >>> cell(10 * GIB), cell(80 * GIB)
    ('10.0: 16', '80.0: none')
    """
    card = next((str(card) for card in CARDS if needed < device_memory(card)), "none")
    return f"{needed / GIB:.1f}: {card}"


if __name__ == "__main__":
    main()
