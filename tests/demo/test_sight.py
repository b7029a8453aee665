"""The targets that teach the embedded model to see."""

import json

import numpy as np
import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration

from kit.data.phantom.dataset import draw_phantom, write_slake_phantoms
from kit.data.phantom.layout import Picture
from kit.data.prepare import PrepareConfig, prepare
from kit.data.records import read_sft_records
from kit.demo.sight import coverage, draw_lessons, places, record_of, soft_bins, teach_sight
from kit.model.tiny import tiny_config
from kit.prompting.answers import parse_answer


def test_coverage_by_counting_pixels():
    rng = np.random.default_rng()
    for _ in range(20):
        height, width = 60, 80
        x, y = int(rng.integers(0, 60)), int(rng.integers(0, 40))
        w, h = int(rng.integers(5, 81 - x)), int(rng.integers(5, 61 - y))
        pixels = np.zeros((height, width), np.uint8)
        pixels[y : y + h, x : x + w] = 1
        picture = Picture(pixels, "CT", "Abdomen", (("Liver", (x, y, w, h)),), None)
        counted = pixels.reshape(6, 10, 8, 10).mean(axis=(1, 3)).flatten()
        covered = coverage(picture, ["Heart", "Liver"], 6, 8)
        assert covered[:, 0].sum() == 0
        np.testing.assert_allclose(covered[:, 1].numpy(), counted, atol=1e-5)


def test_a_lesson_is_about_its_own_picture(processor):
    """Cells are the image tokens; the answers and places asked for are those of the picture."""
    lessons, labels = draw_lessons(processor, 6, seed=0)
    for number, lesson in enumerate(lessons):
        _, questions = draw_phantom(number, seed=0)
        assert lesson.coverage.shape == (lesson.image.n_tokens, len(labels))
        assert lesson.places.shape == (lesson.image.n_tokens, 6)
        assert 0 <= lesson.coverage.min() <= lesson.coverage.max() <= 1
        assert lesson.coverage.sum() > 0
        targets = [branch.input_ids[branch.is_target].tolist() for branch in lesson.branches]
        *said, full, places = [processor.decode(ids) for ids in targets]
        assert said == [f'{q.answer}"}}' for q in questions]
        assert parse_answer(full).valid_json
        assert parse_answer(full).answer in {q.answer for q in questions}
        assert all(len(box) == 4 for box in json.loads(places.removesuffix("}")))
    assert len({lesson.image.key for lesson in lessons}) == len(lessons)


def test_records_are_those_that_the_reader_makes(tmp_path):
    """Of the same phantoms, written in the SLAKE layout and prepared."""
    write_slake_phantoms(tmp_path / "S", images={"train": 5}, seed=7)
    settings = {"dataset": "SLAKE", "split": "train", "leaks": "keep"}
    output = tmp_path / "out.json"
    prepare(PrepareConfig(output=str(output), slake_root=str(tmp_path / "S"), **settings))
    made = {(r.question, r.output) for r in read_sft_records(output)[0]}
    drawn = [draw_phantom(number, seed=7) for number in range(5)]
    own = {(q.question, record_of(p, q).output) for p, asked in drawn for q in asked}
    assert own == made


def test_a_cell_tells_the_box_of_the_smallest_thing_on_it():
    pixels = np.zeros((60, 80), np.uint8)
    boxes = (("Brain", (0, 0, 60, 60)), ("Tumor", (20, 30, 20, 10)))
    picture = Picture(pixels, "MRI", "Brain", boxes, None)
    found = places(picture, rows=6, columns=8).reshape(6, 8, 6)
    assert found[3, 2].tolist() == pytest.approx([2.5 / 8, 3.5 / 6, 0.25, 0.5, 0.5, 4 / 6])
    assert found[0, 0].tolist() == pytest.approx([0.5 / 8, 0.5 / 6, 0, 0, 0.75, 1])
    assert found[0, 7, 2:].isnan().all()


def test_soft_bins_hold_the_number():
    values = torch.rand(100)
    bins = soft_bins(values)
    middles = (torch.arange(bins.shape[1]) + 0.5) / bins.shape[1]
    inside = (values > middles[0]) & (values < middles[-1])
    torch.testing.assert_close((bins @ middles)[inside], values[inside])
    torch.testing.assert_close(bins.sum(dim=1), torch.ones(100))


@pytest.mark.slow
def test_teaching_lowers_every_loss(processor):
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(tiny_config(processor.tokenizer))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    options = {"pictures": 16, "steps": 16, "batch_size": 8}
    losses = teach_sight(model, processor, **options)
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])
    assert not any(torch.equal(p, before[name]) for name, p in model.named_parameters())
