"""EpochOrder of records, supervised tokens, and sharing an image's pass."""

import itertools
import json
import random

import pytest
import torch

from kit.data.records import read_sft_records
from kit.errors import DataError
from kit.model.logprobs import token_logprobs
from kit.prompting.messages import MODES, target_text
from kit.train.data import EpochOrder, RecordStream, SftBatches, pack_records


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
    head, tail = processor.split_prompt(record.question, mode)
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


def batches_of(records, processor, rank, world, micro_batch_size):
    return SftBatches(
        records, processor, RecordStream(EpochOrder(tuple(r.image for r in records), seed=3)),
        modes=("think_answer",), micro_batch_size=micro_batch_size, rank=rank, world_size=world,
        merge_size=2, max_length=4096, share=True, direct=False,
    )  # fmt: skip


@pytest.mark.parametrize(("world", "micro_batch_size"), [(1, 4), (2, 2), (4, 1), (2, 1)])
def test_ranks_share_the_records_of_a_step(world, micro_batch_size, records, processor):
    ranks = [batches_of(records, processor, r, world, micro_batch_size) for r in range(world)]
    n = 16 // (world * micro_batch_size)
    taken = [record.qid for m in range(n) for rank in ranks for record in rank.records_of(m)]
    alone = batches_of(records, processor, 0, 1, 16)
    assert taken == [record.qid for record in alone.records_of(0)]
    assert len(set(taken)) == 16
