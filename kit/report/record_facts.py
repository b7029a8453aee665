"""What the records of a data file are, in numbers."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from kit.data.grpo_records import GrpoRecord
from kit.data.types import SftRecord
from kit.errors import UserError
from kit.model.folders import resolve_base
from kit.report.findings import Record, Sizes

MOST_ANSWERS = 12  # in the list of the most frequent


def facts_of(
    records: Sequence[Record], sizes: Sizes, lengths: Mapping[int, int]
) -> Iterator[tuple[str, str]]:
    """What the records are, in words and numbers; ``lengths``: of their targets in tokens."""
    asked = Counter(path for record in records for path in record.images)
    known = sorted(s for s in sizes.values() if isinstance(s, tuple))
    counts = asked.values()
    yield "records", f"{len(records):,}"
    yield "images", f"{len(asked):,}"
    yield "questions an image", f"{statistics.fmean(counts):.1f} (at most {max(counts)})"
    if several := sum(len(record.images) > 1 for record in records):
        yield "with several images", f"{several / len(records):.1%}"
    yield "with boxes", f"{sum(bool(record.regions) for record in records) / len(records):.1%}"
    if choices := sum(bool(record.choices) for record in records):
        yield "multiple choice", f"{choices / len(records):.1%}"
    if known:
        by_area = sorted(known, key=lambda size: size[0] * size[1])
        ends = [f"{width}x{height}" for width, height in (by_area[0], by_area[-1])]
        width, height = by_area[len(by_area) // 2]
        yield "image sizes", f"{ends[0]} to {ends[1]}, half of them up to {width}x{height}"
    measured = [record for record in records if isinstance(record, GrpoRecord)]
    if measured:
        right = statistics.fmean(record.answer_correct for record in measured)
        valid = statistics.fmean(record.valid_json for record in measured)
        yield "the model that measured them", f"{valid:.1%} valid JSON, {right:.1%} right"
        deltas = sum(record.delta_cf_roi is not None for record in measured)
        yield "with a counterfactual", f"{deltas / len(records):.1%}"
    if texts := [record.output for record in records if isinstance(record, SftRecord)]:
        tokens = f", {max(lengths.values())} tokens" if lengths else ""
        yield "longest target", f"{max(map(len, texts)):,} characters{tokens}"


def groups_of(records: Sequence[Record]) -> Iterator[dict]:
    """A line a dataset and split."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.dataset or "unnamed", record.split or "-"), []).append(record)
    for (dataset, split), own in groups.items():
        yield {
            "dataset": dataset,
            "split": split,
            "records": len(own),
            "images": len({path for record in own for path in record.images}),
            "boxes": sum(bool(record.regions) for record in own) / len(own),
            "closed": sum(record.answer_type.upper() == "CLOSED" for record in own) / len(own),
        }


def answers_of(records: Sequence[Record]) -> list[dict]:
    """The most frequent answers, in any case, and all others together."""
    spellings = Counter(record.answer.strip() for record in records)
    counts: Counter[str] = Counter()
    for spelling, count in spellings.items():
        counts[spelling.casefold()] += count
    written = {spelling.casefold(): spelling for spelling, _ in spellings.most_common()[::-1]}
    shown = [(written[answer], count) for answer, count in counts.most_common(MOST_ANSWERS)]
    rest = len(records) - sum(count for _, count in shown)
    if others := len(counts) - len(shown):
        shown.append((f"{others:,} others", rest))
    most = max(count for _, count in shown)
    return [
        {"answer": answer, "count": n, "share": n / len(records), "length": 100 * n / most}
        for answer, n in shown
    ]


def token_counter(name: str) -> Callable[[str], int]:
    """Counts tokens as a base model does, by its tokenizer.json in a folder or the hub's cache.

    Raises:
        UserError: there is none.
    """
    from huggingface_hub import try_to_load_from_cache
    from tokenizers import Tokenizer

    base = resolve_base(name)
    local = isinstance(base, Path)
    file = base / "tokenizer.json" if local else try_to_load_from_cache(base, "tokenizer.json")
    if not isinstance(file, (str, Path)) or not Path(file).is_file():
        fix = "give the folder of a base model, or leave --tokenizer out: characters are counted"
        raise UserError("no tokenizer.json", where=name, fix=fix)
    tokenizer = Tokenizer.from_file(str(file))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
