"""What completions earn: the four-part reward, and functions of the user's own."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Sequence

from torch import nn

from kit.counterfactual.images import ImageCache
from kit.counterfactual.probe import Case, probe
from kit.counterfactual.regions import area_share, claimed_region, whole_pixels
from kit.data.grpo_records import GrpoRecord
from kit.errors import ConfigError, UserError
from kit.grpo.rollout import Group
from kit.scoring.consistency import Consistency
from kit.scoring.faithfulness import (
    LARGEST_SHARE,
    Reward,
    combine,
    counterfactual_score,
    score_completions,
)
from kit.scoring.grounding import union_iou
from kit.scoring.settings import parse_weights
from kit.train.config import GrpoConfig

RewardFunction = Callable[..., Sequence[float | None]]


class Rewards:
    """Rewards groups of completions as configured.

    Raises:
        UserError: the sentence encoder cannot be loaded.
        ConfigError: a reward function cannot be found.
    """

    def __init__(self, config: GrpoConfig, device):
        self.config = config
        self.weights = parse_weights(config.weights)
        self.consistency = None
        if self.weights.consistency:
            self.consistency = Consistency(config.consistency_model, device)
        self.functions = {name: load_function(name) for name in config.reward_funcs}
        own_weights = config.reward_weights or [1.0] * len(self.functions)
        self.all_weights = self.weights.as_dict() | {
            short_name(name): weight
            for name, weight in zip(self.functions, own_weights, strict=True)
        }

    @property
    def spreads(self) -> list[str]:
        """The metrics of which the standard deviation is logged too."""
        return [f"rewards/{name}/mean" for name in self.all_weights]

    def __call__(
        self, model: nn.Module, image_cache: ImageCache, groups: Sequence[Group]
    ) -> list[list[Reward]]:
        """One reward a completion, a list a group. ``model`` judges the counterfactuals."""
        questions = [g.task.record.question for g in groups for _ in g.completions]
        golds = [g.task.record.gold for g in groups for _ in g.completions]
        rewards = score_completions(
            [parsed for group in groups for parsed in group.parsed],
            golds,
            questions,
            self._counterfactuals(model, image_cache, groups),
            consistency=self.consistency,
            weights=self.weights,
            scoring=self.config.answer_scoring,
        )
        for name, function in self.functions.items():
            values = call_function(name, function, groups)
            rewards = [
                Reward(0.0, reward.parts | {short_name(name): value})
                for reward, value in zip(rewards, values, strict=True)
            ]
        if self.functions:
            rewards = [Reward(combine(r.parts, self.all_weights), r.parts) for r in rewards]
        ordered = iter(rewards)
        return [[next(ordered) for _ in group.completions] for group in groups]

    def _counterfactuals(
        self, model: nn.Module, image_cache: ImageCache, groups: Sequence[Group]
    ) -> list[float | None]:
        if self.config.counterfactual == "off" or not self.weights.counterfactual:
            return [None for group in groups for _ in group.completions]
        if self.config.counterfactual == "offline":
            return [score for group in groups for score in offline_scores(group)]
        return online_scores(
            model,
            image_cache,
            groups,
            draws=self.config.random_draws,
            seed=self.config.seed,
        )


def offline_scores(group: Group) -> list[float | None]:
    """The record's own counterfactual score, times how well each completion's boxes cover the
    region that it was measured for (IoU); the score alone where the record names no region."""
    record = group.task.record
    score = counterfactual_score(record.delta_cf_roi, record.delta_cf_rand)
    if score is None or not record.cf_boxes or record.image_size is None:
        return [score] * len(group.completions)
    claims = [claimed_region(parsed.boxes, record.image_size) for parsed in group.parsed]
    return [score * union_iou(claim, record.cf_boxes) if claim else 0.0 for claim in claims]


def online_scores(
    model: nn.Module, image_cache: ImageCache, groups: Sequence[Group], *, draws: int, seed: int
) -> list[float]:
    """The counterfactual score of each completion: by how much its own answer loses probability
    without the boxes that it claims, beyond what matched random regions take from it.

    A completion that claims no box or gives no answer earns 0; so does one that claims more than
    ``LARGEST_SHARE`` of the image or so much that nothing else of that shape fits into it. All
    completions of all groups are measured in one batch, equal claims once.
    """
    cases: list[Case | None] = []
    shares = []
    for group in groups:
        record = group.task.record
        size = image_cache.size(record.image)
        gold = whole_pixels([region.box_xyxy_pixels for region in record.regions], size)
        for parsed in group.parsed:
            claim = claimed_region(parsed.boxes, size)
            shares.append(area_share(claim, size))
            random = ()
            if parsed.answer.strip() and 0 < shares[-1] < LARGEST_SHARE:
                names = (seed, record.dataset, record.qid, record.question)
                random = image_cache.controls(
                    record.image, claim, draws=draws, seed=names, avoid=gold
                )
            case = Case(record.image, record.question, parsed.answer, claim, random)
            cases.append(case if random else None)
    effects = iter(probe(model, image_cache, [case for case in cases if case is not None]))
    scores = []
    for case, share in zip(cases, shares, strict=True):
        effect = None if case is None else next(effects)
        score = effect and counterfactual_score(effect.delta_roi, effect.delta_rand, share)
        scores.append(score or 0.0)
    return scores


def load_function(name: str) -> RewardFunction:
    """The function at a dotted path like ``package.module:function``.

    Raises:
        ConfigError: there is none.
    """
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"no reward function {name!r}: {error}",
            where="reward_funcs",
            fix="give package.module:function, importable from where the command is run",
        ) from error
    if not callable(function):
        raise ConfigError(f"{name!r} is not a function", where="reward_funcs", fix="name one")
    return function


def short_name(name: str) -> str:
    """
    >>> short_name("my.rewards:brevity")
    'brevity'
    """
    return name.partition(":")[2]


def call_function(
    name: str, function: RewardFunction, groups: Sequence[Group]
) -> list[float | None]:
    """Call a reward function as TRL does, with lists that have one item a completion:
    ``prompts``, ``completions`` (texts), ``completion_ids``, and ``question``, ``gold``,
    ``caption``, ``boxes``, ``answer`` and ``record``; of these those that it takes.

    Raises:
        UserError: it raises, or gives something else than a finite number or None for each.
    """
    rows = [
        (group.task.record, completion, parsed)
        for group in groups
        for completion, parsed in zip(group.completions, group.parsed, strict=True)
    ]
    known = {
        "prompts": [record.question for record, _, _ in rows],
        "completions": [parsed.text for _, _, parsed in rows],
        "completion_ids": [list(completion.token_ids) for _, completion, _ in rows],
        "question": [record.question for record, _, _ in rows],
        "gold": [record.gold for record, _, _ in rows],
        "caption": [parsed.caption for _, _, parsed in rows],
        "boxes": [parsed.boxes for _, _, parsed in rows],
        "answer": [parsed.answer for _, _, parsed in rows],
        "record": [record for record, _, _ in rows],
    }
    parameters = inspect.signature(function).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        taken = {key: value for key, value in known.items() if key in parameters}
    else:
        taken = known
    try:
        values = list(function(**taken))
    except Exception as error:
        raise UserError(
            f"the reward function raised {type(error).__name__}: {error}",
            where=f"reward function {name}, {_culprit(function, taken, rows)}",
            fix="fix the function",
        ) from error
    fine = [
        value is None or (isinstance(value, (int, float)) and math.isfinite(value))
        for value in values
    ]
    if len(values) != len(rows) or not all(fine):
        record = rows[fine.index(False)][0] if len(values) == len(rows) else rows[0][0]
        raise UserError(
            f"the reward function must give {len(rows)} finite numbers or None: {values!r:.200}",
            where=f"reward function {name}, {_named(record)}",
            fix="fix the function",
        )
    return [None if value is None else float(value) for value in values]


def _culprit(function: RewardFunction, taken: dict[str, list], rows: Sequence[tuple]) -> str:
    """The first completion on which alone the function raises too, by its record."""
    for place, (record, _, _) in enumerate(rows):
        try:
            function(**{key: values[place : place + 1] for key, values in taken.items()})
        except Exception:
            return _named(record)
    return "all completions of a step together"


def _named(record: GrpoRecord) -> str:
    return f"record {record.image} (qid {record.qid}): {record.question[:80]}"
