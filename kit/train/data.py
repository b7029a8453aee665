"""Which records form which batch, and from records to packed trees.

The records of step ``k`` depend on the seed and ``k`` alone, not on how the global batch is split
over processes and micro-batches (``kit.train.balance`` deals them out), and nothing has to be
remembered to resume.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from kit.data.images import open_image
from kit.data.records import SftRecord
from kit.data.types import Shown
from kit.errors import DataError, UserError
from kit.model.lengths import trunk_lengths
from kit.model.processor import PreparedImage, Processor
from kit.model.sharing import Branch, PackedBatch, Tree, pack
from kit.prompting.messages import target_text
from kit.train.balance import Size, deal
from kit.train.config import TrainingConfig


def read_records(config: TrainingConfig, read: Callable) -> tuple[list, list, list]:
    """Training records, held-out records, and the broken training lines that were dropped.

    Raises:
        DataError: broken lines, unless the configuration says to skip them.
    """
    on_bad = "skip" if config.skip_bad else "report"
    layout = config.layout
    records, dropped = read(
        config.data, on_bad, decode_images=True, layout=layout, prefer=("train",)
    )
    held_out = []
    if config.eval_data:
        layout, prefer = replace(layout, split=None), ("validate", "test")
        held_out, _ = read(
            config.eval_data, on_bad, decode_images=True, layout=layout, prefer=prefer
        )
    return records, held_out, dropped


@dataclass(frozen=True)
class EpochOrder:
    """The order of records of every epoch.

    Records of one image stay together in runs of at most ``together``; runs are shuffled; if
    ``lengths`` is given, windows of ``window`` records are sorted by length and the batches
    within them shuffled.
    """

    images: tuple[Shown, ...]
    seed: int
    together: int = 1
    lengths: tuple[int, ...] | None = None
    batch_size: int = 8

    def epoch(self, number: int) -> list[int]:
        """Indices of all records, each once.

        >>> sorted(EpochOrder(images=("a", "b", "a"), seed=1, together=2).epoch(0))
        [0, 1, 2]
        """
        rng = random.Random(f"{self.seed}:{number}")
        by_image: dict[Shown, list[int]] = {}
        for index, image in enumerate(self.images):
            by_image.setdefault(image, []).append(index)
        runs = []
        for members in by_image.values():
            rng.shuffle(members)
            size = self.together
            runs += [members[i : i + size] for i in range(0, len(members), size)]
        rng.shuffle(runs)
        if self.lengths is not None:
            runs = self._similar_lengths(runs, rng)
        return [index for run in runs for index in run]

    def _similar_lengths(self, runs: list[list[int]], rng: random.Random) -> list[list[int]]:
        per_batch = max(1, self.batch_size // self.together)
        window = 16 * per_batch
        result = []
        for start in range(0, len(runs), window):
            part = sorted(
                runs[start : start + window], key=lambda run: sum(self.lengths[i] for i in run)
            )
            batches = [part[i : i + per_batch] for i in range(0, len(part), per_batch)]
            rng.shuffle(batches)
            result += [run for batch in batches for run in batch]
        return result


class RecordStream:
    """The endless concatenation of epochs; a batch may reach over the end of one."""

    def __init__(self, order: EpochOrder):
        self.order, self.n = order, len(order.images)
        self._epoch = functools.lru_cache(maxsize=2)(order.epoch)

    def __getitem__(self, span: slice) -> list[int]:
        return [self._epoch(i // self.n)[i % self.n] for i in range(span.start, span.stop)]


class SftBatches(torch.utils.data.Dataset):
    """Micro-batch ``m`` of this process, packed. ``m`` counts over steps and accumulation."""

    def __init__(
        self,
        records: Sequence[SftRecord],
        processor: Processor,
        stream: RecordStream,
        *,
        modes: tuple[str, ...],
        sizes: Sequence[Size],
        micro_batch_size: int,
        accumulation: int,
        rank: int,
        world_size: int,
        merge_size: int,
        max_length: int,
        share: bool,
        direct: bool,
    ):
        self.records, self.processor, self.stream, self.modes = records, processor, stream, modes
        self.sizes, self.accumulation = sizes, accumulation
        self.rank, self.world_size = rank, world_size
        self.n_of_step = micro_batch_size * accumulation * world_size
        self._dealt = functools.lru_cache(maxsize=2)(self._deal)
        self.merge_size, self.max_length = merge_size, max_length
        self.share, self.direct = share, direct

    def __getitem__(self, number: int) -> PackedBatch | UserError:
        """The batch, or what is wrong with it: a loader's process would raise that with its
        traceback as the message (see :func:`raise_if_error`)."""
        try:
            return pack_records(
                self.records_of(number),
                self.processor,
                modes=self.modes,
                merge_size=self.merge_size,
                max_length=self.max_length,
                share=self.share,
                direct=self.direct,
            )
        except UserError as error:
            return error

    def records_of(self, number: int) -> list[SftRecord]:
        """The records of a micro-batch of this process."""
        step, part = divmod(number, self.accumulation)
        return self._dealt(step)[part][self.rank]

    def _deal(self, step: int) -> list[list[list[SftRecord]]]:
        """The records of a step by micro-batch and process (``kit.train.balance``)."""
        chosen = self.stream[step * self.n_of_step : (step + 1) * self.n_of_step]
        records = [self.records[index] for index in chosen]
        dealt = deal(
            [record.shown for record in records] if self.share else range(self.n_of_step),
            [self.sizes[index] for index in chosen],
            processes=self.world_size,
            accumulation=self.accumulation,
        )
        return [[[records[place] for place in own] for own in part] for part in dealt]

    def suspects(self, step: int, finite: Sequence[bool]) -> list[tuple[SftRecord, bool]]:
        """This process's records of a step, each with whether the loss of its micro-batch was
        finite."""
        first = step * len(finite)
        return [
            (record, fine)
            for number, fine in enumerate(finite, start=first)
            for record in self.records_of(number)
        ]


def raise_if_error(batch: PackedBatch | UserError) -> PackedBatch:
    """The batch itself.

    Raises:
        UserError: it is one.
    """
    if isinstance(batch, UserError):
        raise batch
    return batch


def pack_records(
    records: Sequence[SftRecord],
    processor: Processor,
    *,
    modes: tuple[str, ...],
    merge_size: int,
    max_length: int,
    share: bool = True,
    direct: bool = False,
) -> PackedBatch:
    """Trees of records: one trunk an image and mode with a branch a question, or a tree a
    question where ``share`` is off. ``direct`` adds a branch that answers the question at once.

    Raises:
        DataError: a record longer than ``max_length`` tokens.
    """
    images = {
        path: processor.prepare_image(open_image(path))
        for path in dict.fromkeys(path for record in records for path in record.images)
    }
    grown: dict[tuple, list[Branch]] = {}
    trunks = {}
    for place, record in enumerate(records):
        for mode in modes:
            key = (record.shown, mode) if share else (record.shown, mode, place)
            if key not in trunks:
                shown = PreparedImage.together([images[path] for path in record.images])
                trunks[key] = processor.encode_trunk(shown, mode)
            branches = [Branch.of(*text) for text in _texts(record, processor, mode, direct)]
            _require_length(len(trunks[key]) + len(branches[0].input_ids), max_length, record)
            grown.setdefault(key, []).extend(branches)
    trees = [Tree(trunks[key], tuple(branches)) for key, branches in grown.items()]
    return pack(trees, merge_size=merge_size)


def record_sizes(
    records: Sequence[SftRecord],
    processor: Processor,
    modes: tuple[str, ...],
    max_length: int,
    *,
    direct: bool = False,
) -> list[Size]:
    """Tokens of every record, of all modes together, before any is trained on.

    Raises:
        DataError: a record longer than ``max_length`` tokens.
    """
    shared, own = [0] * len(records), [0] * len(records)
    for mode in modes:
        for place, trunk in enumerate(trunk_lengths(records, processor, mode)):
            record = records[place]
            lengths = [len(c) + len(t) for c, t in _texts(record, processor, mode, direct)]
            _require_length(trunk + lengths[0], max_length, record)
            shared[place] += trunk
            own[place] += sum(lengths)
    return [Size(*both) for both in zip(shared, own, strict=True)]


def _texts(
    record: SftRecord, processor: Processor, mode: str, direct: bool
) -> list[tuple[list[int], list[int]]]:
    """What is read and what is supervised of a record's branches."""
    question = processor.encode_question(record.question, mode)
    texts = [(question, processor.encode_answer(target_text(record, mode)))]
    if direct:
        texts.append(processor.encode_direct(record.question, mode, record.answer))
    return texts


def _require_length(length: int, max_length: int, record: SftRecord) -> None:
    if length > max_length:
        raise DataError(
            f"record of {length} tokens, over max_length {max_length}",
            where=f"{record.image} (qid {record.qid}): {record.question[:80]}",
            fix="raise max_length, or lower max_pixels for fewer image tokens",
        )
