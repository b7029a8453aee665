"""Records before they are trained on, as a page: what they are, what is wrong with them, and a fair
sample of them with images, boxes and targets."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kit.data.boxes import grid_to_pixels
from kit.data.grpo_records import GrpoRecord, is_measured, parse_grpo_record
from kit.data.images import open_image
from kit.data.records import parse_sft_record, read_records
from kit.data.tables import HUB
from kit.data.types import SftRecord
from kit.errors import ImageError, RecordError
from kit.files import atomic_write, missing_data, require_folder
from kit.prompting.messages import INSTRUCTIONS, INSTRUCTIONS_OF_SEVERAL, MODES, target_text
from kit.report.cases import SIDE, in_percent, picture_uri
from kit.report.config import LookConfig
from kit.report.findings import (
    Finding,
    Record,
    Sizes,
    of_lengths,
    of_lines,
    of_records,
    sizes_of,
    target_of,
    worst_first,
)
from kit.report.page import render
from kit.report.record_facts import answers_of, facts_of, groups_of, token_counter

MOST_BYTES = 20_000_000  # of the pictures of a page
FOR_A_FINDING = 4  # records that are shown for each, beside the sample
STRATA = ("dataset", "split", "modality", "answer_type")


def look(config: LookConfig) -> int:
    """Write the page and say in short what is on it; returns the exit code.

    Raises:
        DataError: no such file, or no record in it.
    """
    if not config.data.startswith(HUB) and not Path(config.data).exists():
        raise missing_data(Path(config.data))
    require_folder(config.page.parent)
    tokens_of = token_counter(config.tokenizer) if config.tokenizer else None
    records, broken = _read(config)
    chosen = sample(records, config.limit, config.seed)
    pictures = Pictures()
    pictures.add(records[n] for n in chosen)
    sizes = {**sizes_of(records), **pictures.unreadable}
    taught = {n: r.output for n, r in enumerate(records) if isinstance(r, SftRecord) and tokens_of}
    lengths = {n: tokens_of(text) for n, text in taught.items()}
    found = [*of_lines(broken, len(records) + len(broken)), *of_records(records, sizes)]
    findings = worst_first([*found, *of_lengths(records, lengths)])
    flagged = {n: 0 for one in findings for n in one.records[:FOR_A_FINDING] if n not in chosen}
    pictures.add(records[n] for n in flagged)
    why = {n: [one.name for one in findings if n in one.records] for n in (*chosen, *flagged)}
    cards = [
        card(n, records[n], sizes, pictures, names, drawn=n not in flagged)
        for n, names in why.items()
    ]
    facts = list(facts_of(records, sizes, lengths))
    page = render(
        "look.html.j2",
        name=Path(config.data).name,
        facts=facts,
        groups=[*groups_of(records)],
        answers=answers_of(records),
        findings=findings,
        finding_words={one.name: one.words for one in findings},
        cards=cards,
        pictures=pictures.uris,
        left_out=pictures.left_out,
        n_drawn=len(chosen),
        n_flagged=len(flagged),
        n_records=len(records),
        measured=any(isinstance(record, GrpoRecord) for record in records),
        seed=config.seed,
        side=SIDE,
        most_megabytes=MOST_BYTES // 1_000_000,
        instructions=_instructions(records),
    )
    with atomic_write(config.page) as stream:
        stream.write(page)
    _tell(config, facts, findings, len(page))
    return 0


def _read(config: LookConfig) -> tuple[list[Record], list[RecordError]]:
    """Records of whichever stage, and the lines that are none."""

    def parse(value: object, *, where: str, folder: Path) -> Record:
        of_grpo = isinstance(value, dict) and "output" not in value
        return (parse_grpo_record if of_grpo else parse_sft_record)(
            value, where=where, folder=folder
        )

    def is_own(row: dict) -> bool:
        return "output" not in row and (bool(config.columns) or not is_measured(row))

    return read_records(config.data, parse, "skip", layout=config.layout, is_own=is_own)


def sample(records: Sequence[Record], limit: int, seed: int) -> list[int]:
    """The numbers of ``limit`` records, drawn by ``seed``, so that of each stratum (dataset, split,
    modality, answer type, boxes or none) there are as many as its share, to within one; in an order
    that means nothing."""
    draw = random.Random(seed)
    strata = [(*(getattr(r, name) for name in STRATA), bool(r.regions)) for r in records]
    order = sorted(range(len(records)), key=lambda number: (strata[number], draw.random()))
    limit, start = min(limit, len(records)), draw.random()
    chosen = [order[int((place + start) * len(records) / limit)] for place in range(limit)]
    draw.shuffle(chosen)
    return chosen


class Pictures:
    """Small pictures of images, by their paths: ``names`` of those in ``uris``, empty where the
    page would be larger than ``MOST_BYTES``; ``unreadable``: what is wrong with the others."""

    def __init__(self):
        self.names: dict[str, str] = {}
        self.uris: dict[str, str] = {}
        self.unreadable: dict[str, ImageError] = {}
        self._bytes = 0

    def add(self, records: Iterable[Record]) -> None:
        """Make those of these records, side by side."""
        known = self.names.keys() | self.unreadable.keys()
        new = dict.fromkeys(path for record in records for path in record.images)
        paths = [path for path in new if path not in known]
        with ThreadPoolExecutor() as pool:
            for path, found in zip(paths, pool.map(_picture, paths), strict=True):
                if isinstance(found, ImageError):
                    self.unreadable[path] = found
                    continue
                self._bytes += len(found)
                self.names[path] = f"p{len(self.uris)}" if self._bytes <= MOST_BYTES else ""
                if self.names[path]:
                    self.uris[self.names[path]] = found

    @property
    def left_out(self) -> int:
        return sum(not name for name in self.names.values())


def _picture(path: str) -> str | ImageError:
    try:
        return picture_uri(open_image(path))
    except ImageError as error:
        return error


def card(
    number: int,
    record: Record,
    sizes: Sizes,
    pictures: Pictures,
    why: Sequence[str],
    *,
    drawn: bool,
) -> dict:
    """One record as the page shows it."""
    is_sft = isinstance(record, SftRecord)
    keys = ("question", "answer", "dataset", "split", "modality", "location", "content_type")
    return {key: getattr(record, key) for key in (*keys, "answer_type", "qid")} | {
        "number": number + 1,
        "drawn": drawn,
        "why": list(why),
        "boxes": "yes" if record.regions else "no",
        "image": ", ".join(Path(path).name for path in record.images),
        "target": target_of(record),
        "texts": [[mode, target_text(record, mode)] for mode in MODES] if is_sft else [],
        "measured": [] if is_sft else list(_measured(record)),
        "views": list(_views(record, sizes, pictures)),
    }


def _views(record: Record, sizes: Sizes, pictures: Pictures) -> Iterator[dict]:
    """Each image with its own boxes: the evidence, and those of the target."""
    target = target_of(record) or {"boxes": []}
    several = len(record.images) > 1
    for number, path in enumerate(record.images, start=1):
        size, name = sizes[path], pictures.names.get(path)
        boxes, what = [], f"image {number} of {len(record.images)}" if several else "image"
        if isinstance(size, tuple):
            own = [region for region in record.regions if region.image == number]
            taught = [box[-4:] for box in target["boxes"] if not several or box[0] == number]
            boxes = [
                *in_percent(
                    [r.box_xyxy_pixels for r in own], size, "evidence", [r.label for r in own]
                ),
                *in_percent([grid_to_pixels(b, size) for b in taught], size, "target"),
            ]
            if isinstance(record, GrpoRecord) and not several:
                boxes += in_percent(record.cf_boxes, size, "removed")
        yield {
            "label": f"{what}: left out, the page is full" if name == "" else what,
            "picture": name,
            "boxes": boxes,
        }


def _measured(record: GrpoRecord) -> Iterator[tuple[str, str]]:
    """What the SFT model said of a GRPO record."""
    yield "the model said", record.prediction or "(nothing)"
    words = {0.0: "wrong", 1.0: "right"}
    yield "which is", words.get(record.answer_correct, f"{record.answer_correct:.2f} right")
    if record.caption:
        yield "its caption", record.caption
    for name in ("delta_cf_roi", "delta_cf_rand"):
        value = getattr(record, name)
        yield name, "-" if value is None else f"{value:+.3f}"


def _instructions(records: Sequence[Record]) -> dict[str, str]:
    several = all(len(record.images) > 1 for record in records)
    return INSTRUCTIONS_OF_SEVERAL if several else INSTRUCTIONS


def _tell(
    config: LookConfig, facts: Sequence[tuple[str, str]], findings: Sequence[Finding], size: int
) -> None:
    print("; ".join(f"{name}: {value}" for name, value in facts))
    for one in findings:
        level = "error" if one.fatal else "warning"
        print(f"  {level}: {one.words}: {one.count:,} of {one.total:,} ({one.fix})")
        for told in one.examples[:1]:
            print(f"    {told}")
    print(f"open {config.page} in a browser ({size / 1e6:.1f} MB)", flush=True)
