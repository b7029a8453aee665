"""Asking one question after the other, and many at once."""

import pytest

from kit.counterfactual.images import ImageCache
from kit.data.records import read_sft_records
from kit.evaluate.answering import Predictor
from kit.model.sampler import question_prompt
from kit.prompting.messages import MODES


@pytest.fixture(scope="module")
def records(prepared):
    return read_sft_records(prepared["test"])[0][:6]


def predictor_of(base_model, processor, batch_size):
    return Predictor(base_model, ImageCache(processor), max_new_tokens=40, batch_size=batch_size)


@pytest.mark.slow
def test_answers_are_those_of_single_questions(base_model, processor, records):
    """With and without an image, in both modes, in any order and batch."""
    predictors = [predictor_of(base_model, processor, size) for size in (2, 5, 64)]
    requests = [
        (image, record.question, mode)
        for record in records
        for image in (predictors[0].image_cache.prepared(record.image), None)
        for mode in MODES
    ]
    alone = []
    for image, question, mode in requests:
        prompt = question_prompt(processor, image, [question], mode)
        ((completion,),) = predictors[0].complete([prompt])
        alone.append(predictors[0].parse(completion, mode).answer)
    assert len(set(alone)) > 6
    for predictor in predictors:
        assert predictor.answers(requests[::-1])[::-1] == alone, predictor.batch_size


def test_equal_questions_are_asked_once(base_model, processor, records, monkeypatch):
    predictor = predictor_of(base_model, processor, 2)
    asked = []
    complete = Predictor.complete

    def counted(self, prompts):
        asked.extend(q for prompt in prompts for q in prompt.continuations)
        return complete(self, prompts)

    monkeypatch.setattr(Predictor, "complete", counted)
    image = predictor.image_cache.prepared(records[0].image)
    said = predictor.answers([(image, records[0].question, MODES[1])] * 3)
    assert len(asked) == 1
    assert len(set(said)) == 1
