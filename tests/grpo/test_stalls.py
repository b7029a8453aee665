"""A run that learns the form alone says so, and noise says nothing."""

import dataclasses
import json

import numpy as np
import pytest
from helpers import rows, settings_of

from kit.grpo import grpo
from kit.grpo.config import GrpoConfig
from kit.grpo.stalls import ANSWER, FORMAT, how_to_read, stands_still, watch
from kit.run.state import Progress

STEPS, LENGTH = 100, 600


def of_answers(rate, count):
    """Means of ``count`` right or wrong answers a step; ``rate``: a number, or of the step."""

    def series(rng):
        at = rate(np.arange(LENGTH)) if callable(rate) else rate
        return rng.binomial(count, at, LENGTH) / count

    return series


def wandering(middle, spread, memory):
    """Noise of which each step remembers the last."""

    def series(rng):
        values = [0.0]
        for step in rng.normal(0, spread * np.sqrt(1 - memory**2), LENGTH - 1):
            values.append(memory * values[-1] + step)
        return middle + np.array(values)

    return series


def rising(low, high, until):
    return lambda step: low + (high - low) * np.minimum(step / until, 1)


def said_at(form, answer, seed):
    """The steps at which a run with these rewards says it."""
    rng = np.random.default_rng(seed)
    form, answer = form(rng), answer(rng)
    return [
        end for end in range(STEPS, LENGTH + 1, 10)
        if stands_still(form[end - STEPS : end].tolist(), answer[end - STEPS : end].tolist())
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("form", "answer", "most"),
    [
        (of_answers(0.4, 16), of_answers(0.3, 16), 0.01),
        (of_answers(0.4, 4), of_answers(0.3, 4), 0.02),
        (of_answers(0.98, 64), of_answers(0.3, 16), 0.0),
        (wandering(0.4, 0.15, 0.5), wandering(0.3, 0.15, 0.5), 0.06),
        (of_answers(rising(0.3, 0.9, 150), 16), of_answers(rising(0.2, 0.8, 150), 16), 0.04),
        (of_answers(rising(0.3, 0.9, 150), 64), of_answers(rising(0.2, 0.6, 150), 64), 0.04),
        (of_answers(rising(0.3, 0.9, 150), 64), of_answers(rising(0.2, 0.7, 150), 2), 0.04),
        (of_answers(rising(0.3, 0.9, 150), 16), of_answers(0.96, 16), 0.0),
    ],
    ids=[
        "still",
        "few answers",
        "sure",
        "memory",
        "both",
        "both, more answers",
        "both, two answers",
        "answers known",
    ],
)
def test_whole_runs_of_noise_hardly_ever_say_it(form, answer, most):
    """Of 100 runs of 600 steps, looked at after every tenth."""
    assert np.mean([bool(said_at(form, answer, seed)) for seed in range(100)]) <= most


@pytest.mark.parametrize(
    ("form", "answer", "least"),
    [
        (of_answers(rising(0.3, 0.95, 150), 16), of_answers(0.3, 16), 0.97),
        (of_answers(rising(0.3, 0.95, 40), 64), of_answers(0.3, 64), 0.97),
        (of_answers(lambda step: 1 - 0.7 * np.exp(-step / 20), 16), of_answers(0.3, 16), 0.95),
        (of_answers(rising(0.3, 0.95, 150), 64), of_answers(rising(0.3, 0.1, 600), 64), 0.97),
    ],
    ids=["slowly", "soon", "at once", "answers get worse"],
)
def test_a_run_that_learns_the_form_alone_says_it_in_time(form, answer, least):
    said = [said_at(form, answer, seed) for seed in range(40)]
    assert np.mean([bool(at) and at[0] <= 150 for at in said]) >= least


def spells(progress, form, answer):
    """What a run says from its ``progress`` on, a line a spell."""
    said = []
    for one in zip(form, answer, strict=True):
        progress.step += 1
        said.append(watch(progress, dict(zip((FORMAT, ANSWER), one, strict=True)), STEPS))
    return [line for line in said if line]


def test_each_spell_is_told_once_and_a_resumed_run_goes_on():
    rise = np.concatenate([np.linspace(0.2, 0.9, 250), np.full(250, 0.9)])
    form = np.concatenate([rise, rise]).tolist()
    answer = [0.2, 0.4] * (len(form) // 2)
    whole, begun = Progress(), Progress()
    said = spells(whole, form, answer)
    assert len(said) == 2
    (first, first_end), (second, second_end) = whole.stalls
    assert first == STEPS
    assert 250 <= first_end < 350
    assert 500 < second < 640
    assert 750 <= second_end < 850
    assert "format reward rises" in said[0]
    again = spells(begun, form[:130], answer[:130])
    kept = Progress(**json.loads(json.dumps(dataclasses.asdict(begun))))  # as in a checkpoint
    assert kept == begun
    assert again + spells(kept, form[130:], answer[130:]) == said
    assert kept == whole
    assert len(kept.recent_rewards) == STEPS
    assert kept.facts().keys() == {"step", "tokens", "best_loss", "best_step", "skipped", "stalls"}


def test_it_can_be_switched_off_and_does_not_need_every_part():
    progress = Progress()
    assert watch(progress, {FORMAT: 1.0}, STEPS) is None
    assert watch(progress, {FORMAT: 1.0, ANSWER: 0.0}, 0) is None
    assert progress == Progress()


@pytest.mark.slow
def test_a_run_says_how_to_read_it_and_what_stands_still(
    prepared, trained, tmp_path, monkeypatch, capsys
):
    """Where it is said is what is tested: three steps are no spell, so the rule is made to hold."""
    monkeypatch.setattr("kit.grpo.stalls.stands_still", lambda form, answer: len(form) == 2)
    monkeypatch.setattr("kit.grpo.stalls.move", lambda values: FixedMove)
    settings = settings_of("grpo", prepared, trained, tmp_path / "run", save_steps=0)
    monkeypatch.setattr(grpo, "watch", lambda *of, steps=2: watch(*of[:2], steps))
    assert grpo.train(GrpoConfig(**settings | {"max_steps": 3})) == 0
    said = capsys.readouterr().out
    assert said.count("a loss near 0 is normal in GRPO") == 1
    assert said.count("the answer reward stands still (0.10 -> 0.10)") == 1
    assert [row["stalls"] for row in rows(tmp_path / "run")] == [0, 1, 1]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["stalls"] == [[2, 3]]


class FixedMove:
    start = end = 0.1


def test_what_to_watch_names_the_parts_that_there_are():
    assert "rewards/<format|answer>/mean, frac" in how_to_read(["format", "answer"], beta=0.0)
    assert "kl" in how_to_read(["format"], beta=0.04)
