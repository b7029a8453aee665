"""Typed configuration of GRPO; names follow TRL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kit.command import option, require
from kit.errors import ConfigError
from kit.grpo.terms import parse_objectives, parse_weights
from kit.scoring.settings import DEFAULT_ENCODER, CounterfactualAnswers
from kit.train.config import TrainingConfig


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
    per_device_train_batch_size: int = option(
        2, help="prompts a process and micro-batch", aliases=["--batch_size"]
    )
    learning_rate: float = option(1e-6, help="peak learning rate", aliases=["--lr"])
    logging_steps: int = option(1, help="steps between logged metrics")

    num_generations: int = option(8, help="completions of each prompt: its group")
    num_generations_eval: int = option(
        1, help="completions of a held-out prompt; above 1 they are sampled, and means are mean@k"
    )
    max_completion_length: int = option(256, help="longest completion in tokens")
    temperature: float = option(1.0, help="of sampling, and of the log-probabilities in the loss")
    top_p: float = option(1.0, help="nucleus sampling; 1 is off")
    top_k: int = option(0, help="sample from the k likeliest tokens; 0 is off")
    merge_adapter: bool | None = option(
        None, help="sample from weights with the adapter in them, twice as fast; null: unless 4-bit"
    )
    cast_lm_head_to_fp32: bool = option(
        False, help="logits in float32 where the model is in bfloat16, sampling and training alike"
    )
    importance_sampling_mode: Literal[
        "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"
    ] = option(
        "token_truncate",
        help="how many times as likely the policy finds a token, or its whole completion, as the "
        "sampler did is what it counts, cut to the bounds, or 0 beyond them",
    )
    importance_sampling_cap: float = option(
        2.0, help="its upper bound, 1e9 for as good as none; 0: all count the same"
    )
    importance_sampling_min: float = option(0.0, help="its lower bound")
    dynamic_sampling: bool = option(
        False, help="take another prompt, up to 3 times, while a group's rewards have no spread"
    )

    num_iterations: int = option(1, help="passes over each step's completions")
    steps_per_generation: int | None = option(
        None,
        help="micro-batches whose prompts are completed at once, a step; null: "
        "gradient_accumulation_steps; twice as many: two updates a pass",
    )
    beta: float = option(0.04, help="weight of the KL penalty; 0 runs no reference")
    use_bias_correction_kl: bool = option(
        True, help="the penalty's gradient is that of KL(policy||reference); false: the reverse"
    )
    epsilon: float = option(0.2, help="the ratio is clipped below 1 - epsilon")
    epsilon_high: float | None = option(None, help="and above 1 + epsilon_high; default: epsilon")
    delta: float | None = option(
        None, help="most that the ratio counts where the advantage is negative (two-sided clipping)"
    )
    importance_sampling_level: Literal["token", "sequence"] = option(
        "token", help="whose likelihood the ratio compares; sequence: the whole completion (GSPO)"
    )
    loss_type: Literal["grpo", "dr_grpo", "bnpo", "dapo", "cispo"] = option(
        "dapo",
        help="what each token counts (kit/grpo/losses.py); cispo: the ratio is a weight, of at "
        "most epsilon_high",
    )
    scale_rewards: Literal["group", "batch", "none"] = option(
        "group", help="whose standard deviation advantages are divided by"
    )
    multi_objective_aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = option(
        "sum_then_normalize",
        help="normalize_then_sum: each part of the reward is normalised within its group first",
    )
    top_entropy_quantile: float = option(
        1.0, help="share of a step's tokens, those of highest entropy, that the policy term counts"
    )
    objectives: str = option(
        "",
        help="terms of the loss that are maximised, by name and weight (kit/grpo/terms): "
        "perception=0.01",
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
        "0.2,0.4,0.2,0.2",
        help="of format, answer, consistency and counterfactual, or by name (kit/grpo/terms): "
        "format=0.2,answer=0.4,iou=0.4",
    )
    changed_images: float = option(
        0.5,
        help="share of the prompts with evidence that are answered without it or without a control "
        "of it, half each, where a reward asks for that (contrast, abstention)",
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
    stall_steps: int = option(
        100,
        help="say so when for so many steps the format reward rises and the answer reward stands "
        "still; 0: never",
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
            "num_completions_to_print", "num_generations_eval", "steps_per_generation",
        ):  # fmt: skip
            value = getattr(self, name)
            require(value is None or value >= 1, name, "must be at least 1", value)
        require(
            self.num_generations >= 2, "num_generations", "must be at least 2", self.num_generations
        )
        require(
            0 < self.temperature < float("inf"), "temperature", "must be above 0", self.temperature
        )
        for name in ("top_p", "top_entropy_quantile"):
            value = getattr(self, name)
            require(0 < value <= 1, name, "must be in (0, 1]", value)
        for name in (
            "top_k", "beta", "epsilon", "epsilon_high", "min_reward_std", "importance_sampling_cap",
        ):  # fmt: skip
            value = getattr(self, name)
            require(value is None or 0 <= value < float("inf"), name, "must not be negative", value)
        self._require_clipping()
        self._require_whole_updates()
        if self.importance_sampling_cap:
            low, high = self.importance_sampling_min, self.importance_sampling_cap
            what = f"must be below importance_sampling_cap, {high:g}"
            require(0 <= low < high, "importance_sampling_min", what, low)
        steps = self.stall_steps
        require(steps == 0 or steps >= 60, "stall_steps", "must be 0, or 60 and more", steps)
        parse_weights(self.weights)
        parse_objectives(self.objectives)
        share = self.changed_images
        require(0 <= share <= 1, "changed_images", "must be in 0..1", share)
        fine = all(-float("inf") < weight < float("inf") for weight in self.reward_weights)
        require(fine, "reward_weights", "must be finite numbers", self.reward_weights)
        if self.reward_weights and len(self.reward_weights) != len(self.reward_funcs):
            raise ConfigError(
                f"{len(self.reward_weights)} weights for {len(self.reward_funcs)} functions",
                where="reward_weights, reward_funcs",
                fix="give one weight a function, or none",
            )
        if self.finetuning == "full" and self.sft_ckpt:
            raise ConfigError(
                "full fine-tuning starts from a whole model, not from an adapter",
                where=f"finetuning: full, sft_ckpt: {self.sft_ckpt}",
                fix="give the folder of a full SFT run as base_model, or use finetuning: lora",
            )

    def _require_clipping(self) -> None:
        high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        if self.loss_type == "cispo" and high < 1:
            what = f"cispo takes epsilon_high as the largest ratio itself, which {high} is below 1"
            fix = "set epsilon_high: 5.0, as ScaleRL does (arXiv 2510.13786)"
            raise ConfigError(what, where="loss_type: cispo, epsilon_high", fix=fix)
        bounds = self.delta is None or 1 + high < self.delta < float("inf")
        if not bounds or (self.delta is not None and self.loss_type == "cispo"):
            what = f"delta bounds a clipped ratio, and lies above 1 + epsilon_high, {1 + high:g}"
            fix = "choose a larger delta, and a loss_type that clips"
            raise ConfigError(what, where=f"delta: {self.delta}", fix=fix)

    def _require_whole_updates(self) -> None:
        parts, size = self.steps_per_generation, self.gradient_accumulation_steps
        if parts is not None and parts % size:
            raise ConfigError(
                f"{parts} micro-batches are no whole number of updates of {size}",
                where="steps_per_generation, gradient_accumulation_steps",
                fix=f"set steps_per_generation to a multiple of {size}, or leave it out",
            )

    @property
    def micro_batches_per_step(self) -> int:
        """Of how many micro-batches a process completes the prompts at once."""
        return self.steps_per_generation or self.gradient_accumulation_steps

    @property
    def makes_images(self) -> bool:
        """Whether steps make changed images."""
        return self.counterfactual == "online" or bool(self.objectives)

    @property
    def merges(self) -> bool:
        """Whether rollouts merge the adapter."""
        return self.quantization == "none" if self.merge_adapter is None else self.merge_adapter
