"""From prepared records to the records of GRPO: what the model answers, and what the gold answer
rests on in its eyes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from kit.counterfactual.gallery import Gallery, random_matches
from kit.counterfactual.probe import MODE, Case, probe
from kit.counterfactual.regions import evidence_region
from kit.data.fields import relative_image
from kit.data.grpo_records import CARRIED, GrpoRecord
from kit.data.records import SftRecord, read_sft_records, to_json
from kit.errors import UserError
from kit.evaluate.answering import Ask, answer, load_model, own_batches, plan
from kit.evaluate.config import CfProxyConfig
from kit.files import require_folder, write_json, write_jsonl
from kit.model.adapters import require_adapter
from kit.prompting.answers import parse_answer
from kit.scoring.exact import exact_match
from kit.train.batches import require_room
from kit.train.runtime import join

# What may differ between the run that was cut off and the one that goes on.
_FREE_KEYS = ("output", "keep_images", "images_dir")


def cf_proxy(config: CfProxyConfig) -> int:
    """Write a :class:`GrpoRecord` for each record; returns the exit code.

    Finished batches are kept in ``<output>.parts/`` until all are done, so that a run that was
    cut off goes on where it stood; the batches are the same however many processes share them.
    """
    accelerator = join()
    output = Path(config.output)
    parts = output.with_name(f"{output.name}.parts")
    require_folder(output.parent)
    if config.adapter:
        require_adapter(config.adapter)
    on_bad = "skip" if config.skip_bad else "report"
    records, _ = read_sft_records(config.data, on_bad, decode_images=True)
    records = records[: config.max_records]
    model, processor = load_model(config, accelerator)
    require_room(records, processor, [MODE], model, config.max_new_tokens)
    if accelerator.is_main_process:
        _open_parts(parts, config)
    accelerator.wait_for_everyone()

    batches = plan(records, [MODE], config.per_device_eval_batch_size)
    for number, batch in own_batches(accelerator, batches, "cf_proxy"):
        part = parts / f"{number:06d}.jsonl"
        if part.exists():
            continue
        folder = Path(config.images_dir) if config.keep_images else None
        gallery = Gallery(processor, config.inpainting, folder)
        found = measure(model, gallery, records, batch, config)
        write_jsonl(part, ({"index": i, **to_json(record)} for i, record in found))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        rows = [
            json.loads(line)
            for number in range(len(batches))
            for line in (parts / f"{number:06d}.jsonl").read_text("utf-8").splitlines()
        ]
        rows.sort(key=lambda row: row["index"])
        for row in rows:
            del row["index"]
            row["image_path"] = relative_image(Path(row["image_path"]), output.parent)
        write_jsonl(output, rows)
        shutil.rmtree(parts)
        print(summary_of(rows, output), flush=True)
    accelerator.wait_for_everyone()
    return 0


def measure(
    model: nn.Module,
    gallery: Gallery,
    records: Sequence[SftRecord],
    batch: Sequence[Ask],
    config: CfProxyConfig,
) -> list[tuple[int, GrpoRecord]]:
    """The GRPO records of one batch, with the index of the record that each is made of."""
    answers = {
        index: parse_answer(gallery.processor.decode(list(completion.token_ids)))
        for index, _, completion in answer(model, gallery, records, batch, config.max_new_tokens)
    }
    cases: dict[int, Case] = {}
    for index, parsed in answers.items():
        record = records[index]
        size = gallery.size(record.image)
        gold = [region.box_xyxy_pixels for region in record.regions]
        evidence, _ = evidence_region(gold, parsed.boxes, size)
        names = (config.seed, record.dataset, record.qid, record.question)
        random = random_matches(evidence, size, draws=config.random_draws, seed=names)
        if evidence:
            cases[index] = Case(record.image, record.question, record.answer, evidence, random)
    effects = dict(
        zip(
            cases,
            probe(model, gallery, [*cases.values()], batch_size=config.per_device_eval_batch_size),
            strict=True,
        )
    )
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
                    answer_correct=exact_match(parsed.answer, record.answer),
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
        f"  evidence to take away, and a random region to match it: {len(both)} records",
    ]
    if both:
        roi = sum(r["delta_cf_roi"] for r in both) / len(both)
        rand = sum(r["delta_cf_rand"] for r in both) / len(both)
        lines.append(
            f"  mean drop in the probability of the gold answer: {roi:.3f} without the evidence, "
            f"{rand:.3f} without random regions"
        )
    return "\n".join(lines)


def _open_parts(parts: Path, config: CfProxyConfig) -> None:
    """Make the folder of finished batches, or check that it is of this very run.

    Raises:
        UserError: it is of a run with another configuration or other data.
    """
    facts = {k: v for k, v in dataclasses.asdict(config).items() if k not in _FREE_KEYS}
    facts["data_sha256"] = hashlib.sha256(Path(config.data).read_bytes()).hexdigest()
    stated = parts / "run.json"
    if not stated.exists():
        write_json(stated, facts)
        return
    before = json.loads(stated.read_text("utf-8"))
    changed = [k for k in facts if before.get(k) != facts[k]]
    if changed:
        raise UserError(
            f"an unfinished run was started differently: {', '.join(changed)}",
            where=parts,
            fix="go on with the same configuration, or remove the folder to start anew",
        )
