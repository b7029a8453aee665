"""Supervised fine-tuning: LoRA, QLoRA or full, on the answer tokens alone."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kit.data.records import SftRecord, read_sft_records
from kit.model.load import load_processor
from kit.model.logprobs import LogprobModel
from kit.model.processor import Processor
from kit.model.resources import own_cores
from kit.prompting.messages import modes_of
from kit.run import failures, process, state
from kit.run.metrics import window_means
from kit.run.stop import StopRequest
from kit.train import finish
from kit.train.balance import Size
from kit.train.config import SftConfig
from kit.train.data import (
    EpochOrder,
    RecordStream,
    SftBatches,
    pack_records,
    raise_if_error,
    read_records,
    record_sizes,
)
from kit.train.optim import adamw, take_step
from kit.train.policy import build_model
from kit.train.schedule import Schedule


def train(config: SftConfig) -> int:
    """Run SFT as configured; returns the exit code (that of ``StopRequest`` if asked to stop).

    Writes the run folder of DESIGN: config.yaml, environment.json, metrics.jsonl, checkpoint-N/,
    and at the end the adapter (or the full model) with its model card and summary.json.
    """
    accelerator = process.start(config)
    with StopRequest(Path(config.output_dir)) as stop, failures.explained_memory(config):
        code = run(config, accelerator, stop)
    process.end(accelerator)
    return code


def run(config: SftConfig, accelerator: Accelerator, stop: StopRequest) -> int:
    """The run itself, top to bottom."""
    # ------------------------------------------------------------------ data and model
    start = state.starting_point(config, accelerator)
    records, eval_records, dropped = read_records(config, read_sft_records)
    data = {"data": records, "eval_data": eval_records}
    made_of = state.sources_of(config, start, accelerator, data)
    processor = load_processor(
        config.base_model, min_pixels=config.min_pixels, max_pixels=config.max_pixels
    )
    modes = modes_of(config.prompting_mode)
    sizes = record_sizes(records, processor, modes, config.max_length, direct=config.direct_answers)
    record_sizes(eval_records, processor, modes, config.max_length)
    model = build_model(config, accelerator)
    wrapped, optimizer = accelerator.prepare(LogprobModel(model), adamw(model, config))

    # ------------------------------------------------------------------ plan of the steps
    batch = (
        config.per_device_train_batch_size
        * config.gradient_accumulation_steps
        * accelerator.num_processes
    )
    schedule = Schedule(
        config, accelerator, model, optimizer,
        start=start, n_records=len(records), batch=batch, name="sft", made_of=made_of,
    )  # fmt: skip
    progress, log = schedule.progress, schedule.log
    dataset = training_batches(config, records, sizes, processor, accelerator, batch)
    coming = loader(dataset, progress.step, schedule.total_steps, config, accelerator.device)
    batches = map(raise_if_error, coming)
    accelerator.print(finish.describe(model, records, dropped, batch, schedule.total_steps))
    if not dataset.share:
        accelerator.print("lora_dropout is above 0, so questions do not share their image's pass")

    # ------------------------------------------------------------------ the loop
    while not schedule.at_end:
        micro_batches = [next(batches) for _ in range(config.gradient_accumulation_steps)]
        metrics, finite = update(accelerator, wrapped, optimizer, micro_batches, config)
        schedule.count_skipped(bool(metrics), dataset.suspects(progress.step, finite))
        schedule.advance()

        if metrics:
            progress.tokens += int(metrics["tokens"])
            progress.since_log.append(metrics)
        schedule.log_metrics(window_means, epoch=progress.step * batch / len(records))
        if eval_records and schedule.is_due(config.eval_steps):
            scores = evaluate_loss(accelerator, wrapped, eval_records, processor, config)
            log.log(progress.step, scores)
            progress.keep_best(scores["eval_loss"], accelerator, model, log.folder)
        if (code := schedule.save_or_leave(stop)) is not None:
            return code

    # ------------------------------------------------------------------ what is left behind
    finish.save_final(config, accelerator, model, processor, progress, records)
    log.finish(**progress.facts(), finished=True, samples=progress.step * batch)
    return 0


def update(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_batches: list,
    config: SftConfig,
) -> tuple[dict[str, float], list[bool]]:
    """One optimizer step over micro-batches of packed trees; the loss is the mean over all
    supervised tokens of all ranks, counted before the first forward.

    Returns its metrics, empty if it was not made, and of which micro-batches of this rank the loss
    was finite.
    """
    own_tokens = sum(len(batch.target_ids) for batch in micro_batches)
    (tokens,) = process.total(accelerator, own_tokens)
    # accelerate divides by the accumulation steps, and DDP and DeepSpeed by the ranks
    undo_means = config.gradient_accumulation_steps * accelerator.num_processes
    losses, hits = [], 0
    for batch in micro_batches:
        with accelerator.accumulate(model):
            scored = model(batch.to(accelerator.device), argmax=True)
            loss = sft_loss(scored.logprobs, tokens)
            accelerator.backward(loss * undo_means)
            losses.append(loss.item())
            hits += int(scored.is_argmax.sum())
    norm, applied = take_step(accelerator, model, optimizer, config.max_grad_norm)
    finite = [math.isfinite(loss) for loss in losses]
    if not applied:
        return {}, finite
    loss_sum, hits = process.total(accelerator, sum(losses), hits)
    metrics = {"loss": loss_sum, "token_accuracy": hits / tokens, "grad_norm": norm}
    return metrics | {"tokens": tokens}, finite


def sft_loss(logprobs: Tensor, normaliser: float) -> Tensor:
    """Negative log-likelihood of the supervised tokens over a global count of them.

    ``logprobs`` (K,) of one micro-batch; ``normaliser`` the number of supervised tokens of all
    micro-batches and ranks of the step, so that the sum of micro-batch losses is the mean over
    tokens and the gradient does not depend on how the batch is split.

    >>> import torch
    >>> whole = torch.tensor([-1.0, -3.0, -2.0])
    >>> float(sft_loss(whole, 3)), float(sft_loss(whole[:2], 3) + sft_loss(whole[2:], 3))
    (2.0, 2.0)
    """
    return -logprobs.float().sum() / normaliser


@torch.no_grad()
def evaluate_loss(
    accelerator: Accelerator,
    model: nn.Module,
    records: list[SftRecord],
    processor: Processor,
    config: SftConfig,
) -> dict[str, float]:
    """Mean loss and greedy accuracy over the supervised tokens of held-out records."""
    model.eval()
    ordered = sorted(records, key=lambda record: record.images)
    size = config.per_device_train_batch_size
    batches = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    loss, hits, tokens = 0.0, 0, 0
    # every rank makes equally many forwards; the surplus ones count for nothing
    rounds = math.ceil(len(batches) / accelerator.num_processes)
    for number in range(rounds):
        place = number * accelerator.num_processes + accelerator.process_index
        batch = pack_records(
            batches[min(place, len(batches) - 1)],
            processor,
            modes=modes_of(config.prompting_mode),
            merge_size=processor.image_processor.merge_size,
            max_length=config.max_length,
        )
        scored = model(batch.to(accelerator.device), argmax=True)
        if place < len(batches):
            loss -= scored.logprobs.sum().item()
            hits += int(scored.is_argmax.sum())
            tokens += len(batch.target_ids)
    model.train()
    loss, hits, tokens = process.total(accelerator, loss, hits, tokens)
    return {"eval_loss": loss / tokens, "eval_token_accuracy": hits / tokens}


def training_batches(
    config: SftConfig,
    records: list[SftRecord],
    sizes: list[Size],
    processor: Processor,
    accelerator: Accelerator,
    batch: int,
) -> SftBatches:
    """The micro-batches of this process, for all steps."""
    lengths = tuple(len(r.question) + len(r.output) for r in records)
    order = EpochOrder(
        images=tuple(record.shown for record in records),
        seed=config.seed,
        together=config.questions_per_image,
        lengths=lengths if config.group_by_length else None,
        batch_size=batch,
    )
    return SftBatches(
        records,
        processor,
        RecordStream(order),
        modes=modes_of(config.prompting_mode),
        sizes=sizes,
        micro_batch_size=config.per_device_train_batch_size,
        accumulation=config.gradient_accumulation_steps,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        merge_size=processor.image_processor.merge_size,
        max_length=config.max_length,
        share=config.lora_dropout == 0,
        direct=config.direct_answers,
    )


def loader(
    dataset: SftBatches,
    first_step: int,
    total_steps: int,
    config: SftConfig,
    device: torch.device,
) -> DataLoader:
    """Micro-batches from a step on. A generator of its own keeps the global one untouched."""
    accumulation = config.gradient_accumulation_steps
    feeds_gpu = device.type == "cuda"
    workers = config.dataloader_num_workers
    if workers is None:
        workers = min(4, own_cores()) if feeds_gpu else 0
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=range(first_step * accumulation, total_steps * accumulation),
        num_workers=workers,
        pin_memory=config.dataloader_pin_memory and feeds_gpu,
        generator=torch.Generator().manual_seed(config.seed),
    )
