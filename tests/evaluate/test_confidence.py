"""Confidences against what they are said to be, worked out one by one."""

import math

import pytest

from kit.counterfactual.images import ImageCache
from kit.data.records import read_sft_records
from kit.evaluate.answering import Answer, Predictor
from kit.evaluate.confidence import measure_confidences
from kit.model.logprobs import token_logprobs
from kit.model.sampler import Sampling, generate, question_prompt, seeded_noise
from kit.model.sharing import Branch, Tree, pack
from kit.prompting.answers import parse_answer, same_answer
from kit.prompting.messages import MODES
from kit.scoring.consistency import Consistency

SAMPLES = 3


@pytest.fixture(scope="module")
def predictor(base_model, processor):
    return Predictor(base_model, ImageCache(processor), max_new_tokens=40, batch_size=4)


@pytest.fixture(scope="module")
def answers(prepared):
    text = '{"caption": "CT of the abdomen with a large liver.", "reasoning": [], "answer": "Yes"}'
    silent = '{"caption": "", "reasoning": [], "answer": "No"}'
    records = read_sft_records(prepared["test"])[0][:5]
    return [
        Answer(record, MODES[n % 2], parse_answer(silent if n == 3 else text))
        for n, record in enumerate(records)
    ]


@pytest.fixture(scope="module")
def found(predictor, answers):
    return measure_confidences(
        predictor, answers, consistency=Consistency(), num_samples=SAMPLES, temperature=0.8, seed=1
    )


def test_answer_probability_is_that_of_the_answer_given_at_once(found, predictor, answers):
    for one, item in zip(found, answers, strict=True):
        processor, record = predictor.processor, item.record
        trunk = processor.encode_trunk(predictor.image_cache.prepared(record.image), MODES[1])
        branch = Branch.of(*processor.encode_direct(record.question, MODES[1], item.parsed.answer))
        batch = pack([Tree(trunk, (branch,))], merge_size=processor.image_processor.merge_size)
        logprobs = token_logprobs(predictor.model, batch).logprobs
        assert one["answer_probability"] == pytest.approx(
            math.exp(logprobs.detach().mean()), abs=1e-5
        )


def test_consistency_is_the_cosine_where_there_is_a_caption(found, answers):
    encoder = Consistency().encoder
    for one, item in zip(found, answers, strict=True):
        if item.mode == MODES[0]:
            assert "consistency" not in one
        elif not item.parsed.caption:
            assert one["consistency"] == -1
        else:
            caption, question = encoder.encode([item.parsed.caption, item.record.question])
            cosine = float(encoder.similarity(caption, question))
            assert one["consistency"] == pytest.approx(cosine, abs=1e-5)


@pytest.mark.slow
def test_self_consistency_is_the_share_of_samples_that_agree(found, predictor, answers):
    for one, item in zip(found, answers, strict=True):
        record = item.record
        agreeing = 0
        for number in range(SAMPLES):
            name = (1, record.dataset, record.qid, record.question, item.mode, number)
            image = predictor.image_cache.prepared(record.image)
            ((completion,),) = generate(
                predictor.model,
                [question_prompt(predictor.processor, image, [record.question], item.mode)],
                Sampling(predictor.max_new_tokens, 0.8),
                end_id=predictor.processor.end_of_turn_id,
                unsampled_ids=predictor.processor.unsampled_ids,
                noise=seeded_noise([name], predictor.max_new_tokens),
            )
            said = predictor.parse(completion, item.mode).answer
            agreeing += same_answer(said, item.parsed.answer)
        assert one["self_consistency"] == agreeing / SAMPLES


def test_nothing_is_sampled_or_compared_unless_wanted(predictor, answers):
    found = measure_confidences(
        predictor, answers[:2], consistency=None, num_samples=0, temperature=1.0, seed=0
    )
    assert [set(one) for one in found] == [{"answer_probability"}] * 2
