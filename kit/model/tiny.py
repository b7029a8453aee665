"""The embedded model: a Qwen2-VL of transformers' own classes, small enough for a CPU.

The folder ``tiny_base`` holds its weights, tokenizer and image processor;
``launch/pretrain_tiny.py`` makes it from scratch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import AddedToken, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer, Qwen2VLConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from kit.model.processor import Processor

# The special tokens of Qwen2-VL's tokenizer, in its order.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# Qwen2-VL-Instruct's chat template, without its options for numbering pictures and for video.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> Qwen2Tokenizer:
    """A byte-level BPE with Qwen2's pre-tokenizer (digits one by one), trained on ``texts``."""
    backend = Qwen2Tokenizer().backend_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    model = json.loads(backend.to_str())["model"]
    vocab, merges = model["vocab"], [tuple(m) for m in model["merges"]]
    vocab.pop("<|endoftext|>", None)
    vocab = {token: index for index, token in enumerate(sorted(vocab, key=vocab.get))}
    vocab |= {token: len(vocab) + index for index, token in enumerate(SPECIAL_TOKENS)}
    tokenizer = Qwen2Tokenizer(
        vocab=vocab,
        merges=merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=[
            t for t in SPECIAL_TOKENS if t not in ("<|im_end|>", "<|endoftext|>")
        ],
    )
    tokenizer.add_tokens([AddedToken(t, special=True) for t in SPECIAL_TOKENS])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_processor(tokenizer: Qwen2Tokenizer, pixels_a_side: int = 224) -> Processor:
    """The processor of the tiny model: images of at most ``pixels_a_side`` squared pixels."""
    size = {"shortest_edge": 56 * 56, "longest_edge": pixels_a_side**2}
    return Processor(tokenizer, Qwen2VLImageProcessorPil(size=size))


def tiny_config(tokenizer: Qwen2Tokenizer) -> Qwen2VLConfig:
    """About 1.7 million parameters in Qwen2-VL's shape. With a head size of 32, Qwen2-VL's own
    rotary base and sections would turn the columns of an image by less than a hundredth of a
    radian each: left and right would look the same."""
    ids = {t: tokenizer.convert_tokens_to_ids(t) for t in SPECIAL_TOKENS}
    return Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1000.0,
                "mrope_section": [2, 3, 11],
            },
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={"depth": 4, "embed_dim": 96, "num_heads": 3, "hidden_size": 128},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
