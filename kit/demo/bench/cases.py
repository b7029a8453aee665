"""What is measured: shapes, and the images, questions and answers that they stand for."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from transformers import Qwen2VLForConditionalGeneration

from kit.data.records import SftRecord

MODE = "caption_reason_answer"
PATCHES = 28  # pixels a side of a token
R, ALPHA, BETA, LEARNING_RATE = 16, 32, 0.04, 1e-5
# questions and answers as SLAKE has them of one image
ASKED = (
    ("What modality is used to take this image?", "the imaging modality", [], "MRI"),
    ("Which part of the body does this image belong to?", "a position", [], "Abdomen"),
    ("What is the mr weighting in this image?", "the imaging modality", [], "T2"),
    ("Does the picture contain liver?", "the liver", [[211, 414, 328, 535]], "Yes"),
    ("Does the picture contain kidney?", "the kidney", [], "No"),
    ("Does the picture contain spleen?", "the spleen", [], "No"),
    ("Where is the liver?", "the position of the liver", [[211, 414, 328, 535]], "Right"),
    ("What is the largest organ in the picture?", "size", [[211, 414, 328, 535]], "Liver"),
    ("Does the liver look healthy?", "an abnormality", [[211, 414, 328, 535]], "No"),
    ("What is the main organ in the image?", "organs", [], "Liver, Kidney"),
    ("Where is the abnormality in this image?", "a position", [[240, 430, 260, 455]], "Liver"),
)


@dataclass(frozen=True)
class Shape:
    """``images`` with so many ``each`` of completions (GRPO) or questions; ``tokens`` of an image;
    ``length`` in tokens of what is generated; how many ``words`` the question of GRPO has. Each
    step sees new images, as in the first epoch, or those that it has ``seen``, as in later ones.
    ``checkpointing``: SFT recomputes activations, as by ``launch/configs/sft.yaml``."""

    name: str
    job: str = "grpo"
    images: int = 2
    each: int = 8
    tokens: int = 256
    length: int = 64
    words: int = 8
    vocabulary: int = 806
    seen: bool = False
    checkpointing: bool = False


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("usual"),
        Shape("long completions", each=16, length=128),
        Shape("short prompt", tokens=16, words=4),
        Shape("long prompt", tokens=1225, words=40),
        Shape("large vocabulary", vocabulary=151_936),
        Shape("sft slake", "sft", images=1, each=11),
        Shape("sft single", "sft", images=8, each=1),
        Shape("sft single checkpointed", "sft", images=8, each=1, checkpointing=True),
        Shape(
            "sft single checkpointed later", "sft", images=8, each=1, checkpointing=True, seen=True
        ),
        Shape("sft slake later", "sft", images=1, each=11, seen=True),
        Shape("sft single later", "sft", images=8, each=1, seen=True),
        Shape("evaluation slake", "evaluation", images=4, each=11),
        Shape("evaluation single", "evaluation", images=16, each=1),
        Shape("sweep", "sweep"),
        Shape("small", images=1, each=4, tokens=16, length=8),
        Shape("sft small", "sft", images=2, each=2, tokens=16),
        Shape("evaluation small", "evaluation", images=2, each=3, tokens=16, length=8),
        Shape("sweep small", "sweep", length=8),
    )
}


@dataclass(frozen=True)
class Case:
    """A shape on a base model (folder or hub name) and a device, in bfloat16 or float32, with
    images for so many ``rounds``."""

    base: str
    shape: Shape
    rounds: int
    device: str = "cpu"
    half: bool = False

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.half else torch.float32

    def accelerator(self) -> Accelerator:
        precision = "bf16" if self.half else "no"
        return Accelerator(cpu=self.device == "cpu", mixed_precision=precision)

    def plain_model(self) -> Qwen2VLForConditionalGeneration:
        """Transformers' own."""
        model = Qwen2VLForConditionalGeneration.from_pretrained(self.base, dtype=self.dtype)
        return model.to(self.device)

    @property
    def question(self) -> str:
        return " ".join(["Where is the nodule?", *["there"] * (self.shape.words - 4)])

    @cached_property
    def paths(self) -> list[list[str]]:
        """Files of the images of each round."""
        folder, rng = Path(tempfile.mkdtemp()), np.random.default_rng(0)
        side = PATCHES * round(self.shape.tokens**0.5)
        paths = []
        for number in range(self.rounds):
            paths.append([str(folder / f"{number}_{i}.png") for i in range(self.shape.images)])
            for path in paths[-1]:
                pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path, compress_level=1)
        return [paths[0]] * self.rounds if self.shape.seen else paths

    def records(self, number: int) -> list[SftRecord]:
        """The questions of a round, those of an image together."""
        return [
            SftRecord(_output(*rest), path, question, rest[-1])
            for path in self.paths[number % self.rounds]
            for question, *rest in ASKED[: self.shape.each]
        ]


def _output(asks_about: str, boxes: list, answer: str) -> str:
    reasoning = [f"The question asks about {asks_about}.", f"So the answer is {answer}."]
    caption = "MRI of the abdomen showing the liver."
    return json.dumps(
        {"caption": caption, "reasoning": reasoning, "boxes": boxes, "answer": answer}
    )
