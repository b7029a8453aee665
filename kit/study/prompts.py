"""Which questions GRPO is done on: those whose answer can be seen to rest on its evidence."""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Sequence
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
    """Write as many records as ``others`` says, of which as many as can be rest on evidence that
    can be put to the test: of each kind of question (:func:`kind_of`) the same share is taken,
    those first. What can be tested is not like the rest (what is there, never what is not; one eye,
    never both lungs), and a policy learns which answer is the usual one.

    Raises:
        DataError: there is none.
    """
    output = Path(config.output)
    require_folder(output.parent)
    records, _ = read_grpo_records(config.data)
    least = config.least_drop
    tested = matched(records) if least is None else [_drop(r) > least for r in records]
    if not any(tested):
        fix = "draw or prepare more, or lower least_drop; that needs what cf_proxy wrote"
        raise DataError("no record rests on its evidence", where=config.data, fix=fix)
    share = (1 + config.others) * sum(tested) / len(records)
    chosen = chosen_of(list(map(kind_of, records)), tested, share, config.seed)
    write_jsonl(output, (_row(records[n], output.parent) for n in chosen))
    found = sum(tested[n] for n in chosen)
    print(f"{output}: {len(chosen)} of {len(records)} records, {found} of them tested")


def chosen_of(
    kinds: Sequence[Hashable], tested: Sequence[bool], share: float, seed: int
) -> list[int]:
    """A share of each kind, by their places in a shuffled order: those that are tested first.

    >>> sorted(chosen_of("aaaabb", [False, False, True, True, False, False], 0.5, seed=0))[:2]
    [2, 3]
    """
    draw = random.Random(seed)
    by_kind: dict[Hashable, list[int]] = {}
    for place, kind in enumerate(kinds):
        by_kind.setdefault(kind, []).append(place)
    chosen = []
    for places in by_kind.values():
        draw.shuffle(places)
        places.sort(key=lambda place: not tested[place])
        chosen += places[: math.floor(share * len(places) + draw.random())]
    draw.shuffle(chosen)
    return chosen


def kind_of(record: GrpoRecord) -> tuple:
    """What is asked, of what, and what is answered."""
    labels = sorted(region.label for region in record.regions)
    return (record.content_type, record.gold.casefold(), *labels)


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
