"""What in a data file is worth an hour of training: lines that will be refused, boxes that lie
elsewhere, questions that contradict each other, answers that are all the same."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from kit.data.audit import normalize_question
from kit.data.boxes import pixels_to_grid
from kit.data.fields import check_box
from kit.data.grpo_records import GrpoRecord
from kit.data.images import image_size
from kit.data.types import SftRecord
from kit.data.words import is_polar
from kit.errors import ImageError, RecordError
from kit.prompting.answers import same_answer

Record = SftRecord | GrpoRecord
Sizes = Mapping[str, tuple[int, int] | ImageError]

SMALL = 112  # pixels: an image whose shorter side has fewer is four by four tokens or less
NEAR = 10  # of a thousand: how far a target's box may lie from the evidence that it repeats
MOSTLY, POLAR_MOSTLY = 0.5, 0.8  # shares of one answer, of all and of the yes or no ones
FEWEST = 20  # answers of which a share says anything
EXAMPLES = 3
ROOM = 256  # tokens that evaluate and train_grpo let a model write, if not told otherwise

# Of a line's ``RecordError.reason``: what is wrong, in the words of the page.
LINES = {
    "image_missing": "image file is missing",
    "image_path": "image path cannot be used",
    "image_url": "image is a URL",
    "image_outside": "image lies outside of the data's folder",
    "bad_image": "image cannot be read",
    "bad_box": "box lies outside of its image, or is no box",
    "bad_choices": "answer is none of the choices, or they are none",
    "bad_output": "target is no JSON object with caption, reasoning, boxes and answer",
    "broken_json": "line is no JSON",
    "missing_field": "field is missing",
    "empty_answer": "answer is empty",
    "empty_question": "question is empty",
}


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with ``count`` of ``total``; ``records`` are the numbers of those
    that can be shown, ``fatal`` says that training stops at it."""

    name: str
    words: str
    count: int
    total: int
    fix: str
    examples: tuple[str, ...] = ()
    records: tuple[int, ...] = ()
    fatal: bool = False


def sizes_of(records: Sequence[Record]) -> Sizes:
    """``(width, height)`` of every image by its path, of the header alone, or what is wrong."""
    paths = list(dict.fromkeys(path for record in records for path in record.images))

    def look(path: str) -> tuple[int, int] | ImageError:
        try:
            return image_size(path)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(paths, pool.map(look, paths), strict=True))


def of_lines(broken: Sequence[RecordError], total: int) -> Iterator[Finding]:
    """The lines that are no records, by what is wrong."""
    by_reason: dict[str, list[RecordError]] = defaultdict(list)
    for error in broken:
        by_reason[error.reason].append(error)
    for reason, errors in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        told = tuple(f"{error.where}: {error.what}" for error in errors[:EXAMPLES])
        words = LINES.get(reason, reason.replace("_", " "))
        fix = "fix them, or leave them out with --skip_bad true"
        yield Finding(reason, words, len(errors), total, fix, told, fatal=True)


def of_records(records: Sequence[Record], sizes: Sizes) -> Iterator[Finding]:
    """What is wrong with records that can be read."""
    checks = {name: check for name, (check, *_) in _OF_ONE.items()}
    found: dict[str, dict[int, str]] = {name: {} for name in checks}
    for number, record in enumerate(records):
        for name, check in checks.items():
            if problem := check(record, sizes):
                found[name][number] = problem
    found |= _of_several(records)
    for name, problems in found.items():
        if problems:
            _, words, fix, fatal = _OF_ONE.get(name) or (None, *_OF_SEVERAL[name])
            told = tuple(f"{_named(records[n])}: {p}" for n, p in [*problems.items()][:EXAMPLES])
            numbers = tuple(problems)
            yield Finding(name, words, len(problems), len(records), fix, told, numbers, fatal=fatal)
    yield from _one_answer(records)
    if not any(record.regions for record in records):
        fix = "nothing teaches boxes, and the counterfactual reward needs counterfactual: online"
        yield Finding("no_boxes", "no record has boxes", len(records), len(records), fix)


def of_lengths(records: Sequence[Record], lengths: Mapping[int, int]) -> Iterator[Finding]:
    """Targets that are longer than what a model may write; ``lengths`` in tokens, by number."""
    if long := {number: length for number, length in lengths.items() if length > ROOM}:
        told = [f"{_named(records[number])}: {length}" for number, length in long.items()]
        fix = "evaluate --max_new_tokens and train_grpo --max_completion_length cut them off"
        words = f"target of more than {ROOM} tokens"
        examples = tuple(told[:EXAMPLES])
        yield Finding("long", words, len(long), len(lengths), fix, examples, tuple(long))


def target_of(record: Record) -> dict | None:
    """The JSON object that a record teaches; a GRPO record teaches none."""
    return json.loads(record.output) if isinstance(record, SftRecord) else None


def _unreadable(record: Record, sizes: Sizes) -> str:
    bad = (found for path in record.images if isinstance(found := sizes[path], ImageError))
    return next((f"{error.what}" for error in bad), "")


def _other_size(record: Record, sizes: Sizes) -> str:
    found, told = sizes[record.image], record.image_size
    if told is None or isinstance(found, ImageError) or tuple(told) == found:
        return ""
    return f"image_size is {list(told)}, the image is {found[0]}x{found[1]}"


def _outside(record: Record, sizes: Sizes) -> str:
    for region in record.regions:
        size = sizes[record.images[region.image - 1]]
        problem = not isinstance(size, ImageError) and check_box(region.box_xyxy_pixels, size)
        if problem:
            return f"{region.label or 'box'} {problem}"
    return ""


def _small(record: Record, sizes: Sizes) -> str:
    known = [size for path in record.images if not isinstance(size := sizes[path], ImageError)]
    width, height = min(known, key=min, default=(SMALL, SMALL))
    return f"{width}x{height}" if min(width, height) < SMALL else ""


def _other_answer(record: Record, sizes: Sizes) -> str:
    target = target_of(record)
    if target is None or same_answer(target["answer"], record.answer, record.choices):
        return ""
    return f"the target says {target['answer']!r}, the answer is {record.answer!r}"


def _elsewhere(record: Record, sizes: Sizes) -> str:
    target = target_of(record)
    found = [sizes[path] for path in record.images]
    if not (target and target["boxes"] and record.regions) or not all(
        isinstance(size, tuple) for size in found
    ):
        return ""
    evidence = [
        (region.image, pixels_to_grid(region.box_xyxy_pixels, found[region.image - 1]))
        for region in record.regions
    ]
    for box in target["boxes"]:
        image, corners = (box[0], box[1:]) if len(found) > 1 else (1, box)
        if not any(
            image == other and all(abs(a - b) <= NEAR for a, b in zip(corners, known, strict=True))
            for other, known in evidence
        ):
            return f"the target's {box} is none of the evidence"
    return ""


# Of one record: the check, what is wrong, what to do, whether training stops at it.
_OF_ONE = {
    "unreadable": (_unreadable, "image cannot be read", "convert or fetch it again", True),
    "other_size": (
        _other_size, "image_size is not the image's", "prepare the data anew", True,
    ),
    "outside": (
        _outside, "box lies outside of its image",
        "are these corners (x1, y1, x2, y2) in pixels of this very image? --box_format, "
        "--box_convention", False,
    ),
    "small": (
        _small, f"image with a side under {SMALL} pixels",
        "the model sees at most four by four tokens of it: are these thumbnails?", False,
    ),
    "other_answer": (
        _other_answer, "target says another answer than the record",
        "evaluation compares with answer, training teaches output: make them one", False,
    ),
    "elsewhere": (
        _elsewhere, "target's box is none of the evidence",
        "output has boxes on a 0 to 1000 grid, regions in pixels: was one taken for the other?",
        False,
    ),
}  # fmt: skip
_OF_SEVERAL = {
    "contradicting": (
        "same question about the same image, another answer",
        "no answer can be right for both: decide, or take one out", False,
    ),
    "repeated": ("same question about the same image again", "take the copies out", False),
    "splits": (
        "image is in several splits",
        "what is tested was seen in training: split by image", False,
    ),
}  # fmt: skip


def _of_several(records: Sequence[Record]) -> dict[str, dict[int, str]]:
    first: dict[tuple, Record] = {}
    splits: dict[str, set[str]] = defaultdict(set)
    found: dict[str, dict[int, str]] = {name: {} for name in _OF_SEVERAL}
    for number, record in enumerate(records):
        for path in record.images:
            splits[path].add(record.split)
        before = first.setdefault((record.images, normalize_question(record.question)), record)
        if before is record:
            continue
        same = same_answer(before.answer, record.answer, record.choices)
        told = f"{record.question.splitlines()[0]} {before.answer!r}, {record.answer!r}"
        found["repeated" if same else "contradicting"][number] = told
    for number, record in enumerate(records):
        several = [splits[path] for path in record.images if len(splits[path]) > 1]
        if several:
            found["splits"][number] = ", ".join(sorted(name or "none" for name in several[0]))
    return found


def _one_answer(records: Sequence[Record]) -> Iterator[Finding]:
    every = [record.answer.casefold().strip(" .") for record in records]
    polar = [answer for answer in every if answer in ("yes", "no") or is_polar(answer)]
    kinds = (("answers", every, MOSTLY), ("yes or no answers", polar, POLAR_MOSTLY))
    for words, answers, most in kinds:
        (answer, count), *_ = Counter(answers).most_common(1) or [("", 0)]
        if len(answers) >= FEWEST and count > most * len(answers):
            fix = "a model that always says it is as often right: balance them, or read accuracies "
            fix += "beside the question-only floor (evaluate --train_data)"
            told = f"{words} that are {answer!r}"
            yield Finding(f"one of {words}", told, count, len(answers), fix)


def _named(record: Record) -> str:
    return " ".join(filter(None, [record.dataset, record.qid])) or record.image.rpartition("/")[2]


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """What training stops at, then by how many records it is true of."""
    return sorted(findings, key=lambda one: (not one.fatal, -one.count))
