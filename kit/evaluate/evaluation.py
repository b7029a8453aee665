"""Evaluation: generate in both prompting modes, parse, score, and write what others read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from kit.data.audit import question_only_floor
from kit.data.canvas import Canvas
from kit.data.likeness import volumes_of
from kit.data.records import SftRecord, read_sft_records
from kit.data.types import Shown
from kit.evaluate.ablations import measure_ablations, other_images
from kit.evaluate.answering import (
    Answer,
    Predictor,
    Request,
    answer,
    loaded_predictor,
    plan,
)
from kit.evaluate.causal import measure_causes
from kit.evaluate.confidence import measure_confidences
from kit.evaluate.config import EvaluateConfig
from kit.evaluate.flips import measure_flips
from kit.evaluate.parts import Parts
from kit.evaluate.setting import setting_of
from kit.files import atomic_write, json_line, require_folder, sha256_of, write_json
from kit.model.folders import require_adapter
from kit.prompting.messages import MODES, REQUIRED_KEYS, modes_of
from kit.report.certificate_file import SETTING
from kit.report.metrics import summarise
from kit.report.report import write_page
from kit.report.table import metrics_table
from kit.run.process import fix_algorithms, join
from kit.run.stop import StopRequest
from kit.scoring.accuracy import score_record
from kit.scoring.consistency import Consistency
from kit.scoring.exact import exact_match
from kit.scoring.grounding import grounding_scores


def evaluate(config: EvaluateConfig) -> int:
    """Evaluate a model as configured; returns the exit code.

    Writes ``predictions.jsonl`` (a row a record and mode), ``metrics.json`` (flat names to
    numbers, prefixed by the mode), ``report.html``, and ``setting.json``, of which model this is.
    Finished batches are kept in ``<output>/parts/`` until all are done (``kit.evaluate.parts``).
    """
    fix_algorithms(config.full_determinism)
    accelerator = join()
    output = Path(config.output)
    require_folder(output)
    if config.adapter:
        require_adapter(config.adapter)
    on_bad = "skip" if config.skip_bad else "report"
    records, dropped = read_sft_records(
        config.data, on_bad, decode_images=True, layout=config.layout, prefer=("test", "validate")
    )
    records = records[: config.max_records]
    floor = None
    if config.train_data:
        layout = replace(config.layout, split=None)
        known, _ = read_sft_records(config.train_data, layout=layout, prefer=("train",))
        floor = question_only_floor(known, records)
    modes = modes_of(config.prompting_mode)
    batches = plan(records, modes, config.per_device_eval_batch_size)
    data = {"data": records, "train_data": ()}
    parts = Parts(output / "parts", config, batches, data, accelerator.print)
    if parts.missing:
        references = References(
            floor,
            volumes_of(records),
            {image: sha256_of(image) for image in {record.image for record in records}},
            other_images(records, config.seed) if config.counterfactual else {},
            consistency_of(config, modes, accelerator.device),
        )

        def ask(batch: Sequence[Request]) -> list[dict]:
            rows = answer_batch(predictor, records, batch, references, config)
            return [{"index": index, **row} for index, row in rows]

        loaded = loaded_predictor(
            config,
            accelerator,
            records,
            modes,
            inpainting=config.inpainting,
            answer_boxes=config.answer_boxes,
        )
        with StopRequest(output) as stop, loaded as predictor:
            code = parts.fill(accelerator, ask, stop, "evaluate")
        if code:
            return code
    if accelerator.is_main_process and not parts.is_shard:
        rows = sorted(parts.rows(), key=lambda row: (row["index"], MODES.index(row["mode"])))
        for row in rows:
            del row["index"]
        metrics = summarise(rows) | {"n": len(records), "n_dropped": len(dropped)}
        if converted := [row for row in rows if row["answer_boxes"] != "grid_1000"]:
            metrics["n_boxes_converted"] = sum(len(row["boxes"]) for row in converted)
        name = Path(config.adapter or config.base_model).name
        (output / SETTING).unlink(missing_ok=True)  # of other answers, should this be cut off
        write_results(output, rows, metrics, name)
        write_json(output / SETTING, setting_of(config))
        parts.remove()
        print(metrics_table({name: metrics}))
        print(f"predictions, metrics and report.html are in {config.output}", flush=True)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return 0


@dataclass(frozen=True)
class References:
    """What answers are measured with: the ``floor`` of each record (None: not wanted), the
    volume and the sum of each image, another image for each, and what compares captions with
    questions (None: not wanted)."""

    floor: Sequence[str] | None
    volumes: dict[str, str]
    contents: dict[str, str]
    partners: dict[Shown, Shown]
    consistency: Consistency | None


def consistency_of(
    config: EvaluateConfig, modes: Sequence[str], device: torch.device | str
) -> Consistency | None:
    """What compares captions with questions, if that is wanted and any mode has captions."""
    captioned = any("caption" in REQUIRED_KEYS[mode] for mode in modes)
    if not (config.consistency and captioned):
        return None
    return Consistency(config.consistency_model, device)


def answer_batch(
    predictor: Predictor,
    records: Sequence[SftRecord],
    batch: Sequence[Request],
    references: References,
    config: EvaluateConfig,
) -> list[tuple[int, dict]]:
    """The lines of one batch for ``predictions.jsonl``, each with the index of its record."""
    asked = answer(predictor, records, batch)
    answers = [
        Answer(records[i], mode, predictor.parse(done, mode, records[i].shown))
        for i, mode, done in asked
    ]
    confidences = measure_confidences(
        predictor,
        answers,
        consistency=references.consistency,
        num_samples=config.num_samples,
        temperature=config.temperature,
        seed=config.seed,
    )
    rows = []
    for (index, _, done), item, confidence in zip(asked, answers, confidences, strict=True):
        row = prediction_row(
            item,
            predictor.image_cache.canvas(item.record.shown),
            done.truncated,
            references.floor[index] if references.floor else None,
        )
        row |= {"volume": references.volumes[item.record.image], "confidences": confidence}
        sum_of_image = references.contents[item.record.image]
        row |= {"answer_boxes": predictor.answer_boxes, "image_sha256": sum_of_image}
        rows.append((index, row))
    if config.counterfactual:
        flips = measure_flips(predictor, answers, draws=config.random_draws, seed=config.seed)
        ablations = measure_ablations(predictor, answers, references.partners)
        causes = measure_causes(
            predictor,
            answers,
            [confidence["answer_probability"] for confidence in confidences],
            draws=config.random_draws,
            seed=config.seed,
        )
        for (_, row), found, without, own in zip(rows, flips, ablations, causes, strict=True):
            row |= {"inpainting": config.inpainting, "ablations": without} | found | own
    return rows


def write_results(folder: Path, rows: list[dict], metrics: dict[str, float], name: str) -> None:
    """Write ``report.html``, ``predictions.jsonl`` and ``metrics.json``: of the last two both, or
    (UserError) neither."""
    write_page(folder / "report.html", {name: metrics}, {name: rows})
    with atomic_write(folder / "predictions.jsonl") as stream:
        stream.writelines(map(json_line, rows))
        stream.flush()
        os.fsync(stream.fileno())
        write_json(folder / "metrics.json", metrics)


def prediction_row(item: Answer, canvas: Canvas, truncated: bool, floor: str | None) -> dict:
    """One line of ``predictions.jsonl``."""
    record, mode, parsed = item.record, item.mode, item.parsed
    gold = canvas.gold(record.regions)
    row = {
        **record.facts(),
        "image_size": list(canvas.sizes[0]),
        "mode": mode,
        "evidence": [
            {"label": region.label, "box": list(box)}
            for region, box in zip(record.regions, gold, strict=True)
        ],
        "text": parsed.text,
        "truncated": truncated,
        "valid_json": parsed.valid_json,
        "problem": parsed.problem,
        "caption": parsed.caption,
        "reasoning": list(parsed.reasoning),
        "boxes": [list(box) for box in parsed.boxes],
        "answer": parsed.answer,
        "scores": score_record(parsed.answer, record),
    }
    if record.more_images:  # boxes in pixels are then of the canvas (``kit.data.canvas``)
        row |= {
            "more_images": list(record.more_images),
            "image_sizes": [list(size) for size in canvas.sizes],
        }
    if "boxes" in REQUIRED_KEYS[mode] and gold:
        row["grounding"] = grounding_scores(parsed.boxes, gold, canvas).to_json()
    if floor is not None:
        row["floor"] = {"answer": floor, "exact": exact_match(floor, record.answer, record.choices)}
    return row
