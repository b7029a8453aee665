"""Typed configuration of training, and of SFT; names follow TRL and the HF Trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kit.command import option, require
from kit.data.columns import TableOptions
from kit.errors import ConfigError


@dataclass
class TrainingConfig(TableOptions):
    """What every training stage shares: model, optimisation, run folder."""

    base_model: str = option(
        "Qwen/Qwen2-VL-2B-Instruct",
        help="hub name, local folder, or 'tiny' for the embedded model",
        aliases=["--model_name_or_path"],
    )
    finetuning: Literal["lora", "full"] = option("lora", help="what is trained")
    quantization: Literal["none", "nf4"] = option(
        "none", help="nf4: frozen base in 4-bit with double quantization (QLoRA)"
    )
    lora_r: int = option(16, help="LoRA rank")
    lora_alpha: int = option(32, help="LoRA scale is lora_alpha / lora_r")
    lora_dropout: float = option(0.0, help="above 0, questions do not share their image's pass")
    freeze_vision_tower: bool = option(True, help="leave the vision tower and its merger untouched")
    min_pixels: int | None = option(None, help="least area of an image after resizing")
    max_pixels: int | None = option(None, help="largest area of an image after resizing")

    data: str = option("", help="training records")
    eval_data: str | None = option(None, help="held-out records")
    skip_bad: bool = option(False, help="drop broken lines of the data instead of stopping")
    output_dir: str = option("", help="run folder", aliases=["--out_dir"])
    seed: int = option(42, help="of data order, initial adapter and sampling")
    per_device_train_batch_size: int = option(
        8, help="records a process and micro-batch", aliases=["--batch_size"]
    )
    gradient_accumulation_steps: int = option(1, help="micro-batches a step")
    learning_rate: float = option(1e-4, help="peak learning rate", aliases=["--lr"])
    num_train_epochs: float = option(1.0, help="passes over the data, where max_steps is not set")
    max_steps: int = option(-1, help="optimizer steps; overrides epochs", aliases=["--steps"])
    lr_scheduler_type: Literal["cosine", "linear", "constant_with_warmup"] = option(
        "cosine", help="shape of the learning rate after warm-up"
    )
    warmup_ratio: float = option(0.03, help="share of the steps that warm up")
    warmup_steps: int = option(0, help="overrides warmup_ratio if above 0")
    weight_decay: float = option(0.0, help="AdamW's, on matrices only")
    adam_beta1: float = option(0.9, help="AdamW's")
    adam_beta2: float = option(0.999, help="AdamW's")
    max_grad_norm: float = option(1.0, help="gradient clipping; 0 is off")
    gradient_checkpointing: bool = option(False, help="recompute activations to save memory")
    bf16: bool | None = option(None, help="bfloat16 autocast; left out: wherever the GPU has it")
    full_determinism: bool = option(
        False, help="deterministic algorithms only, slower: on a GPU too, resumes are bit for bit"
    )
    dataloader_num_workers: int | None = option(
        None, help="processes a rank that prepare images of SFT; null: 4 for a GPU, 0 for a CPU"
    )
    dataloader_pin_memory: bool = option(
        True, help="micro-batches of SFT lie in memory from which a GPU copies while it computes"
    )

    logging_steps: int = option(10, help="steps between logged metrics")
    eval_steps: int = option(0, help="steps between evaluations; 0: only at the end")
    save_steps: int = option(500, help="steps between checkpoints; 0 is off")
    save_total_limit: int = option(2, help="checkpoints that are kept")
    report_to: list[str] = option(
        help="trackers that accelerate knows, or none", default_factory=lambda: ["tensorboard"]
    )
    resume_from_checkpoint: str | None = option(
        None, help="'latest' or the path of a checkpoint folder"
    )
    resume_weights_only: bool = option(
        False, help="start anew from the checkpoint's weights alone, under any configuration"
    )
    max_skipped_steps: int = option(
        5, help="updates in a row without a finite loss and gradient that end the run"
    )

    def __post_init__(self):
        if not self.output_dir:
            raise ConfigError("no run folder given", where="output_dir", fix="set --output_dir")
        _ = self.layout  # which checks it
        for name in (
            "per_device_train_batch_size", "gradient_accumulation_steps", "lora_r", "lora_alpha",
            "logging_steps", "save_total_limit", "min_pixels", "max_pixels", "max_skipped_steps",
        ):  # fmt: skip
            value = getattr(self, name)
            require(value is None or value >= 1, name, "must be at least 1", value)
        for name in ("learning_rate", "num_train_epochs"):
            require(
                0 < getattr(self, name) < float("inf"), name, "must be above 0", getattr(self, name)
            )
        for name in (
            "weight_decay", "max_grad_norm", "eval_steps", "save_steps", "warmup_steps",
            "dataloader_num_workers",
        ):  # fmt: skip
            value = getattr(self, name)
            require(value is None or 0 <= value < float("inf"), name, "must not be negative", value)
        for name in ("lora_dropout", "adam_beta1", "adam_beta2"):
            value = getattr(self, name)
            require(0 <= value < 1, name, "must be in [0, 1)", value)
        require(0 <= self.warmup_ratio <= 1, "warmup_ratio", "must be in [0, 1]", self.warmup_ratio)
        require(0 <= self.seed < 2**32, "seed", "must be in [0, 2**32)", self.seed)
        steps = self.max_steps
        require(steps >= 1 or steps == -1, "max_steps", "must be above 0, or -1 for epochs", steps)
        if self.eval_steps and not self.eval_data:
            raise ConfigError(
                "nothing to evaluate on", where=f"eval_steps: {self.eval_steps}",
                fix="set eval_data too, or leave out eval_steps",
            )  # fmt: skip
        if self.resume_weights_only and not self.resume_from_checkpoint:
            raise ConfigError(
                "no weights to start from", where="resume_weights_only: true",
                fix="set resume_from_checkpoint to a checkpoint folder",
            )  # fmt: skip
        if self.finetuning == "full" and self.quantization != "none":
            raise ConfigError(
                "full fine-tuning cannot train 4-bit weights",
                where="finetuning: full, quantization: nf4",
                fix="use finetuning: lora (QLoRA) or quantization: none",
            )


@dataclass
class SftConfig(TrainingConfig):
    """Supervised fine-tuning on prepared records."""

    output_dir: str = option("checkpoints/qwen2vl_sft", help="run folder", aliases=["--out_dir"])
    data: str = option("", help="training records: of prepare_data, or any table (data/README.md)")
    eval_data: str | None = option(None, help="records for the loss during training")
    prompting_mode: Literal["think_answer", "caption_reason_answer", "both"] = option(
        "caption_reason_answer", help="the mode that is taught; both: every record in each"
    )
    questions_per_image: int = option(
        4, help="questions of one image that are kept in one batch and share its pass; 1 is off"
    )
    direct_answers: bool = option(
        False,
        help="teach the bare answer too, after a given beginning; the counterfactual probe asks so",
    )
    group_by_length: bool = option(True, help="batches of similar length, for less padding")
    max_length: int = option(4096, help="tokens of image, question and answer; longer is an error")
    load_best_model_at_end: bool = option(
        False, help="the final adapter is the one with the lowest eval_loss"
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.data:
            raise ConfigError(
                "no training data given", where="data", fix="set --data data/train.json"
            )
        for name in ("questions_per_image", "max_length"):
            require(getattr(self, name) >= 1, name, "must be at least 1", getattr(self, name))
        if self.load_best_model_at_end and not (self.eval_data and self.eval_steps):
            raise ConfigError(
                "the best model is not known without evaluation",
                where="load_best_model_at_end: true",
                fix="set eval_data and eval_steps too",
            )
