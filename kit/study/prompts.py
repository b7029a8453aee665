"""Which questions GRPO is done on: those whose answer can be seen to rest on its evidence."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kit.counterfactual.images import ImageCache
from kit.counterfactual.regions import gold_region
from kit.data.fields import relative_image
from kit.data.grpo_records import GrpoRecord, read_grpo_records
from kit.data.records import to_json
from kit.errors import DataError
from kit.files import require_folder, write_jsonl
from kit.study.config import ChooseConfig


def choose_prompts(config: ChooseConfig) -> None:
    """Write the records whose evidence can be put to the test, and others beside, of all kinds: a
    policy forgets what it is not asked, such as how many lungs there are, which no control matches.

    Raises:
        DataError: there is none.
    """
    output = Path(config.output)
    require_folder(output.parent)
    records, _ = read_grpo_records(config.data)
    least = config.least_drop
    tested = matched(records) if least is None else [_drop(r) > least for r in records]
    chosen = [n for n, fine in enumerate(tested) if fine]
    if not chosen:
        fix = "draw or prepare more, or lower least_drop; that needs what cf_proxy wrote"
        raise DataError("no record rests on its evidence", where=config.data, fix=fix)
    others = [n for n, fine in enumerate(tested) if not fine]
    draw = random.Random(config.seed)
    draw.shuffle(others)
    chosen += others[: round(config.others * len(chosen))]
    draw.shuffle(chosen)
    write_jsonl(output, (_row(records[n], output.parent) for n in chosen))
    print(f"{output}: {len(chosen)} of {len(records)} records, {sum(tested)} of them tested")


def matched(records: Sequence[GrpoRecord], draws: int = 2, seed: int = 0) -> list[bool]:
    """Whether each has gold evidence that controls match (``kit.counterfactual.regions``)."""
    cache = ImageCache(None)
    asked = [(r.shown, gold_region(r.regions, cache.canvas(r.shown)), ()) for r in records]
    return [bool(controls) for controls in cache.controls_all(asked, draws=draws, seed=seed)]


def _drop(record: GrpoRecord) -> float:
    if record.delta_cf_roi is None or record.delta_cf_rand is None:
        return -math.inf
    return record.delta_cf_roi - max(0.0, record.delta_cf_rand)


def _row(record: GrpoRecord, folder: Path) -> dict:
    more = tuple(relative_image(Path(path), folder) for path in record.more_images)
    image = relative_image(Path(record.image_path), folder)
    return to_json(replace(record, image_path=image, more_images=more))
