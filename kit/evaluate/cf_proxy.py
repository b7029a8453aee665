"""From prepared records to the records of GRPO: what the model answers, and what the gold answer
rests on in its eyes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kit.counterfactual.probe import MODE, Case, probe
from kit.counterfactual.regions import Boxes, evidence_region, gold_region
from kit.data.fields import relative_image
from kit.data.grpo_records import GrpoRecord
from kit.data.records import SftRecord, read_sft_records, to_json
from kit.data.types import CARRIED, Shown
from kit.evaluate.answering import Predictor, Request, answer, loaded_predictor, plan
from kit.evaluate.config import CfProxyConfig
from kit.evaluate.parts import Parts
from kit.files import require_folder, write_jsonl
from kit.model.folders import require_adapter
from kit.run.process import fix_algorithms, join
from kit.run.stop import StopRequest
from kit.scoring.exact import exact_match


def cf_proxy(config: CfProxyConfig) -> int:
    """Write a :class:`GrpoRecord` for each record; returns the exit code.

    Finished batches are kept in ``<output>.parts/`` until all are done (``kit.evaluate.parts``).
    """
    fix_algorithms(config.full_determinism)
    accelerator = join()
    output = Path(config.output)
    require_folder(output.parent)
    if config.adapter:
        require_adapter(config.adapter)
    on_bad = "skip" if config.skip_bad else "report"
    records, _ = read_sft_records(
        config.data, on_bad, decode_images=True, layout=config.layout, prefer=("train",)
    )
    records = records[: config.max_records]
    batches = plan(records, [MODE], config.per_device_eval_batch_size)
    folder = output.with_name(f"{output.name}.parts")
    parts = Parts(folder, config, batches, {"data": records}, accelerator.print)
    if parts.missing:

        def ask(batch: Sequence[Request]) -> list[dict]:
            found = measure(predictor, records, batch, config)
            return [{"index": i, **to_json(record)} for i, record in found]

        kept = Path(config.images_dir) if config.keep_images else None
        loaded = loaded_predictor(
            config,
            accelerator,
            records,
            [MODE],
            inpainting=config.inpainting,
            images_dir=kept,
            answer_boxes=config.answer_boxes,
        )
        with StopRequest(parts.folder) as stop, loaded as predictor:
            code = parts.fill(accelerator, ask, stop, "cf_proxy")
        if code:
            return code
    if accelerator.is_main_process and not parts.is_shard:
        rows = sorted(parts.rows(), key=lambda row: row["index"])
        for row in rows:
            del row["index"]
            row["image_path"] = relative_image(Path(row["image_path"]), output.parent)
            if more := row.get("more_images"):
                row["more_images"] = [relative_image(Path(path), output.parent) for path in more]
        write_jsonl(output, rows)
        parts.remove()
        print(summary_of(rows, output), flush=True)
    accelerator.wait_for_everyone()
    return 0


def measure(
    predictor: Predictor,
    records: Sequence[SftRecord],
    batch: Sequence[Request],
    config: CfProxyConfig,
) -> list[tuple[int, GrpoRecord]]:
    """The GRPO records of one batch, with the index of the record that each is made of."""
    answers = {
        index: predictor.parse(completion, mode, records[index].shown)
        for index, mode, completion in answer(predictor, records, batch)
    }
    asked: dict[int, tuple[Shown, Boxes, Boxes]] = {}
    for index, parsed in answers.items():
        record = records[index]
        canvas = predictor.image_cache.canvas(record.shown)
        evidence, _ = evidence_region(record.regions, parsed.boxes, canvas)
        if evidence:
            asked[index] = (record.shown, evidence, gold_region(record.regions, canvas))
    found = predictor.image_cache.controls_all(
        [*asked.values()], draws=config.random_draws, seed=config.seed
    )
    cases = {
        index: Case(image, records[index].question, records[index].answer, evidence, controls)
        for (index, (image, evidence, _)), controls in zip(asked.items(), found, strict=True)
    }
    measured = probe(
        predictor.model, predictor.image_cache, [*cases.values()], batch_size=predictor.batch_size
    )
    effects = dict(zip(cases, measured, strict=True))
    found = []
    for index, parsed in answers.items():
        record = records[index]
        effect = effects.get(index)
        found.append(
            (
                index,
                GrpoRecord(
                    image_path=record.image,
                    question=record.question,
                    gold=record.answer,
                    valid_json=parsed.valid_json,
                    answer_correct=exact_match(parsed.answer, record.answer, record.choices),
                    caption=parsed.caption,
                    delta_cf_roi=effect.delta_roi if effect else None,
                    delta_cf_rand=effect.delta_rand if effect else None,
                    prediction=parsed.answer,
                    cf_boxes=cases[index].evidence if effect else (),
                    **{name: getattr(record, name) for name in CARRIED},
                ),
            )
        )
    return found


def summary_of(rows: Sequence[dict], output: Path) -> str:
    """A few lines on what was measured."""
    n = len(rows)
    both = [r for r in rows if r["delta_cf_roi"] is not None and r["delta_cf_rand"] is not None]
    lines = [
        f"{output}: {n} records",
        f"  valid JSON {sum(r['valid_json'] for r in rows) / n:.1%}, "
        f"exact match {sum(r['answer_correct'] for r in rows) / n:.1%}",
        f"  evidence to take away, and a control to match it: {len(both)} records",
    ]
    if both:
        roi = sum(r["delta_cf_roi"] for r in both) / len(both)
        rand = sum(r["delta_cf_rand"] for r in both) / len(both)
        lines.append(
            f"  mean drop in the probability of the gold answer: {roi:.3f} without the evidence, "
            f"{rand:.3f} without its controls"
        )
    return "\n".join(lines)
