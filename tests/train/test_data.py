"""EpochOrder of records, supervised tokens, and sharing an image's pass."""

import itertools
import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.data.records import read_sft_records
from kit.errors import DataError
from kit.model.logprobs import token_logprobs
from kit.prompting.messages import MODES, target_text
from kit.train.balance import Run, Size, deal, load
from kit.train.data import EpochOrder, RecordStream, SftBatches, pack_records, record_sizes


@pytest.fixture
def records(prepared):
    return read_sft_records(prepared["train"])[0]


def order(n_images=13, **options):
    rng = random.Random(5)
    images = tuple(f"image{rng.randrange(n_images)}" for _ in range(101))
    return EpochOrder(images=images, seed=3, **options)


@pytest.mark.parametrize("together", [1, 3, 8])
@pytest.mark.parametrize("by_length", [False, True])
def test_every_epoch_holds_every_record_once(together, by_length):
    lengths = tuple(range(101)) if by_length else None
    plan = order(together=together, lengths=lengths)
    epochs = [plan.epoch(n) for n in range(3)]
    assert all(sorted(epoch) == list(range(101)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[1] == plan.epoch(1)


def test_questions_of_an_image_stand_together():
    plan = order(together=4)
    images = [plan.images[i] for i in plan.epoch(0)]
    neighbours = sum(a == b for a, b in itertools.pairwise(images))
    assert neighbours > 101 * 0.6


def test_length_grouping_makes_batches_of_similar_length():
    rng = random.Random(1)
    lengths = tuple(rng.randrange(1000) for _ in range(101))
    images = tuple(str(i) for i in range(101))

    def spread(grouped):
        plan = EpochOrder(images, seed=0, lengths=lengths if grouped else None, batch_size=8)
        epoch = plan.epoch(0)
        batches = [epoch[i : i + 8] for i in range(0, 96, 8)]
        return sum(max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in batches)

    assert spread(True) < 0.5 * spread(False)


def test_stream_reaches_over_epochs_and_is_the_same_however_it_is_cut():
    stream = RecordStream(order())
    whole = stream[0:300]
    assert sorted(whole[:101]) == list(range(101))
    assert [i for start in range(0, 300, 20) for i in stream[start : start + 20]] == whole


@pytest.mark.parametrize("mode", MODES)
def test_supervised_tokens_are_exactly_the_assistants(records, processor, mode):
    """The text between ``assistant\\n`` and the end of the turn, and that end, and no more."""
    for record in records[:20]:
        batch = pack_records([record], processor, modes=(mode,), merge_size=2, max_length=4096)
        supervised = processor.tokenizer.decode(batch.target_ids.tolist())
        assert supervised == target_text(record, mode) + "<|im_end|>"
        whole = processor.tokenizer.decode(batch.input_ids[0].tolist())
        before, _, after = whole.partition(supervised)
        assert before.endswith("<|im_start|>assistant\n")
        assert record.question in before
        assert after == ""


def test_tokens_are_those_of_the_whole_chat(records, processor):
    """Cutting at the image's end changes no token: the pieces are the whole chat's tokens."""
    record = records[0]
    mode = "caption_reason_answer"
    batch = pack_records([record], processor, modes=(mode,), merge_size=2, max_length=4096)
    head, tail = processor.prompt_text(record.question, mode).split("<|image_pad|>")
    n_image_tokens = int((batch.input_ids[0] == processor.image_token_id).sum())
    chat = head + "<|image_pad|>" * n_image_tokens + tail + record.output + "<|im_end|>"
    assert batch.input_ids[0].tolist() == processor.encode(chat)


def test_sharing_changes_rows_but_not_the_loss(records, processor, base_model):
    same_image = [r for r in records if r.image == records[0].image]
    assert len(same_image) > 2
    packed = {
        share: pack_records(
            same_image, processor, modes=MODES, merge_size=2, max_length=4096, share=share
        )
        for share in (True, False)
    }
    assert len(packed[True].input_ids) == len(MODES)
    assert len(packed[False].input_ids) == len(MODES) * len(same_image)
    with torch.no_grad():
        losses = {s: token_logprobs(base_model, b).logprobs.sum() for s, b in packed.items()}
    torch.testing.assert_close(losses[True], losses[False], rtol=1e-5, atol=1e-3)


def test_too_long_a_record_is_named(records, processor):
    with pytest.raises(DataError, match="over max_length 50") as caught:
        pack_records(records[:1], processor, modes=MODES, merge_size=2, max_length=50)
    assert records[0].image in str(caught.value)


def test_targets_are_json_with_the_modes_keys(records):
    assert list(json.loads(target_text(records[0], "think_answer"))) == ["reasoning", "answer"]


def batches_of(records, processor, rank, world, micro_batch_size, accumulation=1, share=True):
    sizes = record_sizes(records, processor, ("think_answer",), 4096)
    return SftBatches(
        records, processor,
        RecordStream(EpochOrder(tuple(r.image for r in records), seed=3, together=4)),
        modes=("think_answer",), sizes=sizes, micro_batch_size=micro_batch_size,
        accumulation=accumulation, rank=rank, world_size=world, merge_size=2, max_length=4096,
        share=share, direct=False,
    )  # fmt: skip


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(
    ("world", "micro_batch_size", "accumulation"), [(1, 4, 4), (2, 2, 4), (4, 4, 1), (8, 1, 2)]
)
def test_ranks_share_the_records_of_a_step(
    world, micro_batch_size, accumulation, share, records, processor
):
    """Each once, whatever the split; and what a rank reports of its micro-batches is its own."""
    ranks = [
        batches_of(records, processor, rank, world, micro_batch_size, accumulation, share)
        for rank in range(world)
    ]
    alone = batches_of(records, processor, 0, 1, 16, share=share)
    for step in (0, 1, len(records) // 16):  # the last reaches over the end of the epoch
        parts = range(step * accumulation, (step + 1) * accumulation)
        taken = [rank.records_of(m) for rank in ranks for m in parts]
        assert all(taken)
        stepped = sorted(record.qid for part in taken for record in part)
        assert stepped == sorted(record.qid for record in alone.records_of(step))
        for rank in ranks:
            finite = [m % 3 > 0 for m in range(accumulation)]
            assert rank.suspects(step, finite) == [
                (r, fine) for m, fine in zip(parts, finite, strict=True) for r in rank.records_of(m)
            ]


def test_sizes_are_the_tokens_that_are_packed(records, processor):
    """Of all modes, with direct answers and without; of an image only the header is read."""
    chosen = [records[0], next(r for r in records if r.image != records[0].image)]
    for modes, direct in ((MODES, False), (MODES[:1], True)):
        for record, size in zip(
            chosen, record_sizes(chosen, processor, modes, 4096, direct=direct), strict=True
        ):
            batch = pack_records(
                [record], processor, modes=modes, merge_size=2, max_length=4096, direct=direct
            )
            assert size.shared + size.own == int((batch.group >= 0).sum())
            assert size.shared == int((batch.group == 0).sum())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_micro_batches_are_dealt_by_their_tokens(data):
    processes, accumulation, size = (data.draw(st.integers(1, n)) for n in (6, 3, 5))
    n = processes * accumulation * size
    rows = data.draw(st.lists(st.integers(0, n // 2), min_size=n, max_size=n))
    shared = data.draw(st.lists(st.integers(1, 400), min_size=n, max_size=n))
    own = data.draw(st.lists(st.integers(1, 300), min_size=n, max_size=n))
    sizes = [Size(shared[row], length) for row, length in zip(rows, own, strict=True)]

    def weight(places):
        lengths = {}
        for place in places:
            lengths[rows[place]] = lengths.get(rows[place], sizes[place].shared) + own[place]
        return len(lengths) * max(lengths.values())

    dealt = deal(rows, sizes, processes=processes, accumulation=accumulation)
    assert [len(part) for part in dealt] == [processes] * accumulation
    slots = [places for part in dealt for places in part]
    assert all(slots), "every process has something to compute, every time"
    assert sorted(place for places in slots for place in places) == list(range(n))
    plain = [range(start, start + size) for start in range(0, n, size)]
    heaviest = max(map(weight, slots))
    assert heaviest <= max(map(weight, plain))
    assert dealt == deal(rows, sizes, processes=processes, accumulation=accumulation)
    if processes * accumulation == 1:
        assert slots == [list(range(n))], "alone, nothing changes"


def test_what_is_parted_and_comes_together_again_is_one_row():
    """Seven records of one row, of which halves in one micro-batch would seem lighter than they
    are: packed, they are one row again."""
    rows, own = [0, 0, 0, 0, 3, 0, 0, 1, 0, 2], [1] * 8 + [2, 5]
    sizes = [Size(1, length) for length in own]
    ((first,), (second,)) = deal(rows, sizes, processes=1, accumulation=2)
    for places in (first, second):
        lengths = {row: 1 + sum(own[p] for p in places if rows[p] == row) for row in rows}
        named = {rows[p] for p in places}
        assert len(named) * max(lengths[row] for row in named) <= 18, "as they stand"


@pytest.mark.parametrize("world", [2, 4, 8])
def test_no_rank_waits_long_for_the_slowest(world):
    """Eleven questions an image, images of five sizes: the slowest rank computes less by a tenth
    at least than where records are dealt out as they stand."""
    rng = random.Random(1)
    images = [image for image in range(80) for _ in range(11)]
    trunk = [rng.choice((150, 210, 270, 330)) for _ in range(80)]
    sizes = [Size(trunk[image], rng.randrange(50, 120)) for image in images]
    stream = RecordStream(EpochOrder(tuple(map(str, images)), seed=0, together=11))
    before = after = 0
    for step in range(8):
        chosen = stream[step * 16 * world : (step + 1) * 16 * world]
        rows, own = [images[i] for i in chosen], [sizes[i] for i in chosen]

        def slowest(parts, rows=rows, own=own):
            loads = []
            for places in parts:
                runs = [
                    Run.of([p for p in places if rows[p] == row], own)
                    for row in dict.fromkeys(rows[p] for p in places)
                ]
                loads.append(load(runs))
            return max(loads)

        (dealt,) = deal(rows, own, processes=world, accumulation=1)
        before += slowest([range(r * 16, (r + 1) * 16) for r in range(world)])
        after += slowest(dealt)
    assert after < 0.9 * before
