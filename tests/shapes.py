"""Models of the real size, by their configuration."""

from __future__ import annotations

from transformers import AutoConfig, PreTrainedConfig

from kit.model.tiny import base_folder

# Qwen2-VL-2B-Instruct's config.json
TEXT = {
    "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12,
    "num_key_value_heads": 2, "intermediate_size": 8960, "vocab_size": 151936,
}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
VISION = {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16}


def qwen2_vl_2b(share: int = 1) -> PreTrainedConfig:
    """The 2B model's shape, with the tokens and patches of the embedded one; with one layer in
    ``share`` of language model and tower."""
    config = AutoConfig.from_pretrained(base_folder())
    for key, value in TEXT.items():
        setattr(config.text_config, key, value)
    config.text_config.rope_parameters = ROPE
    for key, value in VISION.items():
        setattr(config.vision_config, key, value)
    config.text_config.num_hidden_layers //= share
    config.vision_config.depth //= share
    config.text_config.layer_types = ["full_attention"] * config.text_config.num_hidden_layers
    return config
