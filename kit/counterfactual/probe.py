"""Does the answer rest on this part of the image? Its likelihood with the part and without.

The answer is scored as a direct one (``kit.prompting.messages.direct_answer``): at the end of its
own reasoning it would follow from the reasoning, whatever the image shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from kit.counterfactual.images import ImageCache, Request
from kit.counterfactual.regions import Boxes
from kit.data.types import Shown
from kit.model.logprobs import token_logprobs
from kit.model.processor import PreparedImage, Processor
from kit.model.sampler import evaluating
from kit.model.sharing import Branch, Tree, pack

MODE = "caption_reason_answer"  # its trunk; the mode whose answers claim boxes


@dataclass(frozen=True)
class Case:
    """An answer to a question about an image, and the parts that are taken away in turn.

    ``evidence`` is taken away as a whole; each of ``controls`` is one of it
    (``kit.counterfactual.controls``).
    """

    image: Shown
    question: str
    answer: str
    evidence: Boxes
    controls: tuple[Boxes, ...]


@dataclass(frozen=True)
class Effect:
    """Probability of an answer (geometric mean over its tokens, in 0..1) for the whole image,
    without the evidence, and without each control."""

    original: float
    without_evidence: float
    without_controls: tuple[float, ...]

    @property
    def delta_roi(self) -> float:
        """The drop when the evidence is gone, in -1..1.

        >>> Effect(0.75, 0.25, (0.75, 0.5)).delta_roi
        0.5
        """
        return self.original - self.without_evidence

    @property
    def delta_rand(self) -> float | None:
        """The mean drop over the controls, or None where there is none.

        >>> Effect(0.75, 0.25, (0.75, 0.5)).delta_rand
        0.125
        """
        if not self.without_controls:
            return None
        return self.original - sum(self.without_controls) / len(self.without_controls)


def probe(
    model: nn.Module,
    image_cache: ImageCache,
    cases: Sequence[Case],
    *,
    batch_size: int = 32,
) -> list[Effect]:
    """Measure every case. What several cases ask of one image is asked once, ``batch_size``
    images at a time, and no image passes the vision tower twice. While the device works on some
    the next are made.

    The model's own mode (training or evaluation) is restored; no gradient is kept. A world in
    which every effect is known (``kit.grpo.tricks``) is asked for it.
    """
    if hasattr(model, "effect"):
        return [model.effect(case) for case in cases]
    asked: dict[Request, dict[tuple[str, str], None]] = {}
    for case in cases:
        for without in ((), case.evidence, *case.controls):
            asked.setdefault((case.image, without), {})[case.question, case.answer] = None
    # alike in size, so that there is little padding
    requests = sorted(asked, key=lambda r: (math.prod(image_cache.size(r[0])), len(asked[r])))
    batches = [requests[i : i + batch_size] for i in range(0, len(requests), batch_size)]
    found: dict[tuple[Request, tuple[str, str]], float] = {}
    for batch, images in zip(batches, image_cache.prepared_ahead(batches), strict=True):
        asks = [(image, *text) for image, r in zip(images, batch, strict=True) for text in asked[r]]
        keys = [(request, text) for request in batch for text in asked[request]]
        likely = answer_probabilities(model, image_cache.processor, asks, batch_size=batch_size)
        found |= zip(keys, likely, strict=True)
    effects = []
    for case in cases:
        original, without, *controls = (
            found[(case.image, without), (case.question, case.answer)]
            for without in ((), case.evidence, *case.controls)
        )
        effects.append(Effect(original, without, tuple(controls)))
    return effects


def answer_probabilities(
    model: nn.Module,
    processor: Processor,
    asks: Sequence[tuple[PreparedImage, str, str]],
    *,
    batch_size: int = 32,
) -> list[float]:
    """The probability of a direct answer for each (image, question, answer): the geometric mean
    over its tokens, so that long answers compare with short ones."""
    by_image: dict[str, dict[tuple[str, str], Branch]] = {}
    images: dict[str, PreparedImage] = {}
    for image, question, answer in asks:
        images[image.key] = image
        branches = by_image.setdefault(image.key, {})
        if (question, answer) not in branches:
            branches[question, answer] = Branch.of(*processor.encode_direct(question, MODE, answer))
    found: dict[tuple[str, str, str], float] = {}
    # alike in size, so that there is little padding
    keys = sorted(by_image, key=lambda key: (images[key].n_tokens, len(by_image[key])))
    for start in range(0, len(keys), batch_size):
        part = keys[start : start + batch_size]
        trees = [
            Tree(processor.encode_trunk(images[key], MODE), tuple(by_image[key].values()))
            for key in part
        ]
        means = iter(_mean_logprobs(model, trees, processor).exp().tolist())
        for key in part:
            for question, answer in by_image[key]:
                found[key, question, answer] = next(means)
    return [found[image.key, question, answer] for image, question, answer in asks]


@torch.no_grad()
def _mean_logprobs(model: nn.Module, trees: Sequence[Tree], processor: Processor) -> torch.Tensor:
    """Mean log-probability of the targets of each branch, (N,) float32 on the CPU."""
    batch = pack(trees, merge_size=processor.image_processor.merge_size)
    device = next(model.parameters()).device
    with evaluating(model):
        logprobs_K = token_logprobs(model, batch.to(device)).logprobs.cpu()
    sums_N = torch.zeros(batch.n_branches).index_add(0, batch.branch_index, logprobs_K)
    return sums_N / torch.bincount(batch.branch_index, minlength=batch.n_branches)
