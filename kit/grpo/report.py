"""What a step of GRPO tells of itself, under TRL's names where it has one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from kit.grpo.advantages import group_std, has_no_spread
from kit.grpo.losses import GrpoLoss
from kit.grpo.microbatches import MicroBatch
from kit.grpo.rollout import Group
from kit.model.logprobs import TokenLogprobs
from kit.run.metrics import Meters
from kit.scoring.faithfulness import Reward


def totals(rewards: Sequence[Sequence[Reward]]) -> Tensor:
    """(groups, completions) float64."""
    return torch.tensor(
        [[reward.total for reward in group] for group in rewards], dtype=torch.float64
    )


def parts_of(rewards: Sequence[Sequence[Reward]], names: Sequence[str]) -> Tensor:
    """(groups, completions, parts) float64, NaN where a part is absent."""
    return torch.tensor(
        [
            [
                [float("nan") if (part := reward.parts[name]) is None else part for name in names]
                for reward in group
            ]
            for group in rewards
        ],
        dtype=torch.float64,
    )


def record_rewards(
    meters: Meters,
    rewards: Sequence[Sequence[Reward]],
    weights: Mapping[str, float],
    min_std: float = 0.0,
) -> None:
    """Totals; of parts the raw and the weighted values, and how many were absent."""
    values = totals(rewards)
    meters.add("reward", values.flatten().tolist())
    if values.shape[1] > 1:
        meters.add("reward_std", group_std(values).tolist())
        meters.add("frac_reward_zero_std", has_no_spread(values, min_std).double().tolist())
    for reward in (reward for group in rewards for reward in group):
        for name, value in reward.parts.items():
            meters.add(f"rewards/{name}/absent", [float(value is None)])
            if value is not None:
                meters.add(f"rewards/{name}/mean", [value])
                meters.add(f"rewards/{name}/weighted", [weights[name] * value])


def record_lengths(meters: Meters, groups: Sequence[Group]) -> None:
    """Lengths of completions in tokens, and how many were cut off."""
    completions = [c for group in groups for c in group.completions]
    meters.add("completions/mean_length", [float(len(c.token_ids)) for c in completions])
    meters.add("completions/clipped_ratio", [float(c.truncated) for c in completions])


def record_tokens(meters: Meters, part: MicroBatch, scored: TokenLogprobs, loss: GrpoLoss) -> None:
    """What the tokens of a micro-batch that count in the loss tell of the update."""
    counted = part.weights > 0
    n = int(counted.sum())
    old = scored.logprobs.detach() if part.old is None else part.old
    values = {
        "kl": loss.kl,
        "entropy": scored.entropy,
        "clip_ratio/low_mean": loss.clipped_low.float(),
        "clip_ratio/high_mean": loss.clipped_high.float(),
        "clip_ratio/region_mean": (loss.clipped_low | loss.clipped_high).float(),
        "logprob_drift": (old - part.sampled).abs(),
    }
    for name, value in values.items():
        if value is not None:
            meters.add_sum(name, value[counted].double().sum().item(), n)


def completion_rows(
    step: int, groups: Sequence[Group], rewards: Sequence[Sequence[Reward]], advantages: Tensor
) -> Iterator[dict]:
    """The lines of ``completions.jsonl`` for a step's groups; ``advantages`` is (groups,
    completions)."""
    for group, own, row in zip(groups, rewards, advantages.tolist(), strict=True):
        record = group.task.record
        for number, (completion, parsed, reward, advantage) in enumerate(
            zip(group.completions, group.parsed, own, row, strict=True)
        ):
            yield {
                "step": step,
                "prompt_index": group.task.prompt_index,
                "number": number,
                "image": record.image,
                **({"more_images": list(record.more_images)} if record.more_images else {}),
                "qid": record.qid,
                "question": record.question,
                "gold": record.gold,
                "text": parsed.text,
                "answer": parsed.answer,
                "tokens": len(completion.token_ids),
                "truncated": completion.truncated,
                "reward": reward.total,
                "rewards": reward.parts,
                "advantage": advantage,
            }


def print_completions(rows: Sequence[dict], count: int) -> None:
    """A table of the best and the worst completions of a step's first prompt."""
    first = [row for row in rows if row["prompt_index"] == rows[0]["prompt_index"]]
    first.sort(key=lambda row: row["reward"], reverse=True)
    best = first[: (count + 1) // 2]
    shown = best + first[max(len(best), len(first) - count // 2) :]
    title = f"step {rows[0]['step']}: {rows[0]['question']}  (gold: {rows[0]['gold']})"
    table = Table(title=Text(title), title_justify="left", show_lines=True)
    table.add_column("completion", ratio=1, overflow="fold")
    for name in ("reward", *rows[0]["rewards"], "advantage"):
        table.add_column(name, justify="right")
    for row in shown:
        parts = ["-" if v is None else f"{v:.2f}" for v in row["rewards"].values()]
        table.add_row(Text(row["text"]), f"{row['reward']:.2f}", *parts, f"{row['advantage']:+.2f}")
    Console(width=None if Console().is_terminal else 160).print(table)
