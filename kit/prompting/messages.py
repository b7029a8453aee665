"""From a question to chat messages, in the two prompting modes.

``think_answer`` asks for reasoning and an answer; ``caption_reason_answer`` asks the model to say
first what it sees, then why, where and what. In both the answer is one JSON object. The
instruction stands before the image and the question after it, so that all questions about one
image share everything up to the image's end.
"""

from __future__ import annotations

import json
from typing import Literal, get_args

from kit.data.records import SftRecord
from kit.data.targets import INSTRUCTION

Mode = Literal["think_answer", "caption_reason_answer"]

MODES: tuple[str, ...] = get_args(Mode)

PLAIN = "plain"  # the question alone, without an instruction: only to find out what a model does

INSTRUCTIONS = {
    "think_answer": (
        "Answer the question about this medical image. Think first. Reply with one JSON object "
        'with the keys "reasoning" (a list of short steps) and "answer" (short).'
    ),
    "caption_reason_answer": INSTRUCTION,
}

# Where a question shows several images, a box names its image by number.
INSTRUCTIONS_OF_SEVERAL = {
    "think_answer": (
        "Answer the question about these medical images. Think first. Reply with one JSON object "
        'with the keys "reasoning" (a list of short steps) and "answer" (short).'
    ),
    "caption_reason_answer": (
        "Look at these medical images and answer the question. Reply with exactly one JSON object "
        'with the keys "caption" (what the images show), "reasoning" (a list of short steps), '
        '"boxes" (the evidence as [image, x1, y1, x2, y2], the number of the image and a box on '
        'its 0 to 1000 grid, [] if none) and "answer" (short).'
    ),
}

REQUIRED_KEYS = {
    "think_answer": ("reasoning", "answer"),
    "caption_reason_answer": ("caption", "reasoning", "boxes", "answer"),
}


def build_messages(question: str, mode: str, n_images: int = 1) -> list[dict]:
    """The chat of one user turn, in the form that ``apply_chat_template`` takes. Several images
    are numbered, as boxes name them. ``mode``: one of ``MODES``, or ``PLAIN``.

    >>> [part["type"] for part in build_messages("Is there a mass?", "think_answer")[0]["content"]]
    ['text', 'image', 'text']
    >>> [p["text"] for p in build_messages("?", "think_answer", 2)[0]["content"] if "text" in p][1:]
    ['Image 1: ', '\\nImage 2: ', '\\n?']
    """
    if mode == PLAIN:
        shown = [{"type": "image"}] * n_images
    elif n_images == 1:
        shown = [{"type": "text", "text": INSTRUCTIONS[mode] + "\n"}, {"type": "image"}]
    else:
        shown = [{"type": "text", "text": INSTRUCTIONS_OF_SEVERAL[mode] + "\n"}]
        for number in range(1, n_images + 1):
            start = "\n" * (number > 1)
            shown += [{"type": "text", "text": f"{start}Image {number}: "}, {"type": "image"}]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": "\n" + question}]}]


DIRECT_START = '{"answer": "'


def direct_answer(answer: str) -> tuple[str, str]:
    """A turn that answers at once, without caption or reasoning: its beginning, which names no
    answer and is always given, and the rest.

    What a model says after that beginning rests on image and question alone, while an answer at
    the end of its reasoning follows from the reasoning.

    >>> direct_answer("a 3 cm mass")
    ('{"answer": "', 'a 3 cm mass"}')
    """
    return DIRECT_START, json.dumps(answer, ensure_ascii=False)[1:] + "}"


def target_text(record: SftRecord, mode: str) -> str:
    """The answer that a mode teaches: the record's JSON object with that mode's keys.

    >>> output = '{"caption": "c", "reasoning": [], "boxes": [], "answer": "a"}'
    >>> target_text(SftRecord(output, "image", "question", "a"), "think_answer")
    '{"reasoning": [], "answer": "a"}'
    """
    if mode == "caption_reason_answer":
        return record.output
    output = json.loads(record.output)
    return json.dumps({key: output[key] for key in REQUIRED_KEYS[mode]}, ensure_ascii=False)


def modes_of(prompting_mode: str) -> tuple[str, ...]:
    """The modes that a configuration's ``prompting_mode`` stands for.

    >>> modes_of("both"), modes_of("think_answer")
    (('think_answer', 'caption_reason_answer'), ('think_answer',))
    """
    return MODES if prompting_mode == "both" else (prompting_mode,)
