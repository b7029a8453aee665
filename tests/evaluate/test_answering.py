"""Asking one question after the other, and many at once."""

import pytest

from kit.counterfactual.gallery import Gallery
from kit.data.records import read_sft_records
from kit.evaluate.answering import Asker
from kit.model.generation import question_prompt
from kit.prompting.messages import MODES


@pytest.fixture(scope="module")
def records(prepared):
    return read_sft_records(prepared["test"])[0][:6]


def asker_of(base_model, processor, batch_size):
    return Asker(base_model, Gallery(processor), max_new_tokens=40, batch_size=batch_size)


@pytest.mark.parametrize("batch_size", [2, 5, 64])
def test_answers_are_those_of_single_questions(batch_size, base_model, processor, records):
    """With and without an image, in both modes, in any order and batch."""
    asker = asker_of(base_model, processor, batch_size)
    asks = [
        (image, record.question, mode)
        for record in records
        for image in (asker.gallery.prepared(record.image), None)
        for mode in MODES
    ]
    together = asker.answers(asks[::-1])[::-1]
    for (image, question, mode), said in zip(asks, together, strict=True):
        prompt = question_prompt(processor, image, [question], mode)
        ((completion,),) = asker.complete([prompt])
        assert asker.parse(completion, mode).answer == said


def test_equal_questions_are_asked_once(base_model, processor, records, monkeypatch):
    asker = asker_of(base_model, processor, 2)
    asked = []
    complete = Asker.complete

    def counted(self, prompts):
        asked.extend(q for prompt in prompts for q in prompt.continuations)
        return complete(self, prompts)

    monkeypatch.setattr(Asker, "complete", counted)
    image = asker.gallery.prepared(records[0].image)
    said = asker.answers([(image, records[0].question, MODES[1])] * 3)
    assert len(asked) == 1
    assert len(set(said)) == 1
