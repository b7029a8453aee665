"""Tokenizer and image processor of a Qwen2-VL checkpoint, and how a prompt becomes tokens.

transformers' own ``Qwen2VLProcessor`` cannot be built where torchvision is missing (its video
processor needs it), so the kit holds the two parts that it uses.
"""

from __future__ import annotations

import hashlib
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

    ``image_processor`` is transformers' ``Qwen2VLImageProcessor`` (or its PIL form),
    ``tokenizer`` a ``Qwen2Tokenizer`` with Qwen2-VL's special tokens and chat template.
    """

    tokenizer: object
    image_processor: object

    @cached_property
    def image_token_id(self) -> int:
        return self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)

    @cached_property
    def end_of_turn_id(self) -> int:
        return self.tokenizer.convert_tokens_to_ids(END_OF_TURN)

    @cached_property
    def unsampled_ids(self) -> list[int]:
        """Special tokens that must never be generated: a sampled image token corrupts every
        later batch. All of them but the end of the turn; words that were added are none."""
        special = {
            index
            for index, token in self.tokenizer.added_tokens_decoder.items()
            if token.special or CONTROL_TOKEN.fullmatch(token.content)
        }
        return sorted(special - {self.end_of_turn_id})

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
        n_tokens = int(grid.prod()) // merge
        return PreparedImage(name.hexdigest(), prepared["pixel_values"], grid, n_tokens)

    def split_prompt(self, question: str, mode: str) -> tuple[str, str]:
        """The chat text of a prompt before the image placeholder and after it."""
        text = self.tokenizer.apply_chat_template(
            build_messages(question, mode), tokenize=False, add_generation_prompt=True
        )
        head, _, tail = text.partition(IMAGE_TOKEN)
        return head, tail

    def encode_trunk(self, image: PreparedImage | None, mode: str) -> Trunk:
        """Everything that all questions of one image and mode share: system turn, instruction
        and image, up to and including ``<|vision_end|>``; or the same without an image."""
        head, tail = self.split_prompt("", mode)
        if image is None:
            ids = torch.tensor(self.encode(head.removesuffix(VISION_START)))
            return Trunk(ids, self.image_token_id, "", None, None)
        end = tail[: tail.index(VISION_END) + len(VISION_END)]
        ids = self.encode(head) + [self.image_token_id] * image.n_tokens + self.encode(end)
        return Trunk(
            input_ids=torch.tensor(ids),
            image_token_id=self.image_token_id,
            image_key=image.key,
            pixel_values=image.pixel_values,
            image_grid_thw=image.image_grid_thw,
        )

    def encode_question(self, question: str, mode: str) -> list[int]:
        """The rest of the prompt: the question, up to and including ``assistant\\n``."""
        _, tail = self.split_prompt(question, mode)
        return self.encode(tail.partition(VISION_END)[2])

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
    """An image as the vision tower takes it.

    ``pixel_values``: float32 ``(patches, channels * temporal * patch * patch)``;
    ``image_grid_thw``: int64 ``(1, 3)``; ``n_tokens``: placeholders after merging.
    """

    key: str
    pixel_values: torch.Tensor
    image_grid_thw: torch.Tensor
    n_tokens: int
