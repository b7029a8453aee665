"""Which GPU each model fits on under the shipped configurations: a table in Markdown.

    python tests/what_fits.py

Computes on the meta device, of each size of ``shapes.CONFIGS``, what ``launch/gpu_setup.py`` says
of its hub folder, in one process and bfloat16: GiB, and the smallest of the cards with room for
them. An image is as large as ``max_pixels`` allows, an SFT answer of 160 tokens, a completion as
long as it may be. Options of the stages' configurations go over theirs, as in
``--stages grpo --merge_adapter false``. Takes two minutes.
"""

from __future__ import annotations

import argparse
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    settings, options = parser.parse_known_args()
    columns = [f"{stage.upper()}, {kind}" for stage in settings.stages for kind in KINDS.values()]
    print("|", " | ".join(["", *columns]), "|")
    print("|---" * (1 + len(columns)) + "|")
    with tempfile.TemporaryDirectory() as work:
        for model in settings.models:
            folder = write_hub_folder(Path(work) / model, model, weights=False)
            needed = [bytes_of(stage, folder, options) for stage in settings.stages]
            cells = [cell(found[kind]) for found in needed for kind in KINDS]
            print("|", " | ".join([model, *cells]), "|", flush=True)


def bytes_of(stage: str, folder: Path, options: list[str]) -> dict[str, int]:
    """By quantization."""
    flags = ["--cfg", f"launch/configs/{stage}.yaml", "--base_model", str(folder)]
    config = parse(STAGES[stage], [*flags, "--data", "-", *options])
    bounds = {"min_pixels": config.min_pixels, "max_pixels": config.max_pixels}
    processor = load_processor(str(folder), **bounds)
    trees = example_trees(config, processor, None)
    table = table_of_estimates(config, processor, trees, Plan(), bf16=True)
    return {kind: table["none or DDP", kind].total for kind in KINDS}


def cell(needed: int) -> str:
    """
    >>> cell(10 * GIB), cell(80 * GIB)
    ('10.0: 16', '80.0: none')
    """
    card = next((str(card) for card in CARDS if needed < device_memory(card)), "none")
    return f"{needed / GIB:.1f}: {card}"


if __name__ == "__main__":
    main()
