"""Records whose images differ in one place alone, to be fine-tuned on: without its evidence a
question cannot be answered, without a control of it it can."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from kit.counterfactual.images import ImageCache
from kit.counterfactual.inpaint import inpaint
from kit.counterfactual.regions import Boxes, gold_region
from kit.data.box_columns import UNNAMED
from kit.data.entailment import Asked, answer_without
from kit.data.evidence import names_label
from kit.data.fields import relative_image
from kit.data.images import open_image
from kit.data.records import SftRecord, read_sft_records, to_json
from kit.data.targets import ASKED, unmarked
from kit.evaluate.config import CfPairsConfig
from kit.files import atomic_write, require_folder, write_jsonl

_SHOWING = re.compile(r" showing (.*)\.$")
_LISTED = re.compile(r", | and ")


def cf_pairs(config: CfPairsConfig) -> None:
    """Write the records of a data file, each after it, where it has evidence that something
    matches, a record of its image without the evidence, that answers what is true then or
    ``abstention``, and one of its image without a control, that answers as before. There is none
    without the evidence where neither can be answered, or the caption still names it."""
    output = Path(config.output)
    folder = Path(config.images_dir or output.with_suffix("").as_posix() + "_images")
    require_folder(output.parent)
    require_folder(folder)
    records, _ = read_sft_records(
        config.data, "skip" if config.skip_bad else "report", layout=config.layout,
        prefer=("train",),
    )  # fmt: skip
    cache = ImageCache(None, config.inpainting)
    regions = [
        () if record.more_images else gold_region(record.regions, cache.canvas(record.shown))
        for record in records
    ]
    asked = [(r.shown, region, ()) for r, region in zip(records, regions, strict=True)]
    found = cache.controls_all(asked, draws=1, seed=config.seed)
    rows, without = [], 0
    for number, (record, region, controls) in enumerate(zip(records, regions, found, strict=True)):
        changed = [*_changed(record, number, region, controls, folder, config)]
        without += len(changed) == 2
        for one in (record, *changed):
            rows.append(to_json(replace(one, image=relative_image(Path(one.image), output.parent))))
    write_jsonl(output, rows)
    print(
        f"{output}: {len(records)} records, of {sum(map(bool, found))} of "
        f"{sum(map(bool, regions))} with evidence one more without a control, of {without} also "
        f"one without the evidence; images in {folder}"
    )


def _changed(
    record: SftRecord,
    number: int,
    evidence: Boxes,
    controls: tuple[Boxes, ...],
    folder: Path,
    config: CfPairsConfig,
) -> Iterator[SftRecord]:
    if not controls:
        return
    pixels = np.asarray(open_image(record.image))
    name = f"{Path(record.image).parent.name}_{Path(record.image).stem}_{number}"
    told = {"evidence": without_evidence(record, config.abstention), "control": record}
    for kind, boxes in (("evidence", evidence), ("control", controls[0])):
        if told[kind] is None:
            continue
        path = folder / f"{name}_without_{kind}.png"
        with atomic_write(path, "wb") as stream:
            image = Image.fromarray(inpaint(pixels, boxes, config.inpainting))
            image.save(stream, format="PNG", compress_level=1)
        qid = f"{record.qid}-{kind}" if record.qid else ""
        yield replace(told[kind], image=str(path.absolute()), qid=qid)


def without_evidence(record: SftRecord, abstention: str) -> SftRecord | None:
    """The record of an image from which the evidence is gone: no box, and a caption that does not
    name it. Nothing is there and there are none of it (``kit.data.entailment.answer_without``);
    any other answer is ``abstention``. None where that is none of the record's choices, or empty,
    where the boxes have no label, and where the caption cannot be told without the evidence."""
    target = json.loads(record.output)
    labels = list(dict.fromkeys(region.label for region in record.regions))
    known = answer_without(
        Asked(record.question, record.answer, record.content_type, record.regions)
    )
    answer = known or abstention
    caption = caption_without(target["caption"], labels)
    if not answer or any(names_label(caption, label) for label in labels):
        return None
    if UNNAMED in labels or (record.choices and answer not in record.choices):
        return None
    output = {
        "caption": caption,
        "reasoning": [
            *(step for step in target["reasoning"][:1] if step.startswith(ASKED)),
            unmarked([label.lower() for label in labels]),
            f"{'So the' if known else 'The'} answer is {answer.lower()}.",
        ],
        "boxes": [],
        "answer": answer,
    }
    text = json.dumps(output, ensure_ascii=False)
    return replace(record, output=text, answer=answer, regions=())


def caption_without(caption: str, labels: Sequence[str]) -> str:
    """A caption of ``kit.data.targets`` without the things of some labels.

    >>> caption_without("CT showing the left lung, the heart and a nodule.", ["Nodule"])
    'CT showing the left lung and the heart.'
    >>> caption_without("MRI of the brain showing a brain tumor.", ["Brain Tumor"])
    'MRI of the brain.'
    """
    listed = _SHOWING.search(caption)
    if not listed:
        return caption
    parts = _LISTED.split(listed[1])
    kept = [part for part in parts if not any(names_label(part, label) for label in labels)]
    start = caption[: listed.start()]
    if not kept:
        return f"{start}."
    return f"{start} showing {', '.join(kept[:-1])}{' and ' * (len(kept) > 1)}{kept[-1]}."
