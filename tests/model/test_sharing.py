"""A packed tree gives every branch what a row of its own gives it."""

import random

import pytest
import torch
from PIL import Image

from kit.model.adapters import add_lora
from kit.model.attention import TREE_ATTENTION, branch_mask
from kit.model.load import load_base, load_processor
from kit.model.logprobs import token_logprobs
from kit.model.processor import PreparedImage
from kit.model.sharing import Branch, Tree, pack, trunk_positions

MODE = "caption_reason_answer"


@pytest.fixture
def trees(exact):
    """Trees with images of different sizes and branches of different lengths; two of one image, of
    which one shows a second image after it."""
    processor = exact.processor
    rng = random.Random(torch.initial_seed())
    result = []
    sizes = [(rng.randint(60, 300), rng.randint(60, 300)) for _ in range(3)]
    first, *others = (
        processor.prepare_image(Image.effect_noise(size, 80).convert("RGB")) for size in sizes
    )
    shown = [[first], *([other] for other in others), [others[0], first]]
    for images, n_branches in zip(shown, (1, 2, 8, 2), strict=True):
        trunk = processor.encode_trunk(PreparedImage.together(images), MODE)
        branches = []
        for _ in range(n_branches):
            length = rng.randint(1, 30)
            ids = [rng.randrange(300) for _ in range(length + rng.randint(0, 9))]
            branches.append(Branch.of(ids[length:], ids[:length]))
        result.append(Tree(trunk, tuple(branches)))
    return result


def separate_rows(model, processor, trees):
    """transformers' own log-probabilities: one row a branch, the trunk repeated."""
    result = []
    for tree in trees:
        for branch in tree.branches:
            ids = torch.cat([tree.trunk.input_ids, branch.input_ids])[None]
            logits = model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=(ids == processor.image_token_id).int(),
                pixel_values=tree.trunk.pixel_values,
                image_grid_thw=tree.trunk.image_grid_thw,
                use_cache=False,
            ).logits[0]
            logprobs = logits.log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
            result.append(logprobs[len(tree.trunk) - 1 :][branch.is_target])
    return torch.cat(result)


def test_logprobs_and_lora_gradients_equal_separate_rows(exact, trees):
    """In float64 with checkpointing, in float32 without."""
    model = add_lora(exact.model, r=4, alpha=8, dropout=0.0, freeze_vision_tower=False)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    if exact.model.dtype == torch.float64:
        model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    weights = torch.randn(
        sum(int(b.is_target.sum()) for t in trees for b in t.branches), dtype=torch.float64
    )

    def gradients(logprobs):
        model.zero_grad()
        (logprobs * weights).sum().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}

    shared = token_logprobs(model, pack(trees, merge_size=2)).logprobs
    own = gradients(shared)
    separate = separate_rows(model, exact.processor, trees)
    reference = gradients(separate)
    torch.testing.assert_close(shared, separate, atol=exact.near, rtol=0)
    assert own.keys() == reference.keys()
    for name, gradient in reference.items():
        assert gradient.norm() > 0, name
        assert (own[name] - gradient).norm() / gradient.norm() < exact.near, name


def test_the_tree_and_its_whole_matrix_attend_alike(exact, trees):
    """Trunks and branches as batches of their own, or one matrix with what may not be seen masked:
    log-probabilities and gradients."""
    model, found = exact.model, []
    for implementation in (TREE_ATTENTION, "sdpa"):
        model.model.language_model.set_attn_implementation(implementation)
        model.zero_grad()
        logprobs = token_logprobs(model, pack(trees, merge_size=2)).logprobs
        logprobs.sum().backward()
        found.append([logprobs, *(p.grad for p in model.model.language_model.parameters())])
    for ours, whole in zip(*found, strict=True):
        assert (ours - whole).norm() <= exact.near * whole.norm()


def test_loss_of_a_batch_equals_transformers_own(exact, trees):
    """model(labels=...) averages over the supervised tokens of a padded batch."""
    rows = [(tree.trunk, branch) for tree in trees for branch in tree.branches]
    length = max(len(t) + len(b.input_ids) for t, b in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for row, (trunk, branch) in enumerate(rows):
        whole = torch.cat([trunk.input_ids, branch.input_ids])
        ids[row, : len(whole)], mask[row, : len(whole)] = whole, 1
        places = len(trunk) + branch.is_target.nonzero().flatten()
        labels[row, places] = whole[places]
    reference = exact.model(
        input_ids=ids,
        attention_mask=mask,
        labels=labels,
        mm_token_type_ids=(ids == exact.processor.image_token_id).int(),
        pixel_values=torch.cat([t.pixel_values for t, _ in rows]),
        image_grid_thw=torch.cat([t.image_grid_thw for t, _ in rows]),
    ).loss
    own = -token_logprobs(exact.model, pack(trees, merge_size=2)).logprobs.mean()
    # transformers' is of logits in float32
    torch.testing.assert_close(own.float(), reference.float(), atol=1e-5, rtol=0)


def test_positions_equal_transformers_rope_index(family):
    model, processor = load_base(family), load_processor(family)
    for n_images in [1, 1, 1, 2, 3] * 4:
        sizes = [(random.randint(30, 400), random.randint(30, 400)) for _ in range(n_images)]
        images = [processor.prepare_image(Image.new("RGB", size)) for size in sizes]
        trunk = processor.encode_trunk(PreparedImage.together(images), MODE)
        reference, delta = model.model.get_rope_index(
            trunk.input_ids[None],
            (trunk.input_ids == processor.image_token_id).int()[None],
            trunk.image_grid_thw,
        )
        positions, after = trunk_positions(trunk, merge_size=2)
        assert torch.equal(positions, reference[:, 0])
        assert after == len(trunk) + int(delta)


def test_branches_are_blind_to_each_other(exact, trees):
    """The first branch is what a leak would show to those that stand after it."""
    tree = trees[2]
    changed = Tree(tree.trunk, (Branch.of([7, 7], [8, 9, 10]), *tree.branches[1:]))
    later = []
    for variant in (tree, changed):
        batch = pack([variant], merge_size=2)
        later.append(token_logprobs(exact.model, batch).logprobs[batch.branch_index >= 1])
    assert len(later[0]) > 0
    torch.testing.assert_close(later[0], later[1], atol=exact.near, rtol=0)


def test_vision_tower_sees_an_image_once(fresh_model, processor, monkeypatch):
    image = processor.prepare_image(Image.new("RGB", (100, 100)))
    other = processor.prepare_image(Image.new("RGB", (90, 60)))
    trees = [
        Tree(processor.encode_trunk(PreparedImage.together(shown), mode), (Branch.of([], [5]),))
        for mode in ("think_answer", "caption_reason_answer")
        for shown in ([image], [other, image, image])
    ]
    batch = pack(trees, merge_size=2)
    assert len(batch.image_grid_thw) == 2
    assert batch.image_index.tolist() == [0, 1, 0, 0] * 2
    assert token_logprobs(fresh_model, batch).logprobs.shape == (4,)


def test_mask_by_brute_force():
    group = torch.randint(-1, 4, (3, 12)).sort(dim=1, descending=True).values.flip(1)
    mask = branch_mask(group)[:, 0]
    for row in range(3):
        for q in range(12):
            for k in range(12):
                gq, gk = group[row, q], group[row, k]
                sees = q == k or (k < q and gq >= 0 and gk >= 0 and (gk == 0 or gk == gq))
                assert bool(mask[row, q, k]) == bool(sees)
