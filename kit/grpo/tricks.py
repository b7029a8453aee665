"""Known ways to be paid for less than an honest answer, and what they earn here.

    python -m kit.grpo.tricks --weights "format=0.2,answer=0.4,iou=0.4"

``tricks.jsonl`` beside this module holds them as data for any reward; its first line says what the
others hold. A *situation* is a question about pictures, drawn from rectangles, of which is known
what the answer rests on; a *trick* is what a policy says there. In place of the model that a reward
asks stands that known world, so that nothing but the reward is tested.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from kit.command import option, parse, run
from kit.counterfactual.probe import Case
from kit.counterfactual.regions import gold_region
from kit.data.boxes import ON_GRID
from kit.data.choices import with_choices
from kit.data.grpo_records import GrpoRecord
from kit.data.types import Region
from kit.errors import DataError
from kit.files import iter_json_lines, write_jsonl
from kit.grpo.config import GrpoConfig
from kit.grpo.known_world import Pictures, World
from kit.grpo.rewards import Rewards
from kit.grpo.rollout import Group, Task, View
from kit.grpo.terms import REWARDS
from kit.model.sampler import Completion
from kit.prompting.answers import parse_answer
from kit.scoring.faithfulness import Reward, group_rewards

FILE = Path(__file__).with_suffix(".jsonl")
VIEWS: tuple[View, ...] = get_args(View)
ALIKE = 1e-6  # rewards that differ by less are equal

OFFLINE = "counterfactual, offline"

Said = str | list  # a text, or [text, times] pairs to be joined
Judge = Callable[[World, Pictures, list[Group]], list[list[Reward]]]


@dataclass(frozen=True)
class Outcome:
    """What a trick earns, and the honest completions of its situation (``by_view``: both, on
    average); raw parts are those of the whole image, or of the view that the trick is about."""

    trick: Mapping[str, Any]
    by_view: Mapping[View, tuple[float, float]]
    parts: Mapping[str, tuple[float | None, float | None]]

    @property
    def verdict(self) -> str:
        """``less`` than the honest ones on one view and on none more; ``same``; or ``more``."""
        apart = [own - honest for own, honest in self.by_view.values()]
        if max(apart) > ALIKE:
            return "more"
        return "less" if min(apart) < -ALIKE else "same"

    def reason(self, weights: Mapping[str, float], offline: bool = False) -> str:
        """Why it does not earn less: what the file says for one of these rewards or for all, or
        that none of them looks at it; "" where it earns less, or nothing is known. ``offline``: the
        counterfactual deltas are the records' own."""
        if self.verdict == "less":
            return ""
        if not self.by_view.keys() & self.trick["completions"]:
            return "no reward here asks for answers on changed images"
        own = {OFFLINE if offline and n == "counterfactual" else n for n, w in weights.items() if w}
        under, why = self.trick["under"], self.trick["why"]
        said = [text for name, text in why.items() if name in {*own, "all"}]
        tell = [name for name in REWARDS if name in under and name not in own]
        if not said and tell and self.verdict == "same":
            return f"only {', '.join(tell)} would tell it from an honest answer"
        return "; ".join(said)


def read_tricks(path: Path = FILE) -> tuple[dict, dict[str, dict], list[dict]]:
    """What the file says of itself, the situations by name, and the tricks.

    Raises:
        DataError: it has another form.
    """
    rows = [row for _, row in iter_json_lines(path)]
    if not rows or any(not isinstance(row, dict) for row in rows) or "tricks" not in rows[0]:
        fix = f"give one in the form of {FILE}, which its first line describes"
        raise DataError("not a file of tricks", where=path, fix=fix)
    situations = {row["situation"]: row for row in rows if "question" in row}
    tricks = [row for row in rows if "trick" in row]
    for trick in tricks:
        lacks = [name for name in ("completions", "why", "situation") if name not in trick]
        if lacks or trick["situation"] not in situations:
            what = f"the trick {trick['trick']!r} lacks " + (lacks[0] if lacks else "its situation")
            raise DataError(what, where=path, fix="the first line says what each line holds")
    return rows[0], situations, tricks


def text_of(said: Said) -> str:
    """A completion of the file as text.

    >>> text_of("{}"), text_of([["[", 3], ["]", 3]])
    ('{}', '[[[]]]')
    """
    return said if isinstance(said, str) else "".join(text * times for text, times in said)


class Bench:
    """Situations and their tricks as groups of completions, for rewards to be tried on.

    Each trick and view is one group: as many honest completions as the trick has, the trick's, and
    the situation's ``others``, what a policy would also have said, since what cannot be measured
    counts as the mean of its group. On the views that a trick says nothing of it is honest.
    ``pictures``: those of another bench, with what is known of them.
    """

    def __init__(
        self,
        situations: Mapping[str, Mapping],
        tricks: Sequence[Mapping],
        config: GrpoConfig,
        pictures: Pictures | None = None,
    ):
        self.tricks, self.config = tricks, config
        self.pictures = pictures or Pictures(situations, config.inpainting)
        self.world = World(situations, self.pictures)
        records = {name: self._record(situation) for name, situation in situations.items()}
        self.groups: list[Group] = []
        self._places: list[tuple[int, View, int]] = []
        for number, trick in enumerate(tricks):
            situation = situations[trick["situation"]]
            for view in situation["honest"]:
                honest = situation["honest"][view]
                own = trick["completions"].get(view, [honest])
                texts = [*[honest] * len(own), *own, *situation["others"][view]]
                task = Task(len(self.groups), records[trick["situation"]], view)
                self.groups.append(_group(task, [text_of(text) for text in texts]))
                self._places.append((number, view, len(own)))

    def _record(self, situation: Mapping) -> GrpoRecord:
        """The question, with what ``cf_proxy`` would have measured in this world."""
        paths = [f"{situation['situation']}:{n + 1}" for n in range(len(situation["pictures"]))]
        choices = tuple(situation["choices"])
        record = GrpoRecord(
            paths[0],
            with_choices(situation["question"], choices),
            situation["gold"],
            choices=choices,
            qid=situation["situation"],
            regions=tuple(
                Region(r["label"], tuple(r["box"]), r["image"]) for r in situation["regions"]
            ),
            image_size=tuple(situation["pictures"][0]["size"]),
            more_images=tuple(paths[1:]),
        )
        gold = gold_region(record.regions, self.pictures.canvas(record.shown))
        options = {"draws": self.config.random_draws, "seed": self.config.seed}
        controls = self.pictures.controls(record.shown, gold, **options)
        if not controls:
            return record
        effect = self.world.effect(Case(record.shown, record.question, record.gold, gold, controls))
        deltas = {"delta_cf_roi": effect.delta_roi, "delta_cf_rand": effect.delta_rand}
        return replace(record, cf_boxes=gold, **deltas)

    def rewarded(self, judge: Judge) -> list[list[Reward]]:
        """What ``judge`` gives all groups: :class:`kit.grpo.rewards.Rewards`, or what is called
        like it."""
        return judge(self.world, self.pictures, self.groups)

    def outcomes(
        self,
        rewarded: Sequence[Sequence[Reward]],
        views: Collection[View] = (),
        weights: Mapping[str, float] | None = None,
    ) -> list[Outcome]:
        """Trick by trick, on whole images and on ``views``; ``weights``: other ones, of parts."""
        by_view: list[dict[View, tuple[list[Reward], list[Reward]]]] = [{} for _ in self.tricks]
        for (number, view, count), rewards in zip(self._places, rewarded, strict=True):
            if weights is not None:
                own = [{name: reward.parts[name] for name in weights} for reward in rewards]
                rewards = group_rewards(own, weights)
            if view == "whole" or view in views:
                by_view[number][view] = rewards[count : 2 * count], rewards[:count]
        return [_outcome(*each) for each in zip(self.tricks, by_view, strict=True)]


def _group(task: Task, texts: Sequence[str]) -> Group:
    frames = (ON_GRID,) * len(task.record.images)
    parsed = tuple(parse_answer(text, frames=frames) for text in texts)
    return Group(task, None, tuple(Completion((1,), (0.0,), False) for _ in texts), parsed)


def _outcome(
    trick: Mapping[str, Any], by_view: Mapping[View, tuple[list[Reward], list[Reward]]]
) -> Outcome:
    about = next((view for view in by_view if view in trick["completions"]), "whole")
    names = by_view[about][0][0].parts
    parts = {
        name: tuple(_mean([r.parts[name] for r in rewards]) for rewards in by_view[about])
        for name in names
    }
    totals = {
        view: tuple(_mean([r.total for r in rewards]) for rewards in both)
        for view, both in by_view.items()
    }
    return Outcome(trick, totals, parts)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def table(outcomes: Sequence[Outcome], weights: Mapping[str, float], offline: bool = False) -> str:
    """Markdown: a row a trick, its parts and total with the honest ones' in brackets where they
    are others, and whether it earns less."""
    names = [name for name, weight in weights.items() if weight]
    rows = ["| trick | situation | " + " | ".join([*names, "total", "earns"]) + " |"]
    rows.append("|---" * (len(names) + 4) + "|")
    for outcome in outcomes:
        pairs = [outcome.parts[name] for name in names]
        pairs += [tuple(map(_mean, zip(*outcome.by_view.values(), strict=True)))]
        trick, reason = outcome.trick, outcome.reason(weights, offline)
        cells = [trick["trick"], trick["situation"], *map(_cell, pairs)]
        rows.append(f"| {' | '.join(cells)} | {outcome.verdict}{reason and ': '}{reason} |")
    count = Counter(outcome.verdict for outcome in outcomes)
    rows.append(
        f"\n{len(outcomes)} tricks: {count['less']} earn less than an honest answer, "
        f"{count['same']} the same, {count['more']} more"
    )
    return "\n".join(rows)


def _cell(pair: tuple[float | None, float | None]) -> str:
    own, honest = ("absent" if value is None else f"{value:.2f}" for value in pair)
    return own if own == honest else f"{own} ({honest})"


def verdicts_alone(bench: Bench) -> list[dict[str, str]]:
    """What each reward alone, asked on every view, gives each trick, by the reward's name, where it
    is not the same as it gives the honest completions; of ``counterfactual`` also what was measured
    beforehand (:data:`OFFLINE`)."""
    found: list[dict[str, str]] = [{} for _ in bench.tricks]
    for mode, names in (("online", [*REWARDS]), ("offline", ["counterfactual"])):
        every = ",".join(f"{name}=1" for name in names)
        rewarded = bench.rewarded(
            Rewards(replace(bench.config, weights=every, counterfactual=mode), "cpu")
        )
        for name in names:
            key = OFFLINE if mode == "offline" else name
            outcomes = bench.outcomes(rewarded, VIEWS, {name: 1.0})
            for own, outcome in zip(found, outcomes, strict=True):
                own |= {} if outcome.verdict == "same" else {key: outcome.verdict}
    return found


@dataclass
class TricksConfig(GrpoConfig):
    """What known tricks earn beside an honest answer, under the rewards of GRPO."""

    base_model: str = option("tiny", help="is not asked")
    data: str = option(str(FILE), help="tricks, in the form of the kit's own")
    renew: bool = option(False, help="write what each reward alone gives them into that file")


def main(config: TricksConfig) -> None:
    """Print the table; or renew the fields ``rewards`` and ``under`` of the file."""
    about, situations, tricks = read_tricks(Path(config.data))
    bench = Bench(situations, tricks, config)
    if config.renew:
        about["rewards"] = [*REWARDS, OFFLINE]
        alone = zip(tricks, verdicts_alone(bench), strict=True)
        rows = [trick | {"under": under} for trick, under in alone]
        write_jsonl(config.data, [about, *situations.values(), *rows])
        return
    rewards = Rewards(config, "cpu")
    found = bench.outcomes(bench.rewarded(rewards), rewards.views)
    print(table(found, rewards.weights, config.counterfactual == "offline"))


if __name__ == "__main__":
    run(lambda: main(parse(TricksConfig)))
