"""What was sampled and what it earned, as lines of a file and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from kit.scoring.faithfulness import Reward
from kit.train.rollouts import Group


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
                "place": group.task.place,
                "number": number,
                "image": record.image,
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
    first = [row for row in rows if row["place"] == rows[0]["place"]]
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
