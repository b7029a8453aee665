"""Tokenizer and image processor of a base model, and how a prompt becomes tokens.

transformers' own processors cannot be built where torchvision is missing (their video processor
needs it), so the kit holds the two parts that it uses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image

from kit.data.fields import CONTROL_TOKEN
from kit.model.sharing import Trunk
from kit.prompting.messages import build_messages, direct_answer

IMAGE_TOKEN = "<|image_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
END_OF_TURN = "<|im_end|>"


@dataclass(frozen=True)
class Processor:
    """What turns images and text into model inputs.

    ``image_processor`` is transformers' ``Qwen2VLImageProcessor`` (or its PIL form), ``tokenizer``
    a ``Qwen2Tokenizer`` with the special tokens and chat template of a family
    (``kit.model.families``); ``rows`` as many tokens as the model can choose from (0: not known).
    """

    tokenizer: object
    image_processor: object
    rows: int = 0

    @cached_property
    def image_token_id(self) -> int:
        return self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)

    @cached_property
    def end_of_turn_id(self) -> int:
        return self.tokenizer.convert_tokens_to_ids(END_OF_TURN)

    @cached_property
    def unsampled_ids(self) -> list[int]:
        """Special tokens that must never be generated: a sampled image token corrupts every
        later batch. All of them but the end of the turn; words that were added are none. Nor
        what the model has weights for and the tokenizer no token."""
        special = {
            index
            for index, token in self.tokenizer.added_tokens_decoder.items()
            if token.special or CONTROL_TOKEN.fullmatch(token.content)
        }
        nameless = set(range(self.rows)) - set(self.tokenizer.get_vocab().values())
        return sorted((special | nameless) - {self.end_of_turn_id})

    def prepare_image(self, image: Image.Image) -> PreparedImage:
        """Resize, normalise and cut an RGB image into patches.

        Its key follows from its pixels and the bounds of its size: trunks with equal keys show the
        same image, which passes through the vision tower once.
        """
        bounds = sorted(dict(self.image_processor.size).items())
        name = hashlib.sha256(repr((image.mode, image.size, bounds)).encode())
        name.update(image.tobytes())
        prepared = self.image_processor(images=[image], return_tensors="pt")
        grid = prepared["image_grid_thw"]
        merge = self.image_processor.merge_size**2
        places = int(grid.prod()) // merge
        return PreparedImage((name.hexdigest(),), prepared["pixel_values"], grid, (places,))

    def prompt_text(self, question: str, mode: str, n_images: int = 1) -> str:
        """The chat text of a prompt, with one placeholder an image."""
        return self.tokenizer.apply_chat_template(
            build_messages(question, mode, n_images), tokenize=False, add_generation_prompt=True
        )

    def encode_trunk(self, image: PreparedImage | None, mode: str) -> Trunk:
        """Everything that all questions of one image (or of the same images) and mode share:
        system turn, instruction and image, up to and including the last ``<|vision_end|>``; or
        the same without an image."""
        if image is None:
            head, _, _ = self.prompt_text("", mode).partition(VISION_START)
            return Trunk(torch.tensor(self.encode(head)), self.image_token_id, (), None, None)
        shared, _, _ = self.prompt_text("", mode, len(image.keys)).rpartition(VISION_END)
        head, *others = f"{shared}{VISION_END}".split(IMAGE_TOKEN)
        ids = self.encode(head)
        for n_tokens, text in zip(image.places, others, strict=True):
            ids += [self.image_token_id] * n_tokens + self.encode(text)
        return Trunk(
            input_ids=torch.tensor(ids),
            image_token_id=self.image_token_id,
            image_keys=image.keys,
            pixel_values=image.pixel_values,
            image_grid_thw=image.image_grid_thw,
        )

    def encode_question(self, question: str, mode: str) -> list[int]:
        """The rest of the prompt: the question, up to and including ``assistant\\n``."""
        return self.encode(self.prompt_text(question, mode).rpartition(VISION_END)[2])

    def encode_answer(self, answer: str) -> list[int]:
        """The assistant's tokens, exactly what is supervised: answer and end of the turn."""
        return [*self.encode(answer), self.end_of_turn_id]

    def encode_direct(self, question: str, mode: str, answer: str) -> tuple[list[int], list[int]]:
        """The question with the beginning of a direct answer, and the answer that is scored after
        it (``kit.prompting.messages.direct_answer``)."""
        start, rest = direct_answer(answer)
        return self.encode_question(question, mode) + self.encode(start), self.encode(rest)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def decode(self, ids: list[int]) -> str:
        """Completion tokens to text, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def save(self, folder: str | Path) -> None:
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)


@dataclass(frozen=True)
class PreparedImage:
    """An image as the vision tower takes it, or the images of one question.

    ``keys`` name each by its content; ``pixel_values``: float32
    ``(patches, channels * temporal * patch * patch)``; ``image_grid_thw``: int64 ``(images, 3)``;
    ``places``: placeholders of each after merging.
    """

    keys: tuple[str, ...]
    pixel_values: torch.Tensor
    image_grid_thw: torch.Tensor
    places: tuple[int, ...]

    @property
    def key(self) -> str:
        """The name of them all."""
        return "+".join(self.keys)

    @property
    def n_tokens(self) -> int:
        """Placeholders of them all."""
        return sum(self.places)

    @classmethod
    def together(cls, images: Sequence[PreparedImage]) -> PreparedImage:
        """Images that are shown together, in order; the single one as it is."""
        if len(images) == 1:
            return images[0]
        return cls(
            tuple(key for image in images for key in image.keys),
            torch.cat([image.pixel_values for image in images]),
            torch.cat([image.image_grid_thw for image in images]),
            tuple(n for image in images for n in image.places),
        )
