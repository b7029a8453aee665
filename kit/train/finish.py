"""What a finished run leaves behind: adapter or model, processor, model card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml
from accelerate import Accelerator
from peft import LoraConfig
from torch import nn

from kit.data.grpo_records import GrpoRecord
from kit.data.records import SftRecord
from kit.errors import RecordError
from kit.model.adapters import POLICY
from kit.model.families import teaches_grid
from kit.model.folders import TINY, resolve_base
from kit.model.processor import Processor
from kit.run import checkpoint, zero
from kit.run.deepspeed_internals import shape_of
from kit.run.state import Progress, best_weights
from kit.train.config import TrainingConfig


def describe(
    model: nn.Module,
    records: Sequence[SftRecord | GrpoRecord],
    dropped: list[RecordError],
    global_batch: int,
    total_steps: int,
) -> str:
    """One line on what is about to be trained on what."""
    sizes = [(p.requires_grad, shape_of(p).numel()) for p in model.parameters()]
    trained = sum(size for is_trained, size in sizes if is_trained)
    everything = sum(size for _, size in sizes)
    bad = f" ({len(dropped)} broken lines dropped)" if dropped else ""
    return (
        f"{len(records)} records{bad}; {trained:,} of {everything:,} parameters trained; "
        f"{total_steps} steps of {global_batch} records"
    )


def save_final(
    config: TrainingConfig,
    accelerator: Accelerator,
    model: nn.Module,
    processor: Processor,
    progress: Progress,
    records: Sequence[SftRecord | GrpoRecord],
) -> None:
    """Write the PEFT adapter (or the full model), the processor and the model card. The weights
    are the trained ones, or with ``load_best_model_at_end`` those of the best evaluation."""
    adapter = config.finetuning == "lora"
    gather = zero.trained_weights if adapter else zero.all_weights
    weights = gather(model, keep=accelerator.is_main_process)
    if getattr(config, "load_best_model_at_end", False):
        weights |= best_weights(Path(config.output_dir))

    def write(folder: Path) -> None:
        if adapter:
            # "auto" would ask a hub whether the vocabulary was changed
            model.save_pretrained(
                folder,
                selected_adapters=[POLICY],
                save_embedding_layers=False,
                state_dict=weights,
            )
        else:
            teaches_grid(model.config)
            model.save_pretrained(folder, state_dict=weights)
        processor.save(folder)
        # GRPO goes on with the adapter of SFT, whatever its own configuration says of new ones
        lora = model.peft_config[POLICY] if adapter else None
        card = model_card(config, progress, records, lora, model.config.model_type)
        (folder / "README.md").write_text(card, encoding="utf-8")

    if accelerator.is_main_process:
        checkpoint.publish_into(Path(config.output_dir), write)
    accelerator.wait_for_everyone()


def model_card(
    config: TrainingConfig,
    progress: Progress,
    records: Sequence[SftRecord | GrpoRecord],
    lora: LoraConfig | None,
    model_type: str,
) -> str:
    """A hub model card: what was trained on what, how to load it, what it is not for."""
    adapter = lora is not None
    is_local = isinstance(resolve_base(config.base_model), Path) and config.base_model != TINY
    front = {
        **({} if is_local else {"base_model": config.base_model}),  # the hub refuses a path
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["medical", "visual-question-answering", model_type] + ["lora"] * adapter,
    }
    counts = Counter(record.dataset or "unnamed" for record in records)
    data = ", ".join(f"{name} ({n} questions)" for name, n in sorted(counts.items()))
    method = f"{config.finetuning}, quantization {config.quantization}"
    if adapter:
        method += f", r {lora.r}, alpha {lora.lora_alpha}"
    best = ""
    if progress.best_loss is not None:
        best = f"\nLowest eval_loss {progress.best_loss:.4f} at step {progress.best_step}."
    load = (
        f'base = AutoModelForImageTextToText.from_pretrained("{config.base_model}")\n'
        'model = PeftModel.from_pretrained(base, "THIS_FOLDER")'
        if adapter
        else 'model = AutoModelForImageTextToText.from_pretrained("THIS_FOLDER")'
    )
    return f"""---
{yaml.safe_dump(front, sort_keys=False)}---

# Medical visual question answering

Answers a question about a medical image with one JSON object: caption, reasoning, boxes (on a
0..1000 grid) and answer.

- Base model: {config.base_model}
- Method: {method}
- Data: {data}
- Steps: {progress.step}, peak learning rate {config.learning_rate:g}, seed {config.seed}
{best}
```python
{load}
```

For research. Not a medical device; not for diagnosis or treatment.
"""
