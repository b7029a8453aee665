"""Typed configuration of evaluation and of the counterfactual proxy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from kit.command import option, require
from kit.data.columns import TableOptions
from kit.errors import ConfigError
from kit.scoring.settings import DEFAULT_ENCODER

AnswerBoxes = Literal["auto", "grid_1000", "pixels", "resized_pixels", "unit"]


@dataclass
class ModelConfig:
    """A model that is asked, and how."""

    output: str = option("", help="where the results go")
    base_model: str = option(
        "",
        help="hub name, local folder (base or merged model) or 'tiny'; left out: the adapter's own",
        aliases=["--model_name_or_path"],
    )
    adapter: str | None = option(None, help="folder of a trained adapter", aliases=["--sft_ckpt"])
    per_device_eval_batch_size: int | None = option(
        None,
        help="answers decoded at once on a device; null: as many as its memory is good for",
        aliases=["--batch_size"],
    )
    max_new_tokens: int = option(256, help="longest answer in tokens")
    quantization: Literal["none", "nf4"] = option("none", help="nf4: base in 4-bit")
    bf16: bool | None = option(None, help="bfloat16; left out: wherever the GPU has it")
    full_determinism: bool = option(False, help="deterministic algorithms only, slower")
    min_pixels: int | None = option(None, help="least area of an image after resizing")
    max_pixels: int | None = option(None, help="largest area of an image after resizing")
    seed: int = option(0, help="of controls and sampled answers")

    needs_output: ClassVar[bool] = True

    def __post_init__(self):
        if self.needs_output and not self.output:
            raise ConfigError("output is not given", where="output", fix="set --output")
        if not (self.base_model or self.adapter):
            fix = "set --adapter, --base_model or both"
            raise ConfigError("no model given", where="base_model, adapter", fix=fix)
        self.require_at_least_one(
            "per_device_eval_batch_size", "max_new_tokens", "min_pixels", "max_pixels"
        )
        require(self.seed >= 0, "seed", "must not be negative", self.seed)

    def require_at_least_one(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            require(value is None or value >= 1, name, "must be at least 1", value)


@dataclass
class ProbedConfig(ModelConfig):
    """A model, and how its answers are put to the test."""

    answer_boxes: AnswerBoxes = option(
        "auto",
        help="what the boxes in its answers count: thousandths of the image's sides (grid_1000), "
        "pixels of the image, pixels of it as it was resized, or shares of its sides; auto: "
        "grid_1000 where the kit trained it, else as its family is known to (Qwen2.5-VL: "
        "resized_pixels). launch/check_boxes.py finds out",
    )
    inpainting: Literal["telea", "ns", "blur", "mean"] = option(
        "telea", help="how a region is taken out of an image"
    )
    random_draws: int = option(2, help="controls that each region is compared with")

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least_one("random_draws")


@dataclass
class InferenceConfig(TableOptions, ProbedConfig):
    """A model, the questions that it is asked, and what is taken from their images."""

    data: str = option("", help="records: of prepare_data, or any table (data/README.md)")
    max_records: int | None = option(None, help="only the first so many records")
    num_shards: int = option(1, help="of how many runs that share the records this is one")
    shard_index: int = option(
        0, help="which, from 0; the same run without shards merges them when all are done"
    )
    skip_bad: bool = option(False, help="drop broken lines of the data instead of stopping")

    def __post_init__(self):
        _ = self.layout  # which checks it
        if not self.data:
            raise ConfigError("data is not given", where="data", fix="set --data")
        super().__post_init__()
        self.require_at_least_one("max_records", "num_shards")
        if not 0 <= self.shard_index < self.num_shards:
            what = f"there is no shard {self.shard_index} of {self.num_shards}"
            fix = "count from 0, and set num_shards too"
            raise ConfigError(what, where="shard_index", fix=fix)


@dataclass
class EvaluateConfig(InferenceConfig):
    """Answer the questions of a data file and score the answers."""

    output: str = option("", help="folder for predictions.jsonl and metrics.json")
    train_data: str | None = option(
        None, help="training records, for the question-only floor beside the accuracies"
    )
    prompting_mode: Literal["think_answer", "caption_reason_answer", "both"] = option(
        "both", help="how the model is asked"
    )
    counterfactual: bool = option(
        False,
        help="ask again without the evidence, without controls that differ from it in place alone, "
        "with a blank and another image, and without any: 3 answers more a question, and "
        "1 + random_draws for each of gold, claimed and both boxes",
    )
    consistency: bool = option(True, help="measure how well captions fit their questions")
    consistency_model: str = option(
        DEFAULT_ENCODER, help="sentence-transformers model, by name or folder"
    )
    num_samples: int = option(
        0, help="answers sampled a question, for self-consistency as a confidence"
    )
    temperature: float = option(0.7, help="of sampled answers")

    def __post_init__(self):
        super().__post_init__()
        if self.num_samples < 0:
            what = f"num_samples must not be negative, not {self.num_samples}"
            raise ConfigError(what, where="num_samples", fix="fix the value; 0 samples none")
        if not 0 < self.temperature < float("inf"):
            what = f"temperature must be positive and finite, not {self.temperature}"
            raise ConfigError(what, where="temperature", fix="fix the value")


@dataclass
class CfProxyConfig(InferenceConfig):
    """Answer the questions of a data file, measure what the gold answers rest on, and write the
    records that train_grpo reads."""

    output: str = option("", help="the data file to write")
    keep_images: bool = option(False, help="keep the images without their regions, as PNG")
    images_dir: str = option("data/outputs_cfproxy", help="where kept images go")


@dataclass
class CfPairsConfig(TableOptions):
    """Records of images without their evidence, and without a control of it, beside those of the
    whole images: to be fine-tuned on."""

    data: str = option("", help="records: of prepare_data, or any table (data/README.md)")
    output: str = option("", help="the data file to write")
    images_dir: str = option("", help="where changed images go; left out: beside the output")
    abstention: str = option(
        "Cannot tell", help="the answer that cannot be told without evidence; empty: no such record"
    )
    inpainting: Literal["telea", "ns", "blur", "mean"] = option(
        "telea", help="how a region is taken out of an image"
    )
    skip_bad: bool = option(False, help="drop broken lines of the data instead of stopping")
    seed: int = option(0, help="of controls")

    def __post_init__(self):
        _ = self.layout  # which checks it
        for name in ("data", "output"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is not given", where=name, fix=f"set --{name}")
        require(self.seed >= 0, "seed", "must not be negative", self.seed)


@dataclass
class BoxCheckConfig(ModelConfig):
    """Find out what the numbers of a model's boxes count: ask it where the one bright spot of
    drawn images is."""

    output: str = option("", help="folder for boxes.json, boxes.png and the images")
    images: int = option(24, help="drawn images, each asked about in three ways")
    seed: int = option(0, help="of the images")

    def __post_init__(self):
        super().__post_init__()
        require(self.images >= 10, "images", "must be at least 10", self.images)
