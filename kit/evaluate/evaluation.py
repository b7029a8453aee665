"""Evaluation: generate in both prompting modes, parse, score, and write what others read."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from kit.counterfactual.gallery import Gallery
from kit.data.audit import question_only_floor
from kit.data.records import SftRecord, read_sft_records
from kit.evaluate.answering import Ask, answer, load_model, plan
from kit.evaluate.config import EvaluateConfig
from kit.evaluate.flips import Answered, measure_flips
from kit.evaluate.parts import Parts
from kit.evaluate.report import metrics_table
from kit.evaluate.statistics import bootstrap_interval
from kit.files import atomic_write, require_folder, write_json
from kit.model.adapters import require_adapter
from kit.model.generation import Completion
from kit.model.processor import Processor
from kit.prompting.answers import ParsedAnswer, parse_answer
from kit.prompting.messages import MODES, REQUIRED_KEYS
from kit.scoring.accuracy import aggregate, score_answer
from kit.scoring.grounding import grounding_scores
from kit.train.batches import modes_of, require_room
from kit.train.runtime import StopRequest, join

INTERVALS = (
    "exact/all", "exact/open", "exact/closed", "json_valid_rate", "box_rate", "iou/mean",
    "roi_flip_rate", "random_flip_rate", "flip_gap",
    "claimed_roi_flip_rate", "claimed_random_flip_rate", "claimed_flip_gap",
)  # fmt: skip


def evaluate(config: EvaluateConfig) -> int:
    """Evaluate a model as configured; returns the exit code.

    Writes ``predictions.jsonl`` (a row a record and mode) and ``metrics.json`` (flat names to
    numbers, prefixed by the mode). Finished batches are kept in ``<output>/parts/`` until all are
    done (``kit.evaluate.parts``).
    """
    accelerator = join()
    output = Path(config.output)
    require_folder(output)
    if config.adapter:
        require_adapter(config.adapter)
    on_bad = "skip" if config.skip_bad else "report"
    records, dropped = read_sft_records(config.data, on_bad, decode_images=True)
    records = records[: config.max_records]
    floor = None
    if config.train_data:
        floor = question_only_floor(read_sft_records(config.train_data)[0], records)
    modes = modes_of(config.prompting_mode)
    batches = plan(records, modes, config.per_device_eval_batch_size)
    parts = Parts(output / "parts", config, batches)
    if parts.missing:
        model, processor = load_model(config, accelerator)
        require_room(records, processor, modes, model, config.max_new_tokens)

        def ask(batch: Sequence[Ask]) -> list[dict]:
            rows = answer_batch(model, processor, records, batch, floor, config)
            return [{"index": index, **row} for index, row in rows]

        with StopRequest(output) as stop:
            code = parts.fill(accelerator, ask, stop, "evaluate")
        if code:
            return code
    if accelerator.is_main_process and not parts.is_shard:
        rows = sorted(parts.rows(), key=lambda row: (row["index"], MODES.index(row["mode"])))
        for row in rows:
            del row["index"]
        metrics = summarise(rows, config.seed) | {"n": len(records), "n_dropped": len(dropped)}
        write_results(output, rows, metrics)
        parts.remove()
        print(metrics_table({config.adapter or config.base_model: metrics}))
        print(f"predictions and metrics are in {config.output}", flush=True)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return 0


def answer_batch(
    model: nn.Module,
    processor: Processor,
    records: Sequence[SftRecord],
    batch: Sequence[Ask],
    floor: Sequence[str] | None,
    config: EvaluateConfig,
) -> list[tuple[int, dict]]:
    """The lines of one batch for ``predictions.jsonl``, each with the index of its record."""
    gallery = Gallery(processor, config.inpainting)
    answers = [
        (index, mode, completion, parse_completion(processor, completion, mode))
        for index, mode, completion in answer(model, gallery, records, batch, config.max_new_tokens)
    ]
    rows = [
        (i, prediction_row(records[i], mode, done, parsed, floor[i] if floor else None))
        for i, mode, done, parsed in answers
    ]
    if config.counterfactual:
        flips = measure_flips(
            model,
            gallery,
            [Answered(records[i], mode, parsed) for i, mode, _, parsed in answers],
            draws=config.random_draws,
            seed=config.seed,
            max_new_tokens=config.max_new_tokens,
            batch_size=config.per_device_eval_batch_size,
        )
        for (_, row), found in zip(rows, flips, strict=True):
            row["flips"] = found
    return rows


def parse_completion(processor: Processor, completion: Completion, mode: str) -> ParsedAnswer:
    """What a completion says, taken apart."""
    text = processor.decode(list(completion.token_ids))
    return parse_answer(text, required=REQUIRED_KEYS[mode])


def write_results(folder: Path, rows: list[dict], metrics: dict[str, float]) -> None:
    """Write ``predictions.jsonl`` and ``metrics.json``: both, or (UserError) neither."""
    with atomic_write(folder / "predictions.jsonl") as stream:
        stream.writelines(
            json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows
        )
        stream.flush()
        os.fsync(stream.fileno())
        write_json(folder / "metrics.json", metrics)


def prediction_row(
    record: SftRecord, mode: str, completion: Completion, parsed: ParsedAnswer, floor: str | None
) -> dict:
    """One line of ``predictions.jsonl``."""
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
        "text": parsed.text,
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
    for source, prefix in (("gold", ""), ("claimed", "claimed_")):
        found = [row.get("flips", {}).get(source) for row in rows]
        per_record |= {
            f"{prefix}roi_flip_rate": [f and f["roi"] for f in found],
            f"{prefix}random_flip_rate": [f and f["random"] for f in found],
            f"{prefix}flip_gap": [f and f["roi"] - f["random"] for f in found],
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
