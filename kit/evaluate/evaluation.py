"""Evaluation: generate in both prompting modes, parse, score, and write what others read."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from tqdm.auto import tqdm

from kit.data.audit import question_only_floor
from kit.data.images import open_image
from kit.data.records import SftRecord, read_sft_records
from kit.errors import DataError, UserError
from kit.evaluate.config import EvaluateConfig
from kit.evaluate.statistics import bootstrap_interval
from kit.files import atomic_write, require_folder, write_json
from kit.model.generation import Completion, Prompt, Sampling, generate
from kit.model.load import (
    adapter_base,
    load_adapter,
    load_base,
    load_processor,
    require_adapter,
    resolve_base,
)
from kit.model.processor import Processor
from kit.prompting.answers import parse_answer
from kit.prompting.messages import MODES, REQUIRED_KEYS
from kit.scoring.accuracy import aggregate, score_answer
from kit.scoring.grounding import grounding_scores
from kit.train.batches import modes_of, prompt_lengths
from kit.train.runtime import join

INTERVALS = ("exact/all", "exact/open", "exact/closed", "json_valid_rate", "box_rate", "iou/mean")


def evaluate(config: EvaluateConfig) -> dict[str, float]:
    """Evaluate a model as configured.

    Writes ``predictions.jsonl`` (a row a record and mode) and ``metrics.json`` (flat names to
    numbers, prefixed by the mode) and returns the latter. The batches are the same however many
    processes share them, and so are the numbers.
    """
    accelerator = join()
    require_folder(config.output)
    if config.adapter:
        require_adapter(config.adapter)
    on_bad = "skip" if config.skip_bad else "report"
    records, dropped = read_sft_records(config.data, on_bad, decode_images=True)
    records = records[: config.max_records]
    floor = None
    if config.train_data:
        floor = question_only_floor(read_sft_records(config.train_data)[0], records)
    model, processor = load_model(config, accelerator)

    modes = modes_of(config.prompting_mode)
    require_room(records, processor, modes, model, config.max_new_tokens)
    batches = plan(records, modes, config.per_device_eval_batch_size)
    own = batches[accelerator.process_index :: accelerator.num_processes]
    bar = tqdm(
        total=len(own), desc="evaluate", disable=None if accelerator.is_main_process else True
    )
    answered: list[tuple[int, str, Completion]] = []
    for batch in own:
        answered += answer(model, processor, records, batch, config.max_new_tokens)
        bar.update()
    bar.close()
    answered = gather_object(answered)
    metrics: dict[str, float] = {}
    if accelerator.is_main_process:
        answered.sort(key=lambda item: (item[0], MODES.index(item[1])))
        rows = [
            prediction_row(records[i], mode, done, processor, floor[i] if floor else None)
            for i, mode, done in answered
        ]
        metrics = summarise(rows, config.seed) | {"n": len(records), "n_dropped": len(dropped)}
        write_results(Path(config.output), rows, metrics)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return metrics


def require_room(
    records: Sequence[SftRecord],
    processor: Processor,
    modes: Sequence[str],
    model: nn.Module,
    max_new_tokens: int,
) -> None:
    """Check that every prompt and its answer fit into the model's positions.

    Raises:
        DataError: names the first record that does not.
    """
    room = model.config.text_config.max_position_embeddings
    for mode in modes:
        lengths = prompt_lengths(records, processor, mode)
        for record, length in zip(records, lengths, strict=True):
            if length + max_new_tokens > room:
                raise DataError(
                    f"prompt of {length} tokens; with {max_new_tokens} new ones it exceeds the "
                    f"model's {room}",
                    where=f"{record.image} (qid {record.qid}): {record.question[:80]}",
                    fix="lower max_pixels or max_new_tokens, or shorten the question",
                )


def write_results(folder: Path, rows: list[dict], metrics: dict[str, float]) -> None:
    """Write ``predictions.jsonl`` and ``metrics.json``: both, or (UserError) neither."""
    with atomic_write(folder / "predictions.jsonl") as stream:
        stream.writelines(
            json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows
        )
        stream.flush()
        os.fsync(stream.fileno())
        write_json(folder / "metrics.json", metrics)


def load_model(config: EvaluateConfig, accelerator: Accelerator) -> tuple[nn.Module, Processor]:
    """The base, merged or adapted model in evaluation mode, and its processor."""
    name = config.base_model or named_base(config.adapter)
    processor = load_processor(name, min_pixels=config.min_pixels, max_pixels=config.max_pixels)
    half = config.bf16
    if half is None:
        half = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    model = load_base(
        name,
        quantization=config.quantization,
        dtype=torch.bfloat16 if half else torch.float32,
        attn_implementation=config.attn_implementation,
        device=accelerator.device,
    )
    if config.adapter:
        model = load_adapter(model, config.adapter)
    return model.eval(), processor


def named_base(adapter: str) -> str:
    """The base model that an adapter names.

    Raises:
        UserError: it names none, or one that is not there.
    """
    fix = "give its base with --base_model"
    name = adapter_base(adapter)
    if not name:
        raise UserError("the adapter does not name its base", where=adapter, fix=fix)
    try:
        resolve_base(name)
    except UserError as error:
        what = f"the base that the adapter names cannot be used: {error.what}"
        raise UserError(what, where=f"{name}, named by {adapter}", fix=fix) from error
    return name


@dataclass(frozen=True)
class Ask:
    """One image in one mode with the records (by index) whose questions are asked of it."""

    image: str
    mode: str
    records: tuple[int, ...]


def plan(records: Sequence[SftRecord], modes: Sequence[str], batch_size: int) -> list[list[Ask]]:
    """Batches of at most ``batch_size`` answers; questions of one image stand together."""
    by_image: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        by_image.setdefault(record.image, []).append(index)
    asks = []
    for image, members in by_image.items():
        for start in range(0, len(members), batch_size):
            part = tuple(members[start : start + batch_size])
            asks += [Ask(image, mode, part) for mode in modes]
    batches: list[list[Ask]] = []
    room = 0
    for ask in asks:
        if not batches or len(ask.records) > room:
            batches.append([])
            room = batch_size
        batches[-1].append(ask)
        room -= len(ask.records)
    return batches


def answer(
    model: nn.Module,
    processor: Processor,
    records: Sequence[SftRecord],
    batch: Sequence[Ask],
    max_new_tokens: int,
) -> list[tuple[int, str, Completion]]:
    """Greedy answers of one batch, with the index of the record and the mode."""
    images = {
        path: processor.prepare_image(open_image(path), key=path)
        for path in dict.fromkeys(ask.image for ask in batch)
    }
    prompts = [
        Prompt(
            processor.encode_trunk(images[ask.image], ask.mode),
            tuple(
                tuple(processor.encode_question(records[i].question, ask.mode)) for i in ask.records
            ),
        )
        for ask in batch
    ]
    completions = generate(
        model,
        prompts,
        Sampling(max_new_tokens=max_new_tokens),
        end_id=processor.end_of_turn_id,
        unsampled_ids=processor.unsampled_ids,
    )
    return [
        (index, ask.mode, completion)
        for ask, group in zip(batch, completions, strict=True)
        for index, completion in zip(ask.records, group, strict=True)
    ]


def prediction_row(
    record: SftRecord, mode: str, completion: Completion, processor: Processor, floor: str | None
) -> dict:
    """One line of ``predictions.jsonl``."""
    text = processor.decode(list(completion.token_ids))
    parsed = parse_answer(text, required=REQUIRED_KEYS[mode])
    row = {
        "dataset": record.dataset,
        "qid": record.qid,
        "image": record.image,
        "mode": mode,
        "question": record.question,
        "gold": record.answer,
        "answer_type": record.answer_type,
        "content_type": record.content_type,
        "modality": record.modality,
        "location": record.location,
        "text": text,
        "truncated": completion.truncated,
        "valid_json": parsed.valid_json,
        "problem": parsed.problem,
        "caption": parsed.caption,
        "reasoning": list(parsed.reasoning),
        "boxes": [list(box) for box in parsed.boxes],
        "answer": parsed.answer,
        "scores": score_answer(parsed.answer, record.answer, answer_type=record.answer_type),
    }
    if "boxes" in REQUIRED_KEYS[mode] and record.regions and record.image_size:
        gold_boxes = [region.box_xyxy_pixels for region in record.regions]
        row["grounding"] = grounding_scores(parsed.boxes, gold_boxes, record.image_size).to_json()
    if floor is not None:
        scored = score_answer(floor, record.answer, answer_type=record.answer_type)
        row["floor"] = {"answer": floor, "exact": scored["exact"]}
    return row


def summarise(rows: list[dict], seed: int = 0) -> dict[str, float]:
    """Flat metrics of prediction rows, prefixed by the mode; headline numbers get bootstrap
    bounds over images, as ``<name>/low`` and ``<name>/high``."""
    metrics: dict[str, float] = {}
    for mode in MODES:
        part = [row for row in rows if row["mode"] == mode]
        if part:
            metrics |= {f"{mode}/{k}": v for k, v in _summarise_mode(part, seed).items()}
    return metrics


def _summarise_mode(rows: list[dict], seed: int) -> dict[str, float]:
    metrics = aggregate([row["scores"] for row in rows], rows)
    per_record = {
        "exact/all": [row["scores"]["exact"] for row in rows],
        "exact/open": [r["scores"]["exact"] if r["answer_type"] == "OPEN" else None for r in rows],
        "exact/closed": [
            r["scores"]["exact"] if r["answer_type"] == "CLOSED" else None for r in rows
        ],
        "json_valid_rate": [float(row["valid_json"]) for row in rows],
        "box_rate": [float(bool(row["boxes"])) for row in rows],
        "truncated_rate": [float(row["truncated"]) for row in rows],
        "iou/mean": [row["grounding"]["iou"] if "grounding" in row else None for row in rows],
        "iou/acc@0.5": [
            row["grounding"]["acc@0.5"] if "grounding" in row else None for row in rows
        ],
        "pointing": [row["grounding"]["pointing"] if "grounding" in row else None for row in rows],
        "floor/question_only": [row["floor"]["exact"] if "floor" in row else None for row in rows],
    }
    for name, values in per_record.items():
        kept = [(v, row["image"]) for v, row in zip(values, rows, strict=True) if v is not None]
        if not kept:
            continue
        metrics[name] = sum(v for v, _ in kept) / len(kept)
        if name in INTERVALS:
            low, high = bootstrap_interval([v for v, _ in kept], [g for _, g in kept], seed=seed)
            metrics |= {f"{name}/low": low, f"{name}/high": high}
    n_grounded = sum("grounding" in row for row in rows)
    return metrics | ({"iou/n": n_grounded} if n_grounded else {})
