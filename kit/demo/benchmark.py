"""GRPO of this kit and of TRL on the same weights, prompts, images, LoRA and completion lengths,
step by step in turns in one run.

Before anything is timed, both score one batch of completions with the same adapter, and
log-probabilities and gradients are compared. What is timed is a whole step without its reward: the
rollout, and the reference's pass with the update.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig, Qwen2VLForConditionalGeneration

from kit.demo.benchmark_sides import Ours, Shape, Theirs
from kit.demo.config import BenchmarkConfig
from kit.errors import UserError
from kit.files import write_json
from kit.model.tiny import base_folder

SAME = 1e-4  # what log-probabilities and gradients (over their length) may differ by
SHAPES = {
    shape.name: shape
    for shape in (
        Shape("usual"),
        Shape("long completions", generations=16, length=128),
        Shape("short prompt", tokens=16, question=4),
        Shape("long prompt", tokens=1225, question=40),
        Shape("large vocabulary", vocabulary=151_936),
        Shape("small", tokens=16, length=8, generations=4),
    )
}


def benchmark(config: BenchmarkConfig) -> int:
    """Measure the shapes, print a table and write ``benchmark.json``."""
    try:
        import trl  # noqa: F401
    except ImportError as error:
        fix = 'pip install -e ".[bench]"'
        raise UserError("TRL is not installed", where="launch/benchmark.py", fix=fix) from error
    if unknown := sorted(set(config.shapes) - SHAPES.keys()):
        fix = f"choose from {', '.join(SHAPES)}"
        raise UserError(f"there is no shape {unknown[0]!r}", where="shapes", fix=fix)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in config.shapes:
            shape = SHAPES[name]
            base = Path(scratch) / name.replace(" ", "_")
            write_base(base, shape.vocabulary)
            rows += measure(base, shape, config.steps)
            rows.append(peaks(base, shape))
            for row in rows[-4:]:
                line = "{shape}: {what} {ours:.3g} {unit}, TRL {peer:.3g}, {ratio:.2f}x"
                print(line.format(**row))
    write_json(Path(config.output), rows)
    return 0


def write_base(folder: Path, vocabulary: int) -> None:
    """A Qwen2-VL of 7M parameters beside its embeddings, with random weights."""
    shutil.copytree(base_folder(), folder)
    shape = AutoConfig.from_pretrained(folder)
    text, vision = shape.text_config, shape.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 256, 1024, 4
    text.num_attention_heads, text.num_key_value_heads, text.vocab_size = 8, 2, vocabulary
    text.layer_types = ["full_attention"] * text.num_hidden_layers
    vision.depth, vision.embed_dim, vision.num_heads, vision.hidden_size = 4, 192, 4, 256
    torch.manual_seed(0)
    Qwen2VLForConditionalGeneration(shape).save_pretrained(folder)


def measure(base: Path, shape: Shape, steps: int) -> list[dict]:
    """Medians of so many steps of each, in turns."""
    ours, theirs = Ours(base, shape), Theirs(base, shape)
    error = theirs.differences(ours)
    if max(error.values()) > SAME:
        raise UserError(
            f"the two do not compute the same: {error}", where=shape.name, fix="report it"
        )
    taken = {"ours": [], "peer": []}

    def turn(seconds: dict[str, float]) -> None:
        taken["peer"].append(seconds)
        taken["ours"].append(ours.step(len(taken["ours"])))

    theirs.train(steps + 1, turn)
    rows = []
    for what in ("rollout", "reference and update", "step"):
        one, other = (
            statistics.median(seconds[what] for seconds in taken[who][1:])  # the first compiles
            for who in ("ours", "peer")
        )
        rows.append(row_of(shape, what, one, other, "s") | error)
    return rows


def row_of(shape: Shape, what: str, ours: float, peer: float, unit: str) -> dict:
    row = {"what": what, "shape": shape.name, "device": "cpu", "threads": torch.get_num_threads()}
    row |= {"ours": ours, "peer": peer, "ratio": peer / ours, "unit": unit, "peer_name": "TRL"}
    return row | {"sizes": dataclasses.asdict(shape)}


def peaks(base: Path, shape: Shape) -> dict:
    """The most memory that a process takes for two steps beyond what it has before them."""
    found = []
    for who in ("Ours", "Theirs"):
        call = f"peak_of({who!r}, {str(base)!r}, {shape.name!r})"
        code = f"from kit.demo.benchmark import peak_of; {call}"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return row_of(shape, "peak memory", *found, "GB")


def peak_of(who: str, base: str, name: str) -> None:
    """Of one side in a process of its own, printed in GB."""
    side = {"Ours": Ours, "Theirs": Theirs}[who](Path(base), SHAPES[name])
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak so far
    before = _memory("VmRSS")
    if isinstance(side, Ours):
        for number in range(2):
            side.step(number)
    else:
        side.train(2, lambda seconds: None)
    print(json.dumps((_memory("VmHWM") - before) / 1e6))


def _memory(field: str) -> int:
    """kB, as Linux counts them."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition(f"{field}:")[2].split()[0])
