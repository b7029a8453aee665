"""Typed configuration of the training stages; names follow TRL and the HF Trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kit.command import option, require
from kit.errors import ConfigError
from kit.scoring.settings import DEFAULT_ENCODER, CounterfactualAnswers, parse_weights


@dataclass
class TrainingConfig:
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
    dataloader_num_workers: int = option(0, help="processes a rank that prepare images")

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
            require(0 <= value < float("inf"), name, "must not be negative", value)
        for name in ("lora_dropout", "adam_beta1", "adam_beta2"):
            value = getattr(self, name)
            require(0 <= value < 1, name, "must be in [0, 1)", value)
        require(0 <= self.warmup_ratio <= 1, "warmup_ratio", "must be in [0, 1]", self.warmup_ratio)
        require(0 <= self.seed < 2**32, "seed", "must be in [0, 2**32)", self.seed)
        steps = self.max_steps
        require(steps >= 1 or steps == -1, "max_steps", "must be above 0, or -1 for epochs", steps)
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
    data: str = option("", help="training records that prepare_data wrote")
    eval_data: str | None = option(None, help="records for the loss during training")
    skip_bad: bool = option(False, help="drop broken lines of the data instead of stopping")
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
        if self.eval_steps and not self.eval_data:
            raise ConfigError(
                "nothing to evaluate on", where=f"eval_steps: {self.eval_steps}",
                fix="set eval_data too, or leave out eval_steps",
            )  # fmt: skip
        if self.load_best_model_at_end and not (self.eval_data and self.eval_steps):
            raise ConfigError(
                "the best model is not known without evaluation",
                where="load_best_model_at_end: true",
                fix="set eval_data and eval_steps too",
            )


@dataclass
class GrpoConfig(TrainingConfig):
    """Group relative policy optimisation on records that cf_proxy wrote."""

    base_model: str = option(
        "",
        help="hub name, local folder or 'tiny'; left out: the one that sft_ckpt was trained on",
        aliases=["--model_name_or_path"],
    )
    sft_ckpt: str | None = option(
        None, help="SFT adapter: what the policy starts from, and the reference of the KL penalty"
    )
    output_dir: str = option("checkpoints/qwen2vl_grpo", help="run folder", aliases=["--out_dir"])
    data: str = option(
        "", help="records that cf_proxy wrote, or prepare_data", aliases=["--data_jsonl"]
    )
    eval_data: str | None = option(None, help="held-out records, answered greedily and rewarded")
    max_eval_records: int | None = option(None, help="only the first so many of them")
    skip_bad: bool = option(False, help="drop broken lines of the data instead of stopping")
    per_device_train_batch_size: int = option(
        2, help="prompts a process and micro-batch", aliases=["--batch_size"]
    )
    learning_rate: float = option(1e-6, help="peak learning rate", aliases=["--lr"])
    logging_steps: int = option(1, help="steps between logged metrics")

    num_generations: int = option(8, help="completions of each prompt: its group")
    max_completion_length: int = option(256, help="longest completion in tokens")
    temperature: float = option(1.0, help="of sampling, and of the log-probabilities in the loss")
    top_p: float = option(1.0, help="nucleus sampling; 1 is off")
    top_k: int = option(0, help="sample from the k likeliest tokens; 0 is off")
    merge_adapter: bool | None = option(
        None, help="sample from weights with the adapter in them, twice as fast; null: unless 4-bit"
    )
    importance_sampling_cap: float = option(
        2.0, help="most that a token counts for being likelier to the policy than to the sampler"
    )
    dynamic_sampling: bool = option(
        False, help="sample a group again, up to 3 times, while its rewards have no spread"
    )

    num_iterations: int = option(1, help="updates on each step's completions")
    beta: float = option(0.04, help="weight of the KL penalty; 0 runs no reference")
    use_bias_correction_kl: bool = option(
        True, help="the penalty's gradient is that of KL(policy||reference); false: the reverse"
    )
    epsilon: float = option(0.2, help="the ratio is clipped below 1 - epsilon")
    epsilon_high: float | None = option(None, help="and above 1 + epsilon_high; default: epsilon")
    loss_type: Literal["grpo", "dr_grpo", "bnpo", "dapo"] = option(
        "dapo", help="what each token counts (kit/grpo/losses.py)"
    )
    scale_rewards: Literal["group", "batch", "none"] = option(
        "group", help="whose standard deviation advantages are divided by"
    )
    mask_truncated_completions: bool = option(
        False, help="leave completions that the token limit cut off out of the loss"
    )
    min_reward_std: float = option(
        0.02,
        help="groups of rewards with a smaller standard deviation have no spread, and no advantage",
    )
    mask_zero_advantage_groups: bool = option(
        False, help="leave groups without spread out of the loss, KL penalty included"
    )

    weights: str = option(
        "0.2,0.4,0.2,0.2", help="of format, answer, consistency and counterfactual"
    )
    answer_scoring: Literal["exact", "f1"] = option(
        "exact", help="right or wrong, or the F1 of its tokens where it is not exact"
    )
    counterfactual: Literal["off", "offline", "online"] = option(
        "offline",
        help="from the record's deltas, or measured for the boxes that each completion claims",
    )
    counterfactual_answers: CounterfactualAnswers = option(
        "right", help="the answers that it pays for; a wrong one earns 0, or as much as a right one"
    )
    inpainting: Literal["telea", "ns", "blur", "mean"] = option(
        "telea", help="how claimed boxes are taken out of an image (online)"
    )
    random_draws: int = option(2, help="controls that claimed boxes are compared with")
    consistency_model: str = option(
        DEFAULT_ENCODER, help="sentence-transformers model, by name or folder"
    )
    reward_funcs: list[str] = option(
        help="further rewards, as package.module:function", default_factory=list
    )
    reward_weights: list[float] = option(
        help="their weights; left out: 1 each", default_factory=list
    )
    log_completions: bool = option(True, help="print a table of sample completions when logging")
    num_completions_to_print: int = option(2, help="how many")

    def __post_init__(self):
        super().__post_init__()
        if not self.data:
            raise ConfigError(
                "no training data given", where="data", fix="set --data data/grpo_data.jsonl"
            )
        if not (self.base_model or self.sft_ckpt):
            fix = "set --sft_ckpt, --base_model or both"
            raise ConfigError("no model given", where="base_model, sft_ckpt", fix=fix)
        for name in (
            "max_completion_length", "num_iterations", "random_draws", "max_eval_records",
            "num_completions_to_print",
        ):  # fmt: skip
            value = getattr(self, name)
            require(value is None or value >= 1, name, "must be at least 1", value)
        require(
            self.num_generations >= 2, "num_generations", "must be at least 2", self.num_generations
        )
        require(
            0 < self.temperature < float("inf"), "temperature", "must be above 0", self.temperature
        )
        require(0 < self.top_p <= 1, "top_p", "must be in (0, 1]", self.top_p)
        for name in (
            "top_k", "beta", "epsilon", "epsilon_high", "min_reward_std", "importance_sampling_cap",
        ):  # fmt: skip
            value = getattr(self, name)
            require(value is None or 0 <= value < float("inf"), name, "must not be negative", value)
        parse_weights(self.weights)
        fine = all(-float("inf") < weight < float("inf") for weight in self.reward_weights)
        require(fine, "reward_weights", "must be finite numbers", self.reward_weights)
        if self.reward_weights and len(self.reward_weights) != len(self.reward_funcs):
            raise ConfigError(
                f"{len(self.reward_weights)} weights for {len(self.reward_funcs)} functions",
                where="reward_weights, reward_funcs",
                fix="give one weight a function, or none",
            )
        if self.eval_steps and not self.eval_data:
            raise ConfigError(
                "nothing to evaluate on", where=f"eval_steps: {self.eval_steps}",
                fix="set eval_data too, or leave out eval_steps",
            )  # fmt: skip
        if self.finetuning == "full" and self.sft_ckpt:
            raise ConfigError(
                "full fine-tuning starts from a whole model, not from an adapter",
                where=f"finetuning: full, sft_ckpt: {self.sft_ckpt}",
                fix="give the folder of a full SFT run as base_model, or use finetuning: lora",
            )

    @property
    def merges(self) -> bool:
        """Whether rollouts merge the adapter."""
        return self.quantization == "none" if self.merge_adapter is None else self.merge_adapter
