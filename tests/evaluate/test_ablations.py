"""What stands in the place of an image, and that answers to it are told apart rightly."""

import dataclasses

import numpy as np
import pytest

from kit.counterfactual.images import ImageCache
from kit.data.records import read_sft_records
from kit.evaluate.ablations import ABLATIONS, measure_ablations, other_images
from kit.evaluate.answering import Answer, Predictor
from kit.prompting.answers import parse_answer

MODE = "think_answer"


@pytest.fixture(scope="module")
def records(prepared):
    return read_sft_records(prepared["test"])[0]


@pytest.mark.parametrize("seed", range(3))
def test_each_image_is_exchanged_for_another_one(seed, records):
    partners = other_images(records, seed)
    images = {record.image for record in records}
    assert partners.keys() == images
    assert all(own != other for own, other in partners.items())
    assert partners == other_images(records, seed)


def test_images_are_exchanged_within_their_dataset(records):
    images = list(dict.fromkeys(record.image for record in records))
    assert len(images) >= 4
    named = [
        dataclasses.replace(r, dataset="A" if r.image in images[:-1] else "B") for r in records
    ]
    partners = other_images(named, 0)
    assert partners.keys() == {*images[:-1]}  # the only one of B has no other


def test_images_are_exchanged_for_their_like_where_there_is_one(records):
    """By modality and location, else by modality, else by dataset."""
    kinds = [("CT", "Lung"), ("CT", "Lung"), ("CT", "Abdomen"), ("MRI", "Brain"), ("CT", "Lung")]
    named = [
        dataclasses.replace(records[0], image=str(n), modality=modality, location=location)
        for n, (modality, location) in enumerate(kinds)
    ]
    partners = other_images(named, 0)
    assert {partners[n] for n in "014"} == {*"014"}
    assert partners["2"] in "014"
    assert partners["3"] in "0124"
    assert all(own != other for own, other in partners.items())


def test_answers_by_what_was_shown(records, base_model, processor, monkeypatch):
    """A stub says what it was shown."""
    predictor = Predictor(base_model, ImageCache(processor), max_new_tokens=8, batch_size=4)
    partners = other_images(records, 0)

    def stub(self, asks):
        said = []
        for image, _, _ in asks:
            if image is None:
                said.append("nothing")
            elif float((image.pixel_values - image.pixel_values[:1]).abs().max()) == 0:
                said.append("grey")  # all patches alike
            else:
                said.append(f"picture of {image.key}")
        return said

    monkeypatch.setattr(Predictor, "answers", stub)
    answer = '{"reasoning": [], "answer": "grey"}'
    answers = [Answer(r, MODE, parse_answer(answer)) for r in records[:5]]
    for item, found in zip(answers, measure_ablations(predictor, answers, partners), strict=True):
        assert set(found) == set(ABLATIONS)
        assert found["blank"] | {"exact": 0} == {"answer": "grey", "changed": 0.0, "exact": 0}
        assert found["question_only"]["answer"] == "nothing"
        assert found["question_only"]["changed"] == 1.0
        other = partners[item.record.image]
        shown = predictor.image_cache.prepared(other)
        assert found["shuffled"]["answer"] == f"picture of {shown.key}"
        assert found["shuffled"]["image"] == other


def test_a_blank_image_has_the_size_of_the_image(records, processor):
    from kit.evaluate.ablations import blank

    predictor = Predictor(None, ImageCache(processor), max_new_tokens=8, batch_size=4)
    for record in records[:4]:
        shown = predictor.image_cache.prepared(record.image)
        assert np.array_equal(blank(predictor, record.image).image_grid_thw, shown.image_grid_thw)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_no_image_is_exchanged_for_itself_however_many_there_are(count, records):
    few = [dataclasses.replace(records[0], image=f"{number}.png") for number in range(count)]
    partners = other_images(few, 0)
    assert sorted(partners) == sorted(partners.values()) == sorted(r.image for r in few)
    assert all(own != other for own, other in partners.items())
