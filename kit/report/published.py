"""Published figures that stand beside ours, each under the convention that it was measured by.

Protocols differ in more than the convention: training data, prompts, size. None is a target.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

OFFICIAL = {"VQA_RAD": 451, "SLAKE": 1061}  # questions of the official (English) test splits


@dataclass(frozen=True)
class Published:
    """A figure in 0..1: ``metric`` is its name without the mode among our metrics, ``mode`` the
    one it was measured in, empty for one of its own."""

    model: str
    dataset: str
    metric: str
    value: float
    protocol: str
    source: str
    mode: str = ""


def _pair(model: str, source: str, protocol: str, figures: dict[str, tuple[float, float]]):
    names = ("llava_med/open_recall", "llava_med/closed_accuracy")
    return [
        Published(model, dataset, name, value / 100, protocol, source)
        for dataset, pair in figures.items()
        for name, value in zip(names, pair, strict=True)
    ]


def _overall(model: str, rad: float, slake: float):
    protocol = "closed by rule, open as a language model judges"
    source = "Lingshu, arXiv 2506.07044"
    return [
        Published(model, dataset, "medevalkit/total", value / 100, protocol, source)
        for dataset, value in (("VQA_RAD", rad), ("SLAKE", slake))
    ]


_TUNED = "fine-tuned on the dataset's own training split"
_FRONTIER = ("Best of five frontier models", "SLAKE")
_BOXES = ("not trained on it; boxes asked for in the prompt", "arXiv 2604.27720")
_UNTRAINED = {
    "think_answer": {"exact/all": 0.385},
    "caption_reason_answer": {
        "exact/all": 0.359, "json_valid_rate": 0.915, "box_rate": 0.755,
        "claimed_roi_flip_rate": 0.39,
    },
}  # fmt: skip

PUBLISHED: tuple[Published, ...] = (
    *_pair(
        "LLaVA-Med 7B",
        "arXiv 2404.10237, table 1",
        _TUNED,
        {"VQA_RAD": (61.52, 84.19), "SLAKE": (83.08, 85.34)},
    ),
    *_pair(
        "Med-MoE StableLM-2B",
        "arXiv 2404.10237, table 1",
        _TUNED,
        {"VQA_RAD": (50.08, 80.07), "SLAKE": (83.16, 83.41)},
    ),
    *_overall("Med-R1-2B", 39.0, 54.5),
    *_overall("MedVLM-R1-2B", 48.6, 56.0),
    Published(*_FRONTIER, "iou/mean", 0.23, *_BOXES),
    Published(*_FRONTIER, "iou/acc@0.5", 0.191, *_BOXES),
    *(
        Published(
            "Qwen2-VL-2B-Instruct", "VQA_RAD", metric, value, "untrained", "about; own runs", mode
        )
        for mode, figures in _UNTRAINED.items()
        for metric, value in figures.items()
    ),
)


def beside(datasets: Collection[str], mode: str) -> list[Published]:
    """The figures for the datasets that were evaluated, but those of another mode."""
    return [f for f in PUBLISHED if f.dataset in datasets and f.mode in ("", mode)]


def official(dataset: str, n: int) -> bool:
    """Whether so many questions are the whole official test split.

    >>> official("VQA_RAD", 451), official("SLAKE", 40)
    (True, False)
    """
    return OFFICIAL.get(dataset) == n
