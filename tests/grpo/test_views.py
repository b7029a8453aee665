"""Prompts on changed images: which, how, and what is paid for on them."""

import json
from dataclasses import replace

import pytest

from kit.counterfactual.images import ImageCache
from kit.counterfactual.regions import gold_region, mask_of
from kit.data.box_columns import UNNAMED
from kit.data.grpo_records import read_grpo_records
from kit.data.records import read_sft_records
from kit.data.types import Region
from kit.grpo.config import GrpoConfig
from kit.grpo.rewards import Rewards
from kit.grpo.rollout import Group, Task, roll_out
from kit.grpo.terms.caption_answer import agreement
from kit.grpo.views import changed, evidence_of
from kit.model.sampler import Completion, Sampling
from kit.prompting.answers import parse_answer

CONTRAST = "format=0.2,answer=0.4,contrast=0.4"


def config_with(weights: str = CONTRAST, **changes) -> GrpoConfig:
    return GrpoConfig(base_model="tiny", data="x", seed=0, weights=weights, **changes)


@pytest.fixture(scope="module")
def tasks(prepared, processor):
    """Questions, of which those that can be changed come forty times; the images; these."""
    records, _ = read_grpo_records(prepared["train"])
    cache = ImageCache(processor)
    asked = [
        (record, evidence_of(record, cache)) for record in records if evidence_of(record, cache)
    ]
    found = cache.controls_all([(r.shown, e, ()) for r, e in asked], draws=2, seed=0)
    fit = {r.qid for (r, _), controls in zip(asked, found, strict=True) if controls}
    records += [record for record in records if record.qid in fit] * 40
    return [Task(i, record) for i, record in enumerate(records)], cache, fit


def test_changed_images_are_a_balanced_share_of_those_that_can_be(tasks):
    every, cache, fit = tasks
    shown = changed(every, cache, config_with(changed_images=0.6))
    views = [task.view for task in shown if task.record.qid in fit]
    assert len(fit) > 4
    for view in ("without_evidence", "without_control"):
        assert views.count(view) / len(views) == pytest.approx(0.3, abs=0.08)
    assert all(task.view == "whole" for task in shown if task.record.qid not in fit)
    assert shown == changed(every, cache, config_with(changed_images=0.6))
    # whatever is asked beside it, on whatever process
    assert shown[7::3] == changed(every[7::3], cache, config_with(changed_images=0.6))
    assert changed(every, cache, config_with(changed_images=0.0)) == every


def test_a_control_leaves_the_evidence_and_the_other_view_nothing_of_it(tasks):
    every, cache, _ = tasks
    seen = set()
    for task in changed(every, cache, config_with(changed_images=1.0)):
        canvas = cache.canvas(task.record.shown)
        gold = mask_of(gold_region(task.record.regions, canvas), canvas.size)
        taken = mask_of(task.without, canvas.size)
        seen.add(task.view)
        if task.view == "without_evidence":
            assert (taken == gold).all()
        elif task.view == "without_control":
            assert taken.any()
            assert not (taken & gold).any()
    assert seen == {"whole", "without_evidence", "without_control"}


def test_rollouts_see_what_is_left_of_the_image(tasks, base_model):
    every, cache, _ = tasks
    shown = next(
        task
        for task in changed(every, cache, config_with(changed_images=1.0))
        if task.view == "without_evidence"
    )
    pair = [shown, replace(shown, view="whole", without=())]
    without, whole = (
        group.trunk.pixel_values
        for group in roll_out(base_model, cache, pair, Sampling(2), num_generations=2, seed=0)
    )
    assert without.shape == whole.shape
    assert (without != whole).any()


def said(answer: str) -> str:
    return f'{{"caption": "CT.", "reasoning": [], "boxes": [], "answer": "{answer}"}}'


def rewards_of(task: Task, texts: list[str], weights: str = CONTRAST) -> list:
    completions = tuple(Completion((1,), (0.0,), False) for _ in texts)
    group = Group(task, None, completions, tuple(parse_answer(text) for text in texts))
    return Rewards(config_with(weights), "cpu")(None, None, [group])[0]


@pytest.fixture
def views(prepared):
    record = read_grpo_records(prepared["train"])[0][0]
    record = replace(record, gold="Cyst", question="What is shown?", choices=())
    names = ("whole", "without_evidence", "without_control")
    return {view: Task(0, record, view) for view in names}


def test_the_gold_answer_is_paid_where_its_evidence_is_left_and_nowhere_else(views):
    texts = [said("Cyst"), said("Abscess"), said("")]
    for view, order in (
        ("whole", [1.0, 1 / 3, 1 / 3]),
        ("without_control", [1.0, 1 / 3, 1 / 3]),
        ("without_evidence", [1 / 3, 1.0, 1 / 3]),
    ):
        found = rewards_of(views[view], texts)
        assert [reward.total for reward in found] == pytest.approx(order)
        absent = "answer" if view == "without_evidence" else "contrast"
        assert all(reward.parts[absent] is None for reward in found)


def test_abstaining_is_paid_where_the_evidence_is_gone_and_nowhere_else(views):
    texts = [said("Cyst"), said("Abscess"), said("Cannot tell.")]
    weights = "format=0.2,answer=0.4,abstention=0.4"
    for view, best in (("whole", 0), ("without_control", 0), ("without_evidence", 2)):
        totals = [reward.total for reward in rewards_of(views[view], texts, weights)]
        assert totals == pytest.approx([1.0 if n == best else 1 / 3 for n in range(3)])


def test_what_is_true_without_the_evidence_is_paid_like_abstaining(views):
    there = {"question": "Is there a liver?", "gold": "Yes", "content_type": "Organ"}
    liver = (Region("Liver", (5, 5, 20, 20)),)
    task = views["without_evidence"]
    task = replace(task, record=replace(task.record, regions=liver, **there))
    texts = [said(text) for text in ("Yes", "No", "0", "Cannot tell")]
    found = rewards_of(task, texts, "format=0.2,answer=0.4,abstention=0.4")
    assert [reward.parts["abstention"] for reward in found] == [0, 1, 0, 1]


def test_what_stays_true_or_nobody_knows_is_not_paid_for_on_changed_images(views):
    """A no stays true without the lung; of a box without a label nobody knows what is gone."""
    task = views["without_evidence"]
    denied = {"question": "Does the left lung contain a mass?", "gold": "No"}
    task = replace(task, record=replace(task.record, **denied))
    assert [r.parts["contrast"] for r in rewards_of(task, [said("Yes"), said("No")])] == [None] * 2
    unnamed = replace(task.record, regions=(Region(UNNAMED, (5, 5, 20, 20)),), gold="Yes")
    found = rewards_of(
        replace(task, record=unnamed), [said("No"), said("Cannot tell")],
        "format=0.2,answer=0.4,abstention=0.4",
    )  # fmt: skip
    assert [reward.parts["abstention"] for reward in found] == [None, None]


SEEN = "X-ray of the chest showing the right lung and a nodule."


@pytest.mark.parametrize(
    ("caption", "question", "yes", "no"),
    [
        (SEEN, "Is there a nodule?", 1, 0),
        (SEEN, "Is there a lesion?", 1, 0),
        (SEEN, "Is there left lung in this image?", 0, 1),
        (SEEN, "Is there lung in this image?", 1, 0),
        (SEEN, "Is the right lung healthy?", None, None),
        (SEEN, "Is the lung on the left?", None, None),
        (SEEN, "Is there a nodule in the right lung?", None, None),
        ("Chest X-ray without any nodule.", "Is there a nodule?", 0, 1),
        ("Chest X-ray without a mass but with a nodule.", "Is there a nodule?", 1, 0),
        ("胸片未见结节。", "Is there a nodule?", 0, 1),
        ("", "Is there a nodule?", 0, 0),
    ],
)
def test_a_caption_agrees_with_a_yes_or_no_to_what_is_there(caption, question, yes, no):
    assert [agreement(caption, question, said) for said in ("Yes", "No")] == [yes, no]


def test_captions_that_the_kit_teaches_agree_with_the_gold_answer(prepared):
    records, _ = read_sft_records(prepared["train"])
    found = [
        (agreement(caption, r.question, r.answer), agreement(caption, r.question, other))
        for r in records
        if (other := {"Yes": "No", "No": "Yes"}.get(r.answer))
        for caption in [json.loads(r.output)["caption"]]
    ]
    scored = [pair for pair in found if pair != (None, None)]
    assert len(scored) > 10
    assert sum(right > wrong for right, wrong in scored) > 0.95 * len(scored)


@pytest.mark.parametrize("weights", [CONTRAST, "format=0.2,answer=0.4,abstention=0.4"])
def test_reacting_to_any_change_earns_less_than_looking(views, weights):
    """Policies by what they say on the three images, each as often: who reacts to every change, or
    to none, wins on one of the two what it loses on the other."""
    other = "Cannot tell" if "abstention" in weights else "Abscess"
    policies = {
        "looks": ("Cyst", other, "Cyst"),
        "ignores changes": ("Cyst", "Cyst", "Cyst"),
        "reacts to any change": ("Cyst", other, other),
        "always the other answer": (other, other, other),
    }
    earned = {
        name: sum(
            rewards_of(views[view], [said(text)], weights)[0].total
            for view, text in zip(views, texts, strict=True)
        )
        for name, texts in policies.items()
    }
    assert max(earned, key=earned.get) == "looks"
    assert earned["ignores changes"] == pytest.approx(earned["reacts to any change"])
    assert earned["always the other answer"] < earned["ignores changes"]
