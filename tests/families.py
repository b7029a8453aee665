"""A small model of each family with random weights and the embedded model's words, as a folder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl
from transformers.models.qwen2_vl import modeling_qwen2_vl
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl import modeling_qwen3_vl

from kit.model.load import load_processor

NORMS = {
    modeling_qwen2_vl: "Qwen2VLRMSNorm", modeling_qwen2_5_vl: "Qwen2_5_VLRMSNorm",
    modeling_qwen3_vl: "Qwen3VLTextRMSNorm",
}  # fmt: skip
NAMELESS = 10  # rows of the head without a token, as on the hub
TEXT = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 4096,
}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 1000.0}
TOWER = {"depth": 3, "hidden_size": 48, "num_heads": 3, "out_hidden_size": 64}
SHAPES = {
    "qwen2_vl": {
        "tie_word_embeddings": True,
        "text_config": {"rope_parameters": ROPE | {"mrope_section": [2, 3, 3]}},
        "vision_config": {"depth": 3, "embed_dim": 48, "num_heads": 3, "hidden_size": 64},
    },
    "qwen2_5_vl": {  # windows of 2 x 2 tokens in all blocks but the second
        "text_config": {"rope_parameters": ROPE | {"mrope_section": [2, 3, 3]}},
        "vision_config": TOWER
        | {"intermediate_size": 64, "window_size": 56, "fullatt_block_indexes": [1]},
    },
    "qwen3_vl": {
        "tie_word_embeddings": True,
        "text_config": {
            "head_dim": 24,  # not a head's share of the hidden size
            "rope_parameters": ROPE | {"mrope_section": [4, 4, 4], "mrope_interleaved": True},
        },
        "vision_config": TOWER
        | {"intermediate_size": 64, "num_position_embeddings": 36}
        | {"deepstack_visual_indexes": [0, 2]},
    },
}  # fmt: skip


def write_family(model_type: str, folder: Path) -> None:
    """A base model's folder."""
    torch.manual_seed(0)
    processor, shape = load_processor("tiny"), SHAPES[model_type]
    ids = processor.tokenizer.convert_tokens_to_ids
    text = TEXT | {"vocab_size": len(processor.tokenizer) + NAMELESS} | shape["text_config"]
    config = AutoConfig.for_model(
        model_type,
        **shape | {"text_config": text},
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)  # not so small that attention is even
        elif "bias" in name:
            nn.init.normal_(parameter, std=0.1)
        else:
            nn.init.uniform_(parameter, 0.5, 1.5)
    model.generation_config = GenerationConfig(
        eos_token_id=processor.end_of_turn_id, pad_token_id=ids("<|endoftext|>")
    )
    model.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    own = {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    Qwen2VLImageProcessorPil(
        size={"shortest_edge": 56 * 56, "longest_edge": 224**2},
        **own if model_type == "qwen3_vl" else {},
    ).save_pretrained(folder)


def compute_exactly(monkeypatch) -> None:
    """In the type of the input, what transformers computes in float32 throughout: norms, and the
    rotation of a tower's queries and keys."""

    def norm(self, x):
        return self.weight * x / (x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).sqrt()

    for module, name in NORMS.items():

        def rotate(q, k, cos, sin, half=module.rotate_half):
            cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
            return q * cos + half(q) * sin, k * cos + half(k) * sin

        monkeypatch.setattr(getattr(module, name), "forward", norm)
        monkeypatch.setattr(module, "apply_rotary_pos_emb_vision", rotate)
