"""What the room reads of a training command's configuration; ``kit.train.config`` defines it."""

from __future__ import annotations

from typing import Protocol


class RunConfig(Protocol):
    """The fields that a run needs whatever it trains."""

    base_model: str
    output_dir: str
    seed: int
    finetuning: str
    quantization: str
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    max_grad_norm: float
    lr_scheduler_type: str
    max_pixels: int | None
    bf16: bool | None
    full_determinism: bool
    report_to: list[str]
    save_total_limit: int
    resume_from_checkpoint: str | None
    resume_weights_only: bool
