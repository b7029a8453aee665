"""Greedy decoding equals transformers' generate token for token; sampling keeps its promises."""

import math
from collections import Counter

import pytest
import torch
from families import NAMELESS
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from kit.model.adapters import add_lora
from kit.model.decoding import Sampling
from kit.model.load import load_base, load_processor
from kit.model.logprobs import token_logprobs
from kit.model.merged import sampling_weights
from kit.model.processor import PreparedImage
from kit.model.sampler import Prompt, generate, seeded_noise
from kit.model.sharing import Branch, Tree, pack

MODE = "caption_reason_answer"
SEEDS = [(3, number) for number in range(6)]  # of the continuations of the prompts below


@pytest.fixture
def prompts(processor):
    return prompts_of(processor)


def prompts_of(processor):
    """The second one shows two images, one of which is the first one's."""
    questions = ["Where is the nodule?", "Is it there?", "What?"]
    asked = [tuple(processor.encode_question(q, MODE)) for q in questions]
    first, second, third = (
        processor.prepare_image(Image.effect_noise(size, 60).convert("RGB"))
        for size in ((200, 180), (90, 220), (64, 64))
    )
    return [
        Prompt(processor.encode_trunk(PreparedImage.together(shown), MODE), tuple(asked[:n]))
        for shown, n in (([first], 3), ([first, second], 2), ([third], 1))
    ]


def run(model, processor, prompts, sampling, **more):
    return generate(
        model,
        prompts,
        sampling,
        end_id=processor.end_of_turn_id,
        unsampled_ids=processor.unsampled_ids,
        **more,
    )


def test_greedy_equals_transformers_generate(base_model, processor):
    require_the_texts_of_generate(base_model, processor)


def test_greedy_equals_transformers_generate_in_each_family(exact):
    require_the_texts_of_generate(exact.model.eval(), exact.processor)


def require_the_texts_of_generate(model, processor):
    prompts = prompts_of(processor)
    own = run(model, processor, prompts, Sampling(max_new_tokens=48))
    assert len({c.token_ids for group in own for c in group}) > 3
    for prompt, completions in zip(prompts, own, strict=True):
        for continuation, completion in zip(prompt.continuations, completions, strict=True):
            ids = torch.cat([prompt.trunk.input_ids, torch.tensor(continuation)])[None]
            reference = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=prompt.trunk.pixel_values,
                image_grid_thw=prompt.trunk.image_grid_thw,
                mm_token_type_ids=(ids == processor.image_token_id).int(),
                do_sample=False,
                max_new_tokens=48,
                suppress_tokens=processor.unsampled_ids,
            )
            assert completion.token_ids == tuple(reference[0, ids.shape[1] :].tolist())


def test_sampled_logprobs_are_the_trainers(family):
    """What the sampler says of its tokens is what token_logprobs says of them."""
    base_model, processor = load_base(family).eval(), load_processor(family)
    prompts = prompts_of(processor)
    sampling = Sampling(max_new_tokens=20, temperature=0.7)
    own = run(base_model, processor, prompts, sampling, noise=seeded_noise(SEEDS, 20))
    trees = [
        Tree(
            p.trunk,
            tuple(Branch.of(c, d.token_ids) for c, d in zip(p.continuations, done, strict=True)),
        )
        for p, done in zip(prompts, own, strict=True)
    ]
    scored = token_logprobs(base_model, pack(trees, merge_size=2), temperature=0.7)
    sampled = torch.tensor([v for done in own for completion in done for v in completion.logprobs])
    torch.testing.assert_close(scored.logprobs, sampled, atol=1e-4, rtol=0)


def test_special_tokens_are_never_sampled(fresh_model, processor, prompts):
    """Even when the model wants nothing else, which counts in the log-probabilities."""
    with torch.no_grad():
        embedding = fresh_model.lm_head.weight
        embedding[processor.image_token_id] = embedding.mean(0) + 100
    sampling = Sampling(max_new_tokens=30, temperature=1.5)
    for group in run(fresh_model, processor, prompts, sampling, noise=seeded_noise(SEEDS, 30)):
        for completion in group:
            assert not set(completion.token_ids) & set(processor.unsampled_ids)
            assert min(completion.logprobs) < -30


def test_same_seed_same_samples_and_empty_continuations(base_model, processor, prompts):
    whole = [
        Prompt(p.trunk, ((),) * 3) for p in prompts
    ]  # a group of completions of the very same prompt
    sampling = Sampling(max_new_tokens=12, temperature=1.0, top_p=0.9, top_k=50)

    def draw(seed):
        noise = seeded_noise([(seed, i) for i in range(9)], 12)
        return run(base_model, processor, whole, sampling, noise=noise)

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_a_completion_does_not_depend_on_what_is_sampled_beside_it(base_model, processor, prompts):
    sampling = Sampling(max_new_tokens=24, temperature=1.0, top_p=0.95)
    noise = seeded_noise(SEEDS, 24)
    together = run(base_model, processor, prompts, sampling, noise=noise)
    rows = iter(noise)
    for prompt, expected in zip(prompts, together, strict=True):
        for continuation, completion in zip(prompt.continuations, expected, strict=True):
            alone = Prompt(prompt.trunk, (continuation,))
            own = run(base_model, processor, [alone], sampling, noise=next(rows)[None])
            assert own[0][0].token_ids == completion.token_ids


@pytest.mark.slow
def test_sampling_follows_the_distribution(base_model, processor, prompts):
    """First tokens of many samples against the model's own probabilities; with top-k none but
    the k likeliest."""
    n = 4000
    many = [Prompt(prompts[0].trunk, prompts[0].continuations[:1] * n)]
    plain = Sampling(max_new_tokens=1, temperature=2.0)
    noise = torch.rand(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (drawn,) = run(base_model, processor, many, plain, noise=noise)
    counts = Counter(completion.token_ids[0] for completion in drawn)
    chance = {c.token_ids[0]: math.exp(c.logprobs[0]) for c in drawn}
    for token, count in counts.items():
        deviation = math.sqrt(n * chance[token] * (1 - chance[token]))
        assert abs(count - n * chance[token]) < 5 * deviation + 5
    cut = Sampling(max_new_tokens=1, temperature=2.0, top_k=3)
    (drawn,) = run(base_model, processor, many, cut, noise=noise)
    likeliest = sorted(chance, key=chance.get)[-3:]
    assert {completion.token_ids[0] for completion in drawn} == set(likeliest)


def test_training_mode_is_restored(fresh_model, processor, prompts):
    for training in (True, False):
        fresh_model.train(training)
        run(fresh_model, processor, prompts[:1], Sampling(max_new_tokens=2))
        assert fresh_model.training == training


def test_special_tokens_are_never_greedily_chosen(fresh_model, processor, prompts):
    with torch.no_grad():
        embedding = fresh_model.lm_head.weight
        embedding[processor.image_token_id] = embedding.mean(0) + 100
    for group in run(fresh_model, processor, prompts, Sampling(max_new_tokens=8)):
        for completion in group:
            assert not set(completion.token_ids) & set(processor.unsampled_ids)


def test_of_the_special_tokens_the_end_of_the_turn_alone_may_be_chosen(processor):
    names = ["<|endoftext|>", "<|im_start|>", "<|vision_start|>", "<|image_pad|>", "<|video_pad|>"]
    special = set(processor.tokenizer.convert_tokens_to_ids(names))
    assert special <= set(processor.unsampled_ids)
    assert processor.tokenizer.convert_tokens_to_ids("<|im_end|>") not in processor.unsampled_ids


def test_a_row_of_the_head_without_a_token_is_never_chosen(family):
    """Those that a hub's model has beyond its tokenizer's last word."""
    model, processor = load_base(family), load_processor(family)
    words = len(processor.tokenizer)
    assert model.lm_head.weight.shape[0] == words + NAMELESS
    assert set(range(words, words + NAMELESS)) < set(processor.unsampled_ids)


def test_the_likeliest_of_one_is_the_greedy_choice(base_model, processor, prompts):
    greedy = run(base_model, processor, prompts, Sampling(max_new_tokens=6))
    noise = seeded_noise(SEEDS, 6)
    for cut in ({"top_k": 1}, {"top_p": 1e-6}):
        sampling = Sampling(max_new_tokens=6, temperature=3.0, **cut)
        drawn = run(base_model, processor, prompts, sampling, noise=noise)
        assert [[c.token_ids for c in group] for group in drawn] == [
            [c.token_ids for c in group] for group in greedy
        ]


def test_an_end_with_the_last_token_is_an_end(base_model, processor, prompts):
    """Some token of a completion is declared to end it."""
    alone = [Prompt(prompts[0].trunk, prompts[0].continuations[:1])]
    ((whole,),) = run(base_model, processor, alone, Sampling(max_new_tokens=8))
    end = whole.token_ids[5]
    place = whole.token_ids.index(end)
    for length, truncated in ((place, True), (place + 1, False), (place + 2, False)):
        sampling = Sampling(max_new_tokens=length)
        ((cut,),) = generate(base_model, alone, sampling, end_id=end, unsampled_ids=())
        assert cut.truncated == truncated
        assert cut.token_ids == whole.token_ids[: min(length, place + 1)]


def test_rows_that_go_on_keep_their_own_noise(base_model, processor, prompts):
    """Two rows of three end early and leave the batch."""
    trunk, question = prompts[0].trunk, prompts[0].continuations[0]
    sampling = Sampling(max_new_tokens=16, temperature=1.5)
    noise = seeded_noise([(1,), (1,), (2,)], 16)
    together = [Prompt(trunk, (question,) * 3)]
    (free,) = run(base_model, processor, together, sampling, noise=noise)
    end = next(t for t in free[0].token_ids if t not in free[2].token_ids)

    def ending(prompt, noise):
        (done,) = generate(
            base_model, [prompt], sampling, end_id=end, unsampled_ids=processor.unsampled_ids,
            noise=noise,
        )  # fmt: skip
        return done

    first, second, third = ending(together[0], noise)
    assert first == second
    assert len(first.token_ids) < len(third.token_ids) == 16
    assert third.token_ids == ending(Prompt(trunk, (question,)), noise[2:])[0].token_ids


@pytest.mark.parametrize("max_rows", [1, 3, 4])
def test_rows_that_end_make_room_for_others(base_model, processor, prompts, max_rows):
    """The same completions as of all at once; of the second prompt's two, one follows late."""
    sampling = Sampling(max_new_tokens=20, temperature=1.2)
    together = [*prompts, *prompts[1:]]
    noise = seeded_noise([(place,) for place in range(9)], 20)

    def tokens(end, **more):
        found = generate(
            base_model, together, sampling, end_id=end, unsampled_ids=processor.unsampled_ids,
            noise=noise, **more,
        )  # fmt: skip
        return [[c.token_ids for c in group] for group in found]

    free = tokens(-1)
    whole = [ids for group in free for ids in group]

    def lengths(end):
        return {[*ids, end].index(end) for ids in whole}

    end = max(sorted({token for ids in whole for token in ids}), key=lambda t: len(lengths(t)))
    assert len(lengths(end)) > 3
    cut = [[ids[: [*ids, end].index(end) + 1] for ids in group] for group in free]
    assert tokens(end, max_rows=max_rows) == cut


class HostReads(TorchDispatchMode):
    """Counts what a host has to wait for on a GPU: values that leave their tensor."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket in (
            torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.is_nonzero,
        )  # fmt: skip
        return function(*args, **(kwargs or {}))


def test_the_host_reads_once_in_eight_tokens(base_model, processor, prompts, monkeypatch):
    """``Tensor.tolist`` does not pass the dispatcher on a CPU, and is counted by itself."""
    lists = []
    real = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: lists.append(1) or real(self))

    def reads(length):
        lists.clear()
        sampling = Sampling(length, temperature=1.0)
        with HostReads() as mode:
            noise = seeded_noise(SEEDS, length)
            generate(
                base_model, prompts, sampling, end_id=-1, noise=noise,
                unsampled_ids=processor.unsampled_ids,
            )  # fmt: skip
        return mode.count + len(lists)

    reads(1)  # from now on the features of the images are there
    assert reads(80) - reads(16) <= (80 - 16) / 8


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_sampling_weights_sample_the_same(family, quantization):
    """And leaves the layers as they were; switched off, it is the base."""
    processor = load_processor(family)
    prompts = prompts_of(processor)
    model = add_lora(
        load_base(family, quantization=quantization), r=4, alpha=8, dropout=0.0,
        freeze_vision_tower=False,
    ).eval()  # fmt: skip
    base = run(model, processor, prompts, Sampling(max_new_tokens=16))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    sampling = Sampling(max_new_tokens=16, temperature=1.0)
    noise = seeded_noise(SEEDS, 16)
    plain = run(model, processor, prompts, sampling, noise=noise)
    with sampling_weights(model):
        merged = run(model, processor, prompts, sampling, noise=noise)
    with model.disable_adapter(), sampling_weights(model):
        off = run(model, processor, prompts, Sampling(max_new_tokens=16))
    for group, others in zip([*merged, *off], [*plain, *base], strict=True):
        for ours, theirs in zip(group, others, strict=True):
            assert ours.token_ids == theirs.token_ids
            assert ours.logprobs == pytest.approx(theirs.logprobs, abs=2e-5)
    assert run(model, processor, prompts, sampling, noise=noise) == plain
