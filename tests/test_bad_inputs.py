"""Every mistake in what a user gives to train_sft or evaluate: named, exit code 2, nothing left.

One table: how a good data file, image, config or model folder is damaged, and what the message
must say. ``prepare_data`` has its own in ``tests/data/test_prepare.py``, and numbers that are out
of bounds stand in ``tests/test_number_fields.py``.
"""

import errno
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import ranks
import torch
from helpers import rows
from PIL import Image
from safetensors.torch import load_file, save_file

from kit import cli
from kit.data.records import read_sft_records
from kit.files import json_line
from kit.model.adapters import add_lora
from kit.model.folders import base_folder
from kit.model.load import load_base
from kit.run.checkpoint import problem_with
from kit.run.stop import EXIT_STOPPED

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {"train": "train_sft.py", "evaluate": "evaluate.py"}
GOOD_FLAGS = {
    "train": "--base_model tiny --data data.json --output_dir out --report_to none --steps 2",
    "evaluate": "--base_model tiny --data data.json --output out --max_new_tokens 2",
}


@dataclass(frozen=True)
class Left:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def work(prepared, tmp_path, monkeypatch) -> Path:
    """A good data file of four records over two images, in the current folder."""
    records, _ = read_sft_records(prepared["test"])
    paths = list(dict.fromkeys(record.image for record in records))[:2]
    folder = tmp_path / "work"
    (folder / "images").mkdir(parents=True)
    lines = []
    for number, path in enumerate(paths):
        Image.open(path).convert("L").save(folder / "images" / f"{number}.png")
        root = prepared["test"].parent
        own = [row for row in rows(root, "test.json") if str(root / row["image"]) == path]
        lines += [row | {"image": f"images/{number}.png"} for row in own[:2]]
    write_lines(folder, lines)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def command(monkeypatch, capsys) -> Callable[..., Left]:
    """Run one of the two scripts in this process."""

    def call(name: str, *flags: str) -> Left:
        monkeypatch.setattr(sys, "argv", [SCRIPTS[name], *GOOD_FLAGS[name].split(), *flags])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main_of(SCRIPTS[name].removesuffix(".py"))
        printed = capsys.readouterr()
        return Left(left.value.code, printed.out, printed.err)

    return call


# ---------------------------------------------------------------- ways to damage what was good
def read_lines(folder: Path) -> list[dict]:
    return rows(folder, "data.json")


def write_lines(folder: Path, rows: list[dict], name: str = "data.json") -> None:
    (folder / name).write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")  # NaN too


def second(**changes):
    """Change fields of the second record; ``...`` removes one."""

    def damage(folder: Path) -> None:
        rows = read_lines(folder)
        rows[1] = {k: v for k, v in (rows[1] | changes).items() if v is not ...}
        write_lines(folder, rows)

    return damage


def second_line(change: Callable[[bytes], bytes]):
    """Change the second line's bytes, without its end."""

    def damage(folder: Path) -> None:
        lines = [json_line(row).encode() for row in read_lines(folder)]
        lines[1] = change(lines[1].rstrip()) + b"\n"
        (folder / "data.json").write_bytes(b"".join(lines))

    return damage


def target(**changes):
    """Change keys of the JSON object that the second record teaches; ``...`` removes one."""

    def damage(folder: Path) -> None:
        output = json.loads(read_lines(folder)[1]["output"]) | changes
        second(output=json.dumps({k: v for k, v in output.items() if v is not ...}))(folder)

    return damage


def box(text: str):
    """Give the second record one region with this text as its box."""

    def damage(folder: Path) -> None:
        second(regions=[{"label": "Lung", "box_xyxy_pixels": "BOX"}])(folder)
        second_line(lambda line: line.replace(b'"BOX"', text.encode()))(folder)

    return damage


def data(content: bytes):
    return lambda folder: (folder / "data.json").write_bytes(content)


def image(content: bytes):
    return lambda folder: (folder / "images/0.png").write_bytes(content)


def picture(size, mode="1", **options):
    """Put another picture in the first image's place."""

    def damage(folder: Path) -> None:
        Image.new(mode, size).save(folder / "images/0.png", **{"format": "PNG"} | options)

    return damage


def half_an_image(folder: Path) -> None:
    """The header is whole, so that only decoding shows it."""
    path = folder / "images/0.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped_pixels(folder: Path) -> None:
    path = folder / "images/0.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def folder_at(name: str):
    def damage(folder: Path) -> None:
        path = folder / name
        if path.exists():
            path.unlink()
        path.mkdir(parents=True)

    return damage


def without(name: str):
    return lambda folder: (folder / name).unlink()


def file_at(name: str, content: str | bytes = "x"):
    def damage(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return damage


def copy_of_data(damage: Callable[[Path], None]):
    """Leave data.json as it is and damage a copy of it, other.json."""

    def both(folder: Path) -> None:
        good = (folder / "data.json").read_bytes()
        damage(folder)
        (folder / "data.json").rename(folder / "other.json")
        (folder / "data.json").write_bytes(good)

    return both


def model_folder(damage: Callable[[Path], None]):
    """A copy of the embedded model as ``model/``, then damaged."""

    def make(folder: Path) -> None:
        shutil.copytree(base_folder(), folder / "model")
        damage(folder / "model")

    return make


def change_json(name: str, **changes):
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def change_weights(change: Callable[[dict], None], name: str = "model.safetensors"):
    def damage(folder: Path) -> None:
        weights = load_file(folder / name)
        change(weights)
        save_file(weights, folder / name, metadata={"format": "pt"})

    return damage


def drop_a_layer(weights: dict) -> None:
    del weights[next(name for name in sorted(weights) if name.endswith("q_proj.weight"))]


def widen_a_layer(weights: dict) -> None:
    name = next(name for name in sorted(weights) if name.endswith("q_proj.weight"))
    weights[name] = torch.cat([weights[name], weights[name]])


def adapter_folder(damage: Callable[[Path], None] = lambda folder: None):
    """An adapter of the embedded model as ``adapter/``, then damaged."""

    def make(folder: Path) -> None:
        model = load_base("tiny")
        model = add_lora(model, r=2, alpha=2, dropout=0.0, freeze_vision_tower=True)
        model.save_pretrained(folder / "adapter", save_embedding_layers=False)
        damage(folder / "adapter")

    return make


def smaller_layers(weights: dict) -> None:
    for name in weights:
        if name.endswith("mlp.down_proj.lora_A.weight"):
            weights[name] = weights[name][:, :64].contiguous()


def earlier_run(folder: Path) -> None:
    (folder / "out/checkpoint-4").mkdir(parents=True)
    (folder / "out/checkpoint-4/manifest.json").write_text('{\n  "files": {}\n}\n')


# ------------------------------------------------------------------------------------ the table
@dataclass(frozen=True)
class Bad:
    """``words`` must all be in the message. ``on``: the commands that it is tried with.
    ``loads``: only the model's own weights can show it."""

    words: tuple[str, ...]
    damage: Callable[[Path], None] = lambda folder: None
    flags: str = ""
    on: tuple[str, ...] = ("train", "evaluate")
    environment: tuple[tuple[str, str], ...] = ()
    loads: bool = False


def at_second(damage, *words: str) -> Bad:
    return Bad(("data.json:2: ", *words), damage)


def of_image(damage, *words: str) -> Bad:
    return Bad(("data.json:1: field 'image': ", "images/0.png", *words), damage)


def of_data(damage, *words: str) -> Bad:
    return Bad(("where: data.json", *words), damage)


def flag(flags: str, *words: str, damage=lambda folder: None, **options) -> Bad:
    return Bad(words, damage, flags, **options)


def train_flag(flags: str, *words: str, **options) -> Bad:
    return flag(flags, *words, on=("train",), **options)


def evaluate_flag(flags: str, *words: str, **options) -> Bad:
    return flag(flags, *words, on=("evaluate",), **options)


def config(text: str | bytes, *words: str, **options) -> Bad:
    return Bad(("where: c.yaml", *words), file_at("c.yaml", text), "--cfg c.yaml", **options)


def train_config(text: str, *words: str) -> Bad:
    return config(text, *words, on=("train",))


def base(damage, *words: str, **options) -> Bad:
    return Bad(("model", *words), model_folder(damage), "--base_model model", **options)


def adapter(damage, *words: str, **options) -> Bad:
    return Bad(
        ("adapter", *words), adapter_folder(damage), "--adapter adapter", ("evaluate",), **options
    )


def launched(name: str, value: str, flags: str, *words: str) -> Bad:
    """As if ``accelerate launch`` had been told something."""
    return Bad(words, flags=flags, on=("train",), environment=((f"ACCELERATE_{name}", value),))


BAD = {
    # images
    "image missing": of_image(without("images/0.png"), "no such file"),
    "image truncated": of_image(half_an_image, "cannot be decoded: the file is truncated"),
    "image damaged": of_image(flipped_pixels, "cannot be decoded"),
    "image of zero bytes": of_image(image(b""), "is empty (0 bytes)"),
    "image huge": of_image(picture((8000, 7000)), "is too large: 8000x7000 pixels"),
    "image a thread": of_image(picture((1, 300)), "an aspect ratio above 200"),
    "image animated": of_image(
        picture(
            (9, 9), "L", format="GIF", save_all=True, append_images=[Image.new("L", (9, 9), 255)]
        ),
        "holds 2 frames",
    ),
    "image DICOM": of_image(image(b"\0" * 128 + b"DICM" + b"\0" * 99), "not an image but a DICOM"),
    "image is text": of_image(image(b"not found"), "not an image of a known format"),
    "image a web page": of_image(image(b"<html>404</html>"), "not an image but a web page"),
    "image is a folder": of_image(folder_at("images/0.png"), "no such file"),
    "image of another size": Bad(
        ("data.json:1: field 'image_size': is [", "image is 33x44 pixels", "images/0.png",
         "prepare_data"),
        picture((33, 44)),
    ),
    "image a URL": at_second(second(image="https://example.org/a.png"), "'image': is a URL"),
    "image a file URL": at_second(second(image="file:///etc/passwd"), "'image': is a URL"),
    "image a data URI": at_second(second(image="data:image/png;base64,AA"), "'image': is a URL"),
    "image leaves the folder": at_second(second(image="../x.png"), "'image': leaves the folder"),
    "image with a NUL": at_second(second(image="a\0.png"), "'image': holds a NUL character"),
    "image a line of 5 MB": at_second(second(image="a" * 5_000_000), "'image': "),
    "image empty": at_second(second(image=" "), "'image': is empty"),
    # records
    "broken JSON": at_second(second_line(lambda _: b'{"a": }'), "not valid JSON"),
    "line cut off": at_second(second_line(lambda line: line[:300]), "not valid JSON"),
    "nested too deeply": at_second(second_line(lambda _: b"[" * 200_000), "nested too deeply"),
    "not UTF-8": at_second(second_line(lambda line: line + b"\xff\xfe"), "can't decode byte"),
    "a list": at_second(second_line(lambda _: b"[1, 2]"), "must be an object, not list"),
    "a word": at_second(second_line(lambda _: b'"record"'), "must be an object, not str"),
    "NaN": at_second(second(note=float("nan")), "NaN is not JSON"),
    "missing field": at_second(second(question=...), "field 'question': missing"),
    "wrong type": at_second(second(answer=["Yes"]), "field 'answer': must be text, not list"),
    "null": at_second(second(location=None), "field 'location': must be text"),
    "empty answer": at_second(second(answer=""), "field 'answer': is empty"),
    "empty question": at_second(second(question=" \n"), "field 'question': is empty"),
    "lone surrogate": at_second(
        second_line(lambda line: line.replace(b'"question": "', b'"question": "\\ud800')),
        "field 'question'", "surrogate",
    ),
    "model's special token": at_second(
        second(question="What is <|image_pad|> here?"), "field 'question'", "<|image_pad|>"
    ),
    "box of three numbers": at_second(box("[1, 2, 3]"), "regions[0].box_xyxy_pixels", "four"),
    "box of words": at_second(box('["1", "2", "3", "4"]'), "regions[0].box_xyxy_pixels", "four"),
    "box inverted": at_second(box("[50, 1, 40, 9]"), "regions[0].box_xyxy_pixels", "is inverted"),
    "box outside": at_second(box("[50, 1, 5000, 9]"), "regions[0].box_xyxy_pixels", "is outside"),
    "box of 1e999": at_second(box("[1, 1, 1e999, 9]"), "1e999 is not finite"),
    "box of NaN": at_second(box("[1, 1, NaN, 9]"), "NaN is not JSON"),
    "box of 400 digits": at_second(box(f"[1, 1, 1{'0' * 400}, 9]"), "regions[0].box_xyxy_pixels"),
    "box of 5 MB": at_second(box(f'["{"a" * 5_000_000}"]'), "regions[0].box_xyxy_pixels", "four"),
    "regions a mapping": at_second(second(regions={}), "field 'regions': must be a list"),
    "region without a label": at_second(second(regions=[{}]), "'regions[0]': must be {label"),
    "image_size of words": at_second(second(image_size=["9", "9"]), "field 'image_size': must be"),
    "image_size false": at_second(
        second(image_size=[9, 9]), "field 'image_size': is [9, 9]", "images/0.png"
    ),
    "output no JSON": at_second(second(output="Yes"), "field 'output': is not a JSON object"),
    "output a list": at_second(second(output="[]"), "field 'output': lacks 'caption'"),
    "output without boxes": at_second(target(boxes=...), "field 'output': lacks 'boxes' (list)"),
    "output box off the grid": at_second(
        target(boxes=[[0, 0, 9, 1001]]), "field 'output': boxes[0]", "0..1000"
    ),
    "output box inverted": at_second(
        target(boxes=[[0, 0, 9, 9], [9, 9, 5, 99]]), "field 'output': boxes[1]"
    ),
    "output reasons in numbers": at_second(target(reasoning=[1]), "field 'output': reasoning[0]"),
    # data files
    "data missing": of_data(without("data.json"), "no such data file", "prepare_data"),
    "data a folder": of_data(folder_at("data.json"), "a folder without questions"),
    "data empty": of_data(data(b""), "no record in the data file"),
    "data blank": of_data(data(b"\n \n\t\n"), "no record in the data file"),
    "data an image": of_data(
        lambda folder: shutil.copy(folder / "images/0.png", folder / "data.json"), "not valid JSON"
    ),
    "data in UTF-16": of_data(data('{"a": 1}\n'.encode("utf-16")), "no column for image and "),
    "data in Latin-1": of_data(data('{"a": "é"}\n'.encode("latin-1")), "not valid JSON"),
    "data one JSON list": of_data(
        lambda folder: data(json.dumps([*read_lines(folder), 1]).encode())(folder),
        "must be an object, not int",
    ),
    "every line broken": of_data(data(b"{\n" * 30), "30 broken lines", "... and 10 more"),
    "nothing left to skip to": flag(
        "--skip_bad", "no record in the data file", "data.json", damage=data(b"{\n{\n")
    ),
    "eval_data missing": train_flag("--eval_data no.json", "no such data file", "no.json"),
    "eval_data broken": train_flag(
        "--eval_data other.json", "other.json:2: field 'answer': is empty",
        damage=copy_of_data(second(answer="")),
    ),
    "eval_data's image truncated": train_flag(
        "--eval_data other.json", "other.json:2: field 'image'", "images/cut.png", "is truncated",
        damage=lambda folder: (
            file_at("images/cut.png", (folder / "images/0.png").read_bytes()[:-500])(folder),
            copy_of_data(second(image="images/cut.png"))(folder),
        ),
    ),
    "train_data missing": evaluate_flag("--train_data no.json", "no such data file", "no.json"),
    "train_data broken": evaluate_flag(
        "--train_data other.json", "other.json:2: field 'answer': is empty",
        damage=copy_of_data(second(answer="")),
    ),
    "record too long": train_flag(
        "--max_length 60", "over max_length 60", "images/0.png", "raise max_length"
    ),
    "question too long": flag(
        "", "tokens", "images/0.png", damage=second(question="why " * 5000), loads=True
    ),
    # config files
    "unknown key": train_config("leraning_rate: 1e-4", "'leraning_rate'", "mean 'learning_rate'"),
    "unknown key of evaluate": config(
        "prompt_mode: both", "'prompt_mode'", "mean 'prompting_mode'", on=("evaluate",)
    ),
    "short flag as a key": train_config("lr: 1e-4", "'lr'", "mean 'learning_rate'"),
    "unknown key like none": config("zebra: 1", "unknown key 'zebra'", "--help"),
    "key twice": config("seed: 1\nbf16: false\nseed: 2\n", "'seed'", "twice", "line 3"),
    "key without a name": config("1: 2", "unknown key '1'"),
    "config a list": config("- seed: 1", "must be a mapping"),
    "config a word": config("seed", "must be a mapping"),
    "config broken": config("seed: [1", "cannot read the config file", "line 1"),
    "config nested too deeply": config("a: " + "[" * 1500, "cannot read the config file"),
    "config not UTF-8": config(b"seed: \xff", "cannot read the config file"),
    "config with code": config("seed: !!python/object/apply:os.getcwd []", "cannot read"),
    "config with a day for a number": config("seed: 2024-13-45", "seed", "'2024-13-45'"),
    "config missing": flag("--cfg no.yaml", "no such config file", "no.yaml", "--cfg"),
    "config a folder": flag(
        "--cfg c.yaml", "cannot read the config file", "c.yaml", damage=folder_at("c.yaml")
    ),
    "key a word for a number": train_config("learning_rate: fast", "learning_rate", "'fast'"),
    "key a fraction for a count": train_config("lora_r: 16.5", "lora_r", "'16.5'"),
    "key a list for a number": config("seed: [1, 2]", "'seed'", "one value"),
    "key a mapping for a number": config("seed: {a: 1}", "'seed'", "mapping"),
    "key an empty list": train_config("report_to: []", "'report_to'", "empty list", "none"),
    "key garbage for a bool": config("skip_bad: perhaps", "skip_bad", "perhaps"),
    "key an unknown choice": train_config("quantization: int4", "quantization", "int4", "nf4"),
    "YAML's no for none": config("quantization: no", "quantization", "'no'", "nf4"),
    # flags
    "unknown flag": flag("--dta x", "--dta", "did you mean 'data'?"),
    "abbreviated flag": train_flag("--learning 1", "--learning"),
    "word without a flag": flag("speed 9", "speed 9", "command line"),
    "flag without its value": flag("--data", "--data", "expected one argument"),
    "config flag without its value": flag("--cfg", "--cfg", "expected one argument"),
    "no data": flag("--data=", "data", "--data"),
    "no run folder": train_flag("--output_dir=", "output_dir"),
    "no output": evaluate_flag("--output=", "output"),
    "no model": evaluate_flag("--base_model=", "no model given", "--adapter"),
    "learning_rate nan": train_flag("--learning_rate nan", "learning_rate", "not nan"),
    **{
        f"{name} {value}": train_flag(f"--{name} {value}", name, value)
        for name, value in (
            ("lr_scheduler_type", "polynomial"),
            ("prompting_mode", "all"), ("lr", "1e-4x"), ("finetuning", "lorra"),
        )
    },
    **{
        f"evaluate {name} {value}": evaluate_flag(f"--{name} {value}", name, value)
        for name, value in (
            ("max_new_tokens", "0"), ("quantization", "int8"),
            ("prompting_mode", "cot"),
        )
    },
    "full and nf4": train_flag(
        "--finetuning full --quantization nf4", "finetuning: full", "quantization: nf4"
    ),
    "best without evaluation": train_flag("--load_best_model_at_end", "eval_data and eval_steps"),
    "evaluation of nothing": train_flag("--eval_steps 5", "eval_steps", "eval_data"),
    "pixel bounds inverted": flag(
        "--min_pixels 99999 --max_pixels 9999", "min_pixels 99999", "max_pixels 9999"
    ),
    "unknown tracker": train_flag("--report_to nonsense", "nonsense", "report_to", "tensorboard"),
    "tracker not installed": train_flag("--report_to aim", "aim", "not installed", "report_to"),
    "none and a tracker": train_flag("--report_to none tensorboard", "report_to", "none"),
    "accelerate accumulates otherwise": launched(
        "GRADIENT_ACCUMULATION_STEPS", "4", "--gradient_accumulation_steps 2",
        "accumulates 4", "gradient_accumulation_steps",
    ),
    "accelerate in fp16": launched("MIXED_PRECISION", "fp16", "", "fp16", "mixed_precision"),
    "accelerate in bf16, not the kit": launched(
        "MIXED_PRECISION", "bf16", "--bf16 false", "bf16", "mixed_precision"
    ),
    # run folders
    "output a file": flag(
        "", "out", "is a file", damage=file_at("out", "precious")
    ),
    "output under a file": Bad(
        ("a/file/out", "file"), file_at("a/file"), "--out_dir a/file/out", ("train",)
    ),
    "output under a file, evaluate": Bad(
        ("a/file/out", "file"), file_at("a/file"), "--output a/file/out", ("evaluate",)
    ),
    "checkpoints of another run": train_flag(
        "", "holds checkpoints of an earlier run", "where: out", "--resume_from_checkpoint latest",
        damage=earlier_run,
    ),
    "resume what is not there": train_flag(
        "--resume_from_checkpoint latest", "no valid checkpoint", "where: out"
    ),
    "resume from a plain folder": train_flag(
        "--resume_from_checkpoint images", "no such checkpoint", "images", "checkpoint-N"
    ),
    "resume from nothing": train_flag(
        "--resume_from_checkpoint out/checkpoint-9", "no such checkpoint", "out/checkpoint-9"
    ),
    "resume without a manifest": train_flag(
        "--resume_from_checkpoint out/checkpoint-4", "no manifest.json",
        damage=folder_at("out/checkpoint-4"),
    ),
    "resume from an empty manifest": train_flag(
        "--resume_from_checkpoint latest", "no valid checkpoint", "lists no file",
        damage=earlier_run,
    ),
    "stop file left over": train_flag("", "stop", "out/stop", "remove", damage=file_at("out/stop")),
    # models
    "no such model folder": flag("--base_model ./no/model", "no such model folder", "./no/model"),
    "model a file": flag("--base_model data.json", "data.json", "config.json"),
    "model not a model": flag("--base_model images", "images", "config.json"),
    "model of another kind": base(
        change_json("config.json", model_type="llama"), "model_type is 'llama'"
    ),
    "model's config broken": base(file_at("config.json", "{"), "cannot read", "config.json"),
    "model's config a list": base(file_at("config.json", "[]"), "config.json", "object"),
    "model without weights": base(without("model.safetensors"), "no *.safetensors"),
    "model without tokenizer": base(
        lambda m: [p.unlink() for p in m.glob("tokenizer*")], "cannot load"
    ),
    "model's tokenizer broken": base(file_at("tokenizer.json", '{"a": 1}'), "cannot load"),
    "model without image processor": base(without("preprocessor_config.json"), "cannot load"),
    "model's weights cut off": base(
        lambda m: os.truncate(m / "model.safetensors", 5000), "cannot load", loads=True
    ),
    "model lacks a layer": base(
        change_weights(drop_a_layer), "cannot load", "q_proj.weight", loads=True
    ),
    "model with a layer of other size": base(
        change_weights(widen_a_layer), "cannot load", "q_proj.weight", loads=True
    ),
    "adapter as base": flag(
        "--base_model adapter", "adapter, not a base model", "adapter", damage=adapter_folder()
    ),
    "base as adapter": evaluate_flag(
        "--adapter model", "adapter_config.json", "model", damage=model_folder(lambda m: None)
    ),
    "no such adapter": evaluate_flag("--adapter no/adapter", "no such adapter", "no/adapter"),
    "adapter without weights": adapter(
        without("adapter_model.safetensors"), "no adapter_model.safetensors"
    ),
    "adapter's config broken": adapter(file_at("adapter_config.json", "{"), "cannot read"),
    "adapter's config a list": adapter(file_at("adapter_config.json", "[]"), "object"),
    "adapter's config empty": adapter(file_at("adapter_config.json", "{}"), "peft_type"),
    "adapter for another base": adapter(
        change_weights(smaller_layers, "adapter_model.safetensors"),
        "does not fit this base model", "trained on: tiny", loads=True,
    ),
    "adapter's weights cut off": adapter(
        lambda a: os.truncate(a / "adapter_model.safetensors", 3000), "adapter", loads=True
    ),
    "adapter's base is gone": Bad(
        ("no such model folder", "/gone/model", "--base_model"),
        adapter_folder(change_json("adapter_config.json", base_model_name_or_path="/gone/model")),
        "--base_model= --adapter adapter", ("evaluate",),
    ),
    "adapter's base unnamed": Bad(
        ("does not name its base", "--base_model"),
        adapter_folder(change_json("adapter_config.json", base_model_name_or_path=None)),
        "--base_model= --adapter adapter", ("evaluate",),
    ),
}  # fmt: skip
CASES = [pytest.param(n, on, id=f"{n}-{on}") for n, bad in BAD.items() for on in bad.on]


def tree(folder: Path) -> list[tuple[Path, int]]:
    return sorted((path, path.stat().st_size) for path in folder.rglob("*"))


def loaded_too_early(*_, **__):
    raise AssertionError("the model was loaded before the mistake was found")


@pytest.mark.parametrize(("name", "script"), CASES)
def test_mistakes_are_named_and_leave_nothing(name, script, work, command, monkeypatch):
    bad = BAD[name]
    bad.damage(work)
    before = tree(work)
    for key, value in bad.environment:
        monkeypatch.setenv(key, value)
    if not bad.loads:
        for module in ("kit.train.policy", "kit.evaluate.answering"):
            monkeypatch.setattr(f"{module}.load_base", loaded_too_early)
    left = command(script, *bad.flags.split())
    assert left.code == 2
    assert left.err.startswith("error: ")
    for words in bad.words:
        assert words in left.err
    assert "fix:" in left.err
    assert len(left.err) < 12_000
    assert "Traceback" not in left.err + left.out
    assert tree(work) == before


def test_good_inputs_are_good(work, command):
    """The table says nothing if what it damages was broken before."""
    assert command("train", "--eval_data", "data.json").code == 0
    assert command("evaluate", "--train_data", "data.json").code == 0
    assert command("evaluate", "--base_model=", "--adapter", "out").code == 0


def test_broken_lines_can_be_skipped_and_are_counted(work, command):
    half_an_image(work)
    second(answer="", image="images/1.png")(work)
    left = command("train", "--skip_bad")
    assert left.code == 0
    assert "2 records (2 broken lines dropped)" in left.out
    assert command("evaluate", "--skip_bad").code == 0
    metrics = json.loads((work / "out/metrics.json").read_text())
    assert (metrics["n"], metrics["n_dropped"]) == (2, 2)


def test_unusual_images_are_no_mistake(work, command):
    """16 bits, CMYK, palette, transparency, two colours, a wrong extension, a single pixel, and a
    camera's own, on its side with a preview."""
    size = (60, 50)
    grey = np.arange(3000, dtype=np.uint16).reshape(50, 60) * 20
    kinds = {
        "deep.png": Image.fromarray(grey),
        "press.jpg": Image.new("CMYK", size, (9, 99, 200, 3)),
        "palette.png": Image.new("P", size, 3),
        "clear.png": Image.new("RGBA", size, (1, 2, 3, 4)),
        "two.png": Image.new("1", size),
        "dot.png": Image.new("L", (1, 1)),
    }
    for name, picture in kinds.items():
        picture.save(work / "images" / name)
    (work / "images/press.jpg").rename(work / "images/press.png")
    shutil.copy(work / "images/0.png", work / "images/really_png.dcm")
    exif = Image.Exif()
    exif[274] = 6
    pictures = [Image.new("L", (wide, 40)) for wide in (50, 20)]
    pictures[0].save(
        work / "images/camera.jpg", "MPO", save_all=True, append_images=pictures[1:], exif=exif
    )
    names = [*kinds, "really_png.dcm", "camera.jpg"]
    names[1] = "press.png"
    row = read_lines(work)[0]
    del row["image_size"], row["regions"]
    write_lines(work, [row | {"image": f"images/{name}"} for name in names])
    left = command("evaluate", "--prompting_mode", "think_answer")
    assert (left.code, left.err) == (0, "")
    assert json.loads((work / "out/metrics.json").read_text())["n"] == len(names)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_image_that_breaks_after_the_start(workers, work, command, monkeypatch):
    """It was whole when the records were read. A loader's process may be the one to find it."""
    from kit.train import sft

    def load_processor(*arguments, **options):
        half_an_image(work)
        return original(*arguments, **options)

    original = sft.load_processor
    monkeypatch.setattr(sft, "load_processor", load_processor)
    left = command("train", "--dataloader_num_workers", workers)
    assert left.code == 2
    assert left.err.startswith("error: cannot be decoded: the file is truncated")
    assert "images/0.png" in left.err
    assert "Traceback" not in left.err
    assert not [*work.rglob("*.safetensors"), *work.rglob("summary.json")]


@pytest.mark.slow
def test_stop_file_stops_once(work, command, monkeypatch):
    """It is gone when the run has stopped, so that the same command can resume."""
    from kit.run.runlog import RunLog

    advance = RunLog.advance

    def advance_and_ask(log) -> None:
        advance(log)
        (work / "out/stop").touch()

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "advance", advance_and_ask)
        left = command("train")
    assert left.code == EXIT_STOPPED
    assert "--resume_from_checkpoint latest" in left.out
    assert not (work / "out/stop").exists()
    assert not (work / "out/adapter_model.safetensors").exists()
    assert command("train", "--resume_from_checkpoint", "latest").code == 0
    assert (work / "out/adapter_model.safetensors").exists()


@pytest.mark.slow
def test_resume_from_another_runs_checkpoint(work, command):
    assert command("train", "--save_steps", "1").code == 0
    before = tree(work)
    flags = ["--resume_from_checkpoint", "out/checkpoint-1", "--output_dir", "other"]
    left = command("train", *flags, "--lora_r", "3")
    assert left.code == 2
    assert "lora_r: 16 -> 3" in left.err
    assert tree(work) == before


def test_mistake_that_only_another_process_sees_is_told(work, command, monkeypatch):
    monkeypatch.setattr("kit.command.SECONDS_TO_BE_ENDED", 0)
    monkeypatch.setenv("RANK", "3")
    left = command("train", "--data=")
    assert left.code == 2
    assert left.err.startswith("error in process 3: no training data given")


# ---------------------------------------------------------------------------------- a full disk
def require_whole(folder: Path) -> None:
    """What stands in a run folder can be used or is not there."""
    assert not [path for path in folder.rglob("*") if ".tmp" in path.name]
    for path in (*folder.rglob("checkpoint-*"), *folder.glob("best")):
        assert problem_with(path) is None
    for path in folder.rglob("*.jsonl"):
        assert all(rows(folder, path))
        assert path.read_bytes().endswith(b"\n") or path.stat().st_size == 0
    for path in folder.rglob("*.json"):
        json.loads(path.read_text())
    for path in folder.rglob("*.safetensors"):
        load_file(path)
    if (folder / "adapter_model.safetensors").exists():
        assert (folder / "adapter_config.json").exists()
    assert (folder / "predictions.jsonl").exists() == (folder / "metrics.json").exists()


TRAIN_AND_SAVE = ["--save_steps", "1", "--lora_r", "2", "--logging_steps", "1"]


@pytest.mark.parametrize("failing", [1, 2, 3, 5, 9, 10, 17, 18])
def test_disk_full_while_training(failing, work, command, monkeypatch):
    """The so-manieth write to reach the disk fails: of the log, a checkpoint, the adapter."""
    full_at(failing, monkeypatch)
    left = command("train", *TRAIN_AND_SAVE)
    assert left.code == 2
    assert left.err.startswith("error: the disk is full\n  where: ")
    assert "free some space" in left.err
    require_whole(work / "out")
    assert not (work / "out/summary.json").exists()


@pytest.mark.parametrize("failing", [1, 2])
def test_disk_full_while_evaluating_keeps_what_was_there(failing, work, command, monkeypatch):
    assert command("evaluate").code == 0
    before = {path: path.read_bytes() for path in (work / "out").iterdir()}
    full_at(failing, monkeypatch)
    left = command("evaluate", "--max_records", "1")
    assert left.code == 2
    assert left.err.startswith("error: the disk is full")
    require_whole_parts(work / "out" / "parts")
    after = {p: p.read_bytes() for p in (work / "out").iterdir() if p.name != "parts"}
    assert after == before


def require_whole_parts(folder: Path) -> None:
    """Of an evaluation that was cut off only whole batches are there, to go on from."""
    for path in folder.iterdir():
        assert path.name == "run.json" or re.fullmatch(r"\d{6}\.jsonl", path.name), path
        assert json.loads(path.read_text()) if path.suffix == ".json" else rows(folder, path)


def full_at(failing: int, monkeypatch) -> None:
    calls = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) >= failing:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.fixture
def disk(work):
    """A real disk of a few pages in the current folder; only root may make one."""

    def make(kilobytes: int) -> Path:
        folder = work / "disk"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)]
        if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("a small disk cannot be mounted here")
        return folder

    yield make
    if (work / "disk").is_mount():
        # lazily, for TensorBoard's writer of a run that failed may not have closed its file yet
        subprocess.run(["umount", "-l", str(work / "disk")], check=True)


@pytest.mark.parametrize("kilobytes", [4, 8, 60, 120, 260, 330, 420])
def test_really_full_disk_while_training(kilobytes, disk, work, command):
    """Also where a library does the writing: safetensors, tokenizers, torch and TensorBoard each
    raise something else."""
    folder = disk(kilobytes)
    left = command("train", *TRAIN_AND_SAVE, "--out_dir", "disk", "--report_to", "tensorboard")
    assert left.code == 2
    assert left.err.startswith("error: the disk is full\n  where: ")
    assert "Traceback" not in left.err
    require_whole(folder)
    assert not (folder / "summary.json").exists()


@pytest.mark.parametrize("kilobytes", [4, 8])
def test_really_full_disk_while_evaluating(kilobytes, disk, work, command):
    folder = disk(kilobytes)
    left = command("evaluate", "--output", "disk/out")
    assert left.code == 2
    assert left.err.startswith("error: the disk is full\n  where: disk/out")
    assert not [path for path in folder.rglob("*.*") if path.parent.name != "parts"]
    require_whole_parts(folder / "out" / "parts")


# -------------------------------------------------------------------------- in their own process
@pytest.mark.slow
def test_in_its_own_process(work):
    """As documented; libraries must not add tracebacks or warnings of their own."""
    half_an_image(work)
    process = start("evaluate", work, "--base_model", "Qwen/Qwen2-VL-2B-Instruct", "--skip_bad")
    offline = process.communicate()[1]
    assert process.returncode == 2
    assert offline.startswith("error: cannot load the model: ")
    assert "where: Qwen/Qwen2-VL-2B-Instruct" in offline
    assert "without a network give a local folder" in offline
    assert not any(word in offline for word in ("Traceback", "Warning"))
    assert not (work / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [16, 60, 260])
def test_full_disk_in_its_own_process(kilobytes, disk, work):
    """TensorBoard writes in a thread of its own, up to the process's last breath."""
    folder = disk(kilobytes)
    flags = [*GOOD_FLAGS["train"].split(), *TRAIN_AND_SAVE, "--out_dir", "disk"]
    done = ranks.run(
        [str(ROOT / "launch" / SCRIPTS["train"]), *flags, "--report_to", "tensorboard"],
        hook=functools.partial(os.chdir, work),
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: the disk is full")
    assert "Traceback" not in done.stderr
    require_whole(folder)


def start(script: str, folder: Path, *flags: str) -> subprocess.Popen:
    own = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder.parent / "hub")}
    return subprocess.Popen(
        [sys.executable, ROOT / "launch" / SCRIPTS[script], *GOOD_FLAGS[script].split(), *flags],
        cwd=folder, env=os.environ | own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
