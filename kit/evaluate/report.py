"""Results for people to read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from kit.command import option
from kit.errors import ConfigError, UserError
from kit.files import atomic_write, require_folder, write_json
from kit.prompting.messages import MODES

ROWS = {
    "exact/all": "exact match",
    "exact/open": "exact match, open",
    "exact/closed": "exact match, closed",
    "floor/question_only": "question-only floor",
    "llava_med/open_recall": "LLaVA-Med open recall",
    "llava_med/closed_accuracy": "LLaVA-Med closed accuracy",
    "medevalkit/total": "MedEvalKit accuracy",
    "json_valid_rate": "valid JSON",
    "box_rate": "answers with boxes",
    "iou/mean": "IoU with gold boxes",
    "iou/acc@0.5": "IoU at least 0.5",
    "roi_flip_rate": "answers flip without evidence",
    "random_flip_rate": "... without random regions",
    "flip_gap": "gap of the two",
    "claimed_roi_flip_rate": "answers flip without own boxes",
    "claimed_random_flip_rate": "... without random regions",
    "claimed_flip_gap": "gap of the two",
}


@dataclass
class ReportConfig:
    """Put the metrics of several evaluations side by side."""

    evaluations: list[str] = option(
        help="name=folder of each, the folder being what evaluate wrote", default_factory=list
    )
    output: str = option("", help="folder for report.json and report.txt")

    def __post_init__(self):
        for name in ("evaluations", "output"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is not given", where=name, fix=f"set --{name}")
        for entry in self.evaluations:
            if not all(entry.partition("=")):
                fix = "write name=folder, as in sft=runs/eval_sft"
                raise ConfigError(f"{entry!r} has no name", where="evaluations", fix=fix)
        if len(self.folders) < len(self.evaluations):
            fix = "give each evaluation its own name"
            raise ConfigError("a name stands twice", where="evaluations", fix=fix)

    @property
    def folders(self) -> dict[str, Path]:
        """The folder of each evaluation by its name."""
        return {name: Path(p) for name, _, p in (e.partition("=") for e in self.evaluations)}


def report(config: ReportConfig) -> int:
    """Write ``report.json`` (the metrics by model) and ``report.txt`` (the table for people);
    returns the exit code.

    Raises:
        UserError: an evaluation is not there.
    """
    require_folder(config.output)
    metrics = {}
    for name, folder in config.folders.items():
        try:
            metrics[name] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            fix = "give the folder that evaluate wrote"
            raise UserError("no metrics.json to read", where=folder, fix=fix) from error
    table = metrics_table(metrics)
    write_json(Path(config.output) / "report.json", metrics)
    with atomic_write(Path(config.output) / "report.txt") as stream:
        stream.write(table + "\n")
    print(table)
    return 0


def metrics_table(models: dict[str, dict[str, float]]) -> str:
    """Metrics of one or several models side by side, in percent (IoU as it is), as plain text.

    >>> print(metrics_table({"base": {"think_answer/exact/all": 0.25}}))
    think_answer   base
    exact match   25.0%
    """
    lines = []
    for mode in MODES:
        table = [[mode, *models]]
        for name, words in ROWS.items():
            values = [metrics.get(f"{mode}/{name}") for metrics in models.values()]
            if any(value is not None for value in values):
                table.append([words, *(_cell(name, value) for value in values)])
        if len(table) > 1:
            lines += [*_aligned(table), ""]
    return "\n".join(lines[:-1])


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if name == "iou/mean" else f"{100 * value:.1f}%"


def _aligned(table: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
