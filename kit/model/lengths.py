"""How many tokens prompts have, and whether the model has positions for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from kit.data.grpo_records import GrpoRecord
from kit.data.images import image_size
from kit.data.records import SftRecord
from kit.errors import DataError
from kit.model.processor import PreparedImage, Processor


def trunk_lengths(
    records: Sequence[SftRecord | GrpoRecord], processor: Processor, mode: str
) -> list[int]:
    """Tokens of what the questions of each record's image share; of the image only the header is
    read."""
    merge = processor.image_processor.merge_size**2
    sizes = {path: image_size(path) for record in records for path in record.images}
    tokens = {
        path: processor.image_processor.get_number_of_image_patches(height, width) // merge
        for path, (width, height) in sizes.items()
    }
    shown = [record.images for record in records]
    none = torch.empty(0)
    around = {
        n: len(processor.encode_trunk(PreparedImage(("",) * n, none, none, (0,) * n), mode))
        for n in set(map(len, shown))
    }
    return [around[len(paths)] + sum(tokens[path] for path in paths) for paths in shown]


def prompt_lengths(
    records: Sequence[SftRecord | GrpoRecord], processor: Processor, mode: str
) -> list[int]:
    """Tokens of each record's prompt, image and question."""
    trunks = trunk_lengths(records, processor, mode)
    return [
        trunk + len(processor.encode_question(record.question, mode))
        for trunk, record in zip(trunks, records, strict=True)
    ]


def require_room(
    records: Sequence[SftRecord | GrpoRecord],
    processor: Processor,
    modes: Sequence[str],
    model: nn.Module,
    max_new_tokens: int,
) -> int:
    """Check that every prompt and its answer fit into the model's positions; the tokens of the
    longest.

    Raises:
        DataError: names the first record that does not.
    """
    room, longest = model.config.text_config.max_position_embeddings, 0
    for mode in modes:
        lengths = prompt_lengths(records, processor, mode)
        longest = max([longest, *lengths])
        for record, length in zip(records, lengths, strict=True):
            if length + max_new_tokens > room:
                raise DataError(
                    f"prompt of {length} tokens; with {max_new_tokens} new ones it exceeds the "
                    f"model's {room}",
                    where=f"{record.image} (qid {record.qid}): {record.question[:80]}",
                    fix="lower max_pixels or max_new_tokens, or shorten the question",
                )
    return longest + max_new_tokens
