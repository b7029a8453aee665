"""What completions earn: the weighted rewards of ``kit.grpo.terms``, and functions of the user's
own."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Sequence

import torch
from torch import nn

from kit.counterfactual.images import ImageCache
from kit.grpo.config import GrpoConfig
from kit.grpo.functions import RewardFunctions
from kit.grpo.rollout import Group
from kit.grpo.terms import parse_weights
from kit.grpo.terms.judge import Judge
from kit.scoring.consistency import Consistency
from kit.scoring.faithfulness import Reward, group_rewards

ALWAYS = ("format", "answer")  # cost nothing, and are what a run is watched by


class Rewards:
    """Rewards groups of completions as configured. ``autocast`` gives the context in which the
    model is asked; sentence encoder and functions run outside of it, as in evaluation.

    ``views``: the changed images that the rewards want prompts to be answered on.

    Raises:
        UserError: the sentence encoder cannot be loaded.
        ConfigError: a reward function cannot be found.
    """

    def __init__(
        self,
        config: GrpoConfig,
        device: torch.device | str,
        autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ):
        self.config, self.autocast = config, autocast
        own_weights = dict.fromkeys(ALWAYS, 0.0) | parse_weights(config.weights)
        self.terms = {
            name: importlib.import_module(f"kit.grpo.terms.{name}")
            for name, weight in own_weights.items()
            if weight or name in ALWAYS
        }
        self.views = tuple(
            dict.fromkeys(view for t in self.terms.values() for view in getattr(t, "VIEWS", ()))
        )
        self.consistency = None
        if any(getattr(term, "CAPTIONS", False) for term in self.terms.values()):
            self.consistency = Consistency(config.consistency_model, device)
        self.functions = RewardFunctions(config.reward_funcs)
        others = config.reward_weights or [1.0] * len(self.functions.names)
        self.weights = own_weights | dict(zip(self.functions.names, others, strict=True))

    @property
    def spreads(self) -> list[str]:
        """The metrics of which the standard deviation is logged too."""
        return [f"rewards/{name}/mean" for name in self.weights]

    def __call__(
        self, model: nn.Module | None, image_cache: ImageCache | None, groups: Sequence[Group]
    ) -> list[list[Reward]]:
        """One reward a completion, a list a group. ``model`` judges the counterfactuals."""
        judge = Judge(model, image_cache, self.config, self.consistency, self.autocast)
        count = sum(len(group.completions) for group in groups)
        columns = {
            name: self.terms[name].score(groups, judge) if name in self.terms else [None] * count
            for name in self.weights
            if name not in self.functions.names
        }
        parts = [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
        if self.functions.names:
            added = self.functions(groups)
            parts = [own | more for own, more in zip(parts, added, strict=True)]
        ordered = iter(parts)
        return [
            group_rewards([next(ordered) for _ in group.completions], self.weights)
            for group in groups
        ]
