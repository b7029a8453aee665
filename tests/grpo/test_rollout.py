"""Groups of completions: greedy ones are generate's, and sharing the prompt changes nothing."""

import pytest
import torch

from kit.counterfactual.images import ImageCache
from kit.data.grpo_records import read_grpo_records
from kit.grpo.rollout import MODE, Task, roll_out
from kit.model.adapters import add_lora
from kit.model.logprobs import token_logprobs
from kit.model.sampler import Sampling
from kit.model.sharing import pack


@pytest.fixture
def tasks(prepared):
    """Prompts of different lengths on images of different sizes."""
    records, _ = read_grpo_records(prepared["train"])
    by_image = {record.image: record for record in records}
    return [Task(place, record) for place, record in enumerate(by_image.values())][:3]


def test_greedy_rollouts_equal_transformers_generate(base_model, processor, tasks):
    image_cache = ImageCache(processor)
    groups = roll_out(
        base_model, image_cache, tasks, Sampling(max_new_tokens=40), num_generations=2, seed=0
    )
    for task, group in zip(tasks, groups, strict=True):
        trunk = processor.encode_trunk(image_cache.prepared(task.record.image), MODE)
        question = torch.tensor(processor.encode_question(task.record.question, MODE))
        ids = torch.cat([trunk.input_ids, question])[None]
        reference = base_model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=trunk.pixel_values,
            image_grid_thw=trunk.image_grid_thw,
            mm_token_type_ids=(ids == processor.image_token_id).int(),
            do_sample=False,
            max_new_tokens=40,
            suppress_tokens=processor.unsampled_ids,
        )
        expected = tuple(reference[0, ids.shape[1] :].tolist())
        assert [completion.token_ids for completion in group.completions] == [expected] * 2


@pytest.mark.parametrize(
    ("num_generations", "checkpointing"),
    [(2, False), pytest.param(8, True, marks=pytest.mark.slow)],
)
def test_a_shared_prompt_equals_repeated_prompts(
    exact_model, processor, tasks, num_generations, checkpointing
):
    """Log-probabilities to 1e-5 and every LoRA gradient to 1e-5 relative, against transformers'
    own forward with the prompt repeated for each completion."""
    model = add_lora(exact_model, r=4, alpha=8, dropout=0.0, freeze_vision_tower=False)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    sampling = Sampling(max_new_tokens=30, temperature=1.0)
    groups = roll_out(
        model, ImageCache(processor), tasks, sampling, num_generations=num_generations, seed=5
    )
    n = sum(len(c.token_ids) for group in groups for c in group.completions)
    weights = torch.randn(n, dtype=torch.float64)

    def gradients(logprobs):
        model.zero_grad()
        (logprobs * weights).sum().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}

    shared = token_logprobs(model, pack([g.tree() for g in groups], merge_size=2)).logprobs
    own = gradients(shared)
    repeated = torch.cat(
        [alone(model, processor, g.trunk, c) for g in groups for c in g.completions]
    )
    expected = gradients(repeated)
    torch.testing.assert_close(shared, repeated, atol=1e-5, rtol=0)
    for name, gradient in expected.items():
        assert gradient.norm() > 0, name
        assert (own[name] - gradient).norm() / gradient.norm() < 1e-5, name
    sampled = torch.tensor([p for g in groups for c in g.completions for p in c.logprobs])
    at_temperature = token_logprobs(
        model, pack([g.tree() for g in groups], merge_size=2), temperature=1.0
    )
    torch.testing.assert_close(sampled, at_temperature.logprobs.detach().float(), atol=1e-4, rtol=0)


def alone(model, processor, trunk, completion):
    """One completion behind its own copy of the prompt."""
    ids = torch.cat([trunk.input_ids, torch.tensor(completion.token_ids)])[None]
    logits = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == processor.image_token_id).int(),
        pixel_values=trunk.pixel_values,
        image_grid_thw=trunk.image_grid_thw,
        use_cache=False,
    ).logits[0]
    logprobs = logits.log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
    return logprobs[len(trunk) - 1 :]


def test_a_rollout_does_not_depend_on_its_neighbours(base_model, processor, tasks):
    sampling = Sampling(max_new_tokens=25, temperature=1.0)

    def roll(chosen, **more):
        return roll_out(
            base_model, ImageCache(processor), chosen, sampling, num_generations=3, seed=1, **more
        )

    together = roll(tasks)
    for task, group in zip(tasks, together, strict=True):
        (own,) = roll([task])
        assert [c.token_ids for c in own.completions] == [c.token_ids for c in group.completions]
    again = roll(tasks, attempt=1)
    assert [c.token_ids for c in again[0].completions] != [
        c.token_ids for c in together[0].completions
    ]


def test_a_record_that_comes_again_is_sampled_anew(base_model, processor, tasks):
    """In the next epoch, at another place, and by another number in its group."""
    record = tasks[0].record
    groups = roll_out(
        base_model,
        ImageCache(processor),
        [Task(0, record), Task(7, record)],
        Sampling(max_new_tokens=25, temperature=1.5),
        num_generations=3,
        seed=1,
    )
    first, again = ([c.token_ids for c in group.completions] for group in groups)
    assert all(one != other for one, other in zip(first, again, strict=True))
    assert len(set(first)) == 3
