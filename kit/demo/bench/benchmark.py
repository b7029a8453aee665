"""GRPO, SFT and evaluation of this kit beside TRL's trainers and transformers' ``generate``: the
same weights, prompts, images, LoRA and lengths, step by step in turns in one run.

Before anything is timed, both compute one batch in float32, and what they find is compared.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig, AutoImageProcessor, Qwen2VLForConditionalGeneration

from kit.demo.bench import answers, grpo, limit, machine, sft, sweep
from kit.demo.bench.cases import SHAPES, Case, Shape
from kit.demo.config import BenchmarkConfig
from kit.errors import UserError
from kit.files import write_json
from kit.model.folders import base_folder, resolve_base
from kit.run.process import bf16_support

SAME = 1e-4  # what the two may differ by
WARM_UP = 1  # steps that are not counted: the first compiles
PIXELS = {"shortest_edge": 56 * 56, "longest_edge": 1280 * 28 * 28}
ALONE = "generate, one at a time"
JOBS = {  # this kit's side, and its peers
    "grpo": (grpo.Ours, {"TRL": grpo.Theirs}),
    "sft": (sft.Ours, {"TRL": sft.Theirs}),
    "evaluation": (
        answers.Ours,
        {
            f"generate, {answers.ROWS} a batch": functools.partial(
                answers.Theirs, rows=answers.ROWS
            ),
            ALONE: functools.partial(answers.Theirs, rows=1),
        },
    ),
}


def benchmark(config: BenchmarkConfig) -> int:
    """Measure the shapes, print a table and write ``benchmark.json`` (of a sweep also a plot beside
    it), anew after each shape."""
    _require(config)
    half = config.device == "cuda" and bf16_support() == "native"
    found = {"made_with": machine.facts(config.device) | {"base_model": config.base_model}}
    found |= {"rows": []}
    with tempfile.TemporaryDirectory() as scratch:
        for name in config.shapes:
            shape = SHAPES[name]
            if config.base_model:
                base = resolve_base(config.base_model)
            elif not (base := Path(scratch) / str(shape.vocabulary)).exists():
                write_base(base, shape.vocabulary)
            case = Case(str(base), shape, config.steps + WARM_UP, config.device, half)
            found["rows"] += rows_of(case)
            write_json(Path(config.output), found)
            if shape.job == "sweep":
                sweep.draw(found["rows"], Path(config.output).with_suffix(".svg"))
    print("\n".join(table(found["rows"])))
    return 0


def _require(config: BenchmarkConfig) -> None:
    if importlib.util.find_spec("trl") is None:
        fix = 'pip install -e ".[bench]"'
        raise UserError("TRL is not installed", where="launch/benchmark.py", fix=fix)
    if unknown := sorted(set(config.shapes) - SHAPES.keys()):
        fix = f"choose from {', '.join(SHAPES)}"
        raise UserError(f"there is no shape {unknown[0]!r}", where="shapes", fix=fix)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("torch sees no GPU", where="device: cuda", fix="set device to cpu")


def write_base(folder: Path, vocabulary: int) -> None:
    """A Qwen2-VL of 7M parameters beside its embeddings, with random weights, and images as large
    as the hub's Qwen2-VL takes them by default."""
    shutil.copytree(base_folder(), folder)
    shape = AutoConfig.from_pretrained(folder)
    text, vision = shape.text_config, shape.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 256, 1024, 4
    text.num_attention_heads, text.num_key_value_heads, text.vocab_size = 8, 2, vocabulary
    text.layer_types = ["full_attention"] * text.num_hidden_layers
    vision.depth, vision.embed_dim, vision.num_heads, vision.hidden_size = 4, 192, 4, 256
    torch.manual_seed(0)
    Qwen2VLForConditionalGeneration(shape).save_pretrained(folder)
    images = AutoImageProcessor.from_pretrained(folder)
    images.size = PIXELS
    images.save_pretrained(folder)


def rows_of(case: Case) -> list[dict]:
    """Everything that is measured of a shape."""
    if case.shape.job != "sweep":
        peers = JOBS[case.shape.job][1]
        return [row for peer in peers for row in (*measure(case, peer), peaks(case, peer))]
    rows = []
    for shape in sweep.points(case.shape):
        part = dataclasses.replace(case, shape=shape)
        rows += [row | sweep.model_of_cost(part) for row in measure(part, "TRL")]
    return rows


def measure(case: Case, peer: str) -> list[dict]:
    """Medians of the steps of each, in turns.

    Raises:
        UserError: the two do not compute the same.
    """
    make_ours, peers = JOBS[case.shape.job]
    if case.half:  # which rounds; so that is compared in float32, in a process of its own
        error = _in_a_process("compare", dataclasses.replace(case, half=False), peer)
        ours, theirs = make_ours(case), peers[peer](case)
    else:
        ours, theirs = make_ours(case), peers[peer](case)
        error = theirs.differences(ours)
    if not max(error.values()) <= SAME:
        what = f"the two do not compute the same: {error}"
        raise UserError(what, where=case.shape.name, fix="report it")
    taken = {"ours": [], "peer": []}

    def turn(seconds: dict[str, float]) -> None:
        taken["peer"].append(seconds)
        taken["ours"].append(ours.step(len(taken["ours"])))

    theirs.run(case.rounds, turn)
    counted = {who: steps[WARM_UP:] for who, steps in taken.items()}
    rows = []
    for what in counted["ours"][0]:
        values = {who: [step[what] for step in steps] for who, steps in counted.items()}
        rows.append(row_of(case, what, peer, values, "s") | error)
    if case.shape.job in limit.TIMED:
        rows.append(limit.share_of_matmul(case, ours, counted["ours"]))
    return rows


def row_of(case: Case, what: str, peer: str, values: dict[str, list[float]], unit: str) -> dict:
    """Medians, their ratio, and every value."""
    ours, other = (statistics.median(values[who]) for who in ("ours", "peer"))
    row = {"what": what, "shape": case.shape.name, "device": case.device}
    row |= {"dtype": str(case.dtype).removeprefix("torch."), "peer_name": peer}
    row |= {"ours": ours, "peer": other, "ratio": other / ours, "unit": unit, "values": values}
    row |= {"sizes": dataclasses.asdict(case.shape)}
    print("{shape}: {what} {ours:.3g} {unit}, {peer_name} {peer:.3g}, {ratio:.2f}x".format(**row))
    return row


def peaks(case: Case, peer: str) -> dict:
    """The most memory that two steps of each take, in a process of its own, beyond what is there
    before them."""
    case = dataclasses.replace(case, rounds=2)
    found = [_in_a_process("peak_of", case, who) for who in ("ours", peer)]
    values = {who: [part["beyond"]] for who, part in zip(("ours", "peer"), found, strict=True)}
    before = [part["before"] for part in found]
    return row_of(case, "peak memory", peer, values, "GB") | {"before": before}


def _in_a_process(function: str, case: Case, who: str):
    """What a function of this module returns."""
    call = f"{function}({json.dumps(dataclasses.asdict(case))!r}, {who!r})"
    code = f"import json; from kit.demo.bench.benchmark import *; print(json.dumps({call}))"
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _case(text: str) -> Case:
    fields = json.loads(text)
    return Case(**fields | {"shape": Shape(**fields["shape"])})


def peak_of(case: str, who: str) -> dict[str, float]:
    """Of one side."""
    case = _case(case)
    make_ours, peers = JOBS[case.shape.job]
    side = make_ours(case) if who == "ours" else peers[who](case)
    case.paths  # noqa: B018
    peak = machine.Peak(case.device)
    if who == "ours":
        for number in range(case.rounds):
            side.step(number)
    else:
        side.run(case.rounds, lambda seconds: None)
    return peak.gigabytes()


def compare(case: str, peer: str) -> dict[str, float]:
    """How far the two sides are apart."""
    case = _case(case)
    make_ours, peers = JOBS[case.shape.job]
    torch.backends.cudnn.allow_tf32 = False
    ours = make_ours(case)
    return peers[peer](case).differences(ours)


def table(rows: list[dict]) -> list[str]:
    """The rows in Markdown."""
    lines = ["| shape | what | this kit | peer | times |", "|---|---|---|---|---|"]
    line = "| {shape} | {what} | {ours:.3g} {unit} | {peer_name} {peer:.3g} {unit} | {ratio:.1f} |"
    return lines + [line.format(**row) for row in rows if "ratio" in row]
