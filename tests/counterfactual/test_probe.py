"""The probe against asking transformers one image at a time."""

import json

import pytest
import torch

from kit.counterfactual.images import ImageCache
from kit.counterfactual.probe import MODE, Case, probe
from kit.data.records import read_sft_records
from kit.model import vision
from kit.model.adapters import add_lora


@pytest.fixture
def cases(prepared):
    """Cases of two images, among them the same claim twice and one without a match."""
    records, _ = read_sft_records(prepared["test"])
    images = list(dict.fromkeys(record.image for record in records))[:2]
    chosen = [r for r in records if r.image in images][:6]
    made = []
    for number, record in enumerate(chosen):
        evidence = ((20 + 9 * (number // 2), 30, 60 + number, 80),)
        others = tuple(((60 + 9 * draw, 50, 100 + number, 100),) for draw in (0, 1))
        made.append(Case(record.image, record.question, record.answer, evidence, others))
    made.append(
        Case(chosen[0].image, chosen[0].question, "a long wrong answer", ((0, 0, 9, 9),), ())
    )
    return [*made, made[0]]


def alone(model, processor, image, question, answer) -> float:
    """One image, one question, transformers' own forward."""
    trunk = processor.encode_trunk(image, MODE)
    context, target = processor.encode_direct(question, MODE, answer)
    ids = torch.cat([trunk.input_ids, torch.tensor([*context, *target])])[None]
    logits = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == processor.image_token_id).int(),
        pixel_values=trunk.pixel_values,
        image_grid_thw=trunk.image_grid_thw,
    ).logits[0, -len(target) - 1 : -1]
    return logits.log_softmax(-1)[range(len(target)), target].mean().exp().item()


@torch.no_grad()
def test_equals_one_image_at_a_time(base_model, processor, cases):
    image_cache = ImageCache(processor)
    effects = probe(base_model, image_cache, cases, batch_size=3)
    for case, effect in zip(cases, effects, strict=True):

        def chance(without, case=case):
            image = image_cache.prepared(case.image, without)
            return alone(base_model, processor, image, case.question, case.answer)

        assert effect.original == pytest.approx(chance(()), abs=1e-5)
        assert effect.without_evidence == pytest.approx(chance(case.evidence), abs=1e-5)
        assert effect.without_controls == pytest.approx(
            [chance(r) for r in case.controls], abs=1e-5
        )
    assert effects[-2].delta_rand is None
    assert effects[-1] == effects[0]


def test_no_image_passes_the_vision_tower_twice(base_model, processor, cases, monkeypatch):
    seen = []
    run = vision._run

    def counted(model, pixel_values, grids_I3):
        seen.append(len(grids_I3))
        return run(model, pixel_values, grids_I3)

    monkeypatch.setattr(vision, "_run", counted)
    monkeypatch.setattr(vision, "_CACHES", {})
    base_model.requires_grad_(False)
    probe(base_model, ImageCache(processor), cases, batch_size=4)
    distinct = {(c.image, w) for c in cases for w in ((), c.evidence, *c.controls)}
    assert sum(seen) == len(distinct) < sum(2 + len(case.controls) for case in cases)


def test_leaves_no_gradient_and_the_model_as_it_was(fresh_model, processor, cases):
    model = add_lora(fresh_model, r=2, alpha=2, dropout=0.0, freeze_vision_tower=False).train()
    probe(model, ImageCache(processor), cases[:2])
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_the_direct_answer_is_json_with_the_answer(processor):
    context, target = processor.encode_direct("What?", MODE, 'a "quoted" é')
    text = processor.decode([*context, *target])
    assert json.loads(text[text.index("{") :]) == {"answer": 'a "quoted" é'}
