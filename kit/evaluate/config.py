"""Typed configuration of evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kit.command import option
from kit.errors import ConfigError


@dataclass
class EvaluateConfig:
    """Answer the questions of a data file and score the answers."""

    data: str = option("", help="records that prepare_data wrote")
    output: str = option("", help="folder for predictions.jsonl and metrics.json")
    base_model: str = option(
        "",
        help="hub name, local folder (base or merged model) or 'tiny'; left out: the adapter's own",
        aliases=["--model_name_or_path"],
    )
    adapter: str | None = option(None, help="folder of a trained adapter")
    train_data: str | None = option(
        None, help="training records, for the question-only floor beside the accuracies"
    )
    prompting_mode: Literal["think_answer", "caption_reason_answer", "both"] = option(
        "both", help="how the model is asked"
    )
    per_device_eval_batch_size: int = option(
        16, help="answers generated at once on a device", aliases=["--batch_size"]
    )
    max_new_tokens: int = option(256, help="longest answer in tokens")
    max_records: int | None = option(None, help="only the first so many records")
    quantization: Literal["none", "nf4"] = option("none", help="nf4: base in 4-bit")
    bf16: bool | None = option(None, help="bfloat16; left out: wherever the GPU has it")
    attn_implementation: Literal["sdpa", "eager"] = option("sdpa", help="of the model")
    min_pixels: int | None = option(None, help="least area of an image after resizing")
    max_pixels: int | None = option(None, help="largest area of an image after resizing")
    skip_bad: bool = option(False, help="drop broken lines of the data instead of stopping")
    seed: int = option(0, help="of the bootstrap intervals")

    def __post_init__(self):
        for name in ("data", "output"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is not given", where=name, fix=f"set --{name}")
        if not (self.base_model or self.adapter):
            fix = "set --adapter, --base_model or both"
            raise ConfigError("no model given", where="base_model, adapter", fix=fix)
        for name in (
            "per_device_eval_batch_size", "max_new_tokens", "max_records", "min_pixels",
            "max_pixels",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                what = f"{name} must be at least 1, not {value}"
                raise ConfigError(what, where=name, fix="mend the value")
        if self.seed < 0:
            what = f"seed must not be negative, not {self.seed}"
            raise ConfigError(what, where="seed", fix="mend the value")
