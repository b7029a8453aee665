"""The models that users start from: what their config.json says on the hub.

No hub can be reached here. Sizes and forms were read in public copies: of Qwen2-VL in transformers'
configuration classes and in printed models, of Qwen2.5-VL-3B and Qwen3-VL-4B, 8B and 32B in copies
of the whole file, of the others in printed models. ``PARAMETERS``, as the hub's pages count them,
are what each shape must come to (``tests/model/test_hub_folder.py``).
"""

from __future__ import annotations

import copy

from transformers import AutoConfig, PreTrainedConfig

N_WORDS = 151643  # and then the special tokens
TOKENS = {
    "vision_start_token_id": N_WORDS + 9, "vision_end_token_id": N_WORDS + 10,
    "image_token_id": N_WORDS + 12, "video_token_id": N_WORDS + 13,
}  # fmt: skip
COMMON = {
    "attention_dropout": 0.0, "bos_token_id": N_WORDS, "eos_token_id": N_WORDS + 2,
    "hidden_act": "silu", "initializer_range": 0.02, "rms_norm_eps": 1e-06, "use_cache": True,
}  # fmt: skip
PATCHES = {"spatial_merge_size": 2, "temporal_patch_size": 2}


def text(width: int, mlp: int, layers: int, heads: int, key_heads: int) -> dict:
    return {
        "hidden_size": width, "intermediate_size": mlp, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": key_heads,
    }  # fmt: skip


def flat(kind: str, words: dict, vision: dict, *, tied: bool, context: int, windows: int) -> dict:
    """Before Qwen3-VL the language model's keys stand beside the others."""
    name = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL"}[kind]
    return COMMON | TOKENS | words | {
        "architectures": [f"{name}ForConditionalGeneration"], "model_type": kind,
        "vision_token_id": N_WORDS + 11, "vocab_size": 151936 if tied else 152064,
        "max_position_embeddings": context, "rope_theta": 1e6, "sliding_window": 32768,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "use_sliding_window": False, "max_window_layers": windows, "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16", "transformers_version": "4.41.2",
        "vision_config": PATCHES | vision | {
            "depth": 32, "num_heads": 16, "in_chans": 3, "patch_size": 14, "spatial_patch_size": 14,
        },
    }  # fmt: skip


def qwen2_vl(*sizes: int, tied: bool = False) -> dict:
    vision = {"embed_dim": 1280, "hidden_size": sizes[0], "mlp_ratio": 4}
    return flat("qwen2_vl", text(*sizes), vision, tied=tied, context=32768, windows=28)


def qwen2_5_vl(*sizes: int, tied: bool = False, windows: int, vision_mlp: int = 3420) -> dict:
    vision = {
        "hidden_size": 1280, "intermediate_size": vision_mlp, "out_hidden_size": sizes[0],
        "hidden_act": "silu", "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2,
    }  # fmt: skip
    return flat("qwen2_5_vl", text(*sizes), vision, tied=tied, context=128000, windows=windows)


def qwen3_vl(*sizes: int, tied: bool = False) -> dict:
    """The models with tied embeddings have a smaller tower."""
    vision = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304}
    if tied:
        vision = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096}
    rope = {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"}
    return TOKENS | {
        "architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl",
        "tie_word_embeddings": tied, "transformers_version": "4.57.0.dev0",
        "text_config": COMMON | text(*sizes) | {
            "attention_bias": False, "dtype": "bfloat16", "head_dim": 128, "vocab_size": 151936,
            "max_position_embeddings": 262144, "model_type": "qwen3_vl_text",
            "rope_scaling": rope, "rope_theta": 5000000, "tie_word_embeddings": tied,
        },
        "vision_config": PATCHES | vision | {
            "deepstack_visual_indexes": [5, 11, 17] if tied else [8, 16, 24], "num_heads": 16,
            "hidden_act": "gelu_pytorch_tanh", "in_channels": 3, "initializer_range": 0.02,
            "model_type": "qwen3_vl", "num_position_embeddings": 2304, "patch_size": 16,
            "out_hidden_size": sizes[0],
        },
    }  # fmt: skip


CONFIGS = {  # each "Qwen/<name>-Instruct"
    "Qwen2-VL-2B": qwen2_vl(1536, 8960, 28, 12, 2, tied=True),
    "Qwen2-VL-7B": qwen2_vl(3584, 18944, 28, 28, 4),
    "Qwen2.5-VL-3B": qwen2_5_vl(2048, 11008, 36, 16, 2, tied=True, windows=70),
    "Qwen2.5-VL-7B": qwen2_5_vl(3584, 18944, 28, 28, 4, windows=28),
    "Qwen2.5-VL-32B": qwen2_5_vl(5120, 27648, 64, 40, 8, windows=64, vision_mlp=3456),
    "Qwen3-VL-2B": qwen3_vl(2048, 6144, 28, 16, 8, tied=True),
    "Qwen3-VL-4B": qwen3_vl(2560, 9728, 36, 32, 8, tied=True),
    "Qwen3-VL-8B": qwen3_vl(4096, 12288, 36, 32, 8),
    "Qwen3-VL-32B": qwen3_vl(5120, 25600, 64, 64, 8),
}
PARAMETERS = {
    "Qwen2-VL-2B": 2_208_985_600, "Qwen2-VL-7B": 8_291_375_616,
    "Qwen2.5-VL-3B": 3_754_622_976, "Qwen2.5-VL-7B": 8_292_166_656,
    "Qwen2.5-VL-32B": 33_452_718_336,
    "Qwen3-VL-2B": 2_127_532_032, "Qwen3-VL-4B": 4_437_815_808, "Qwen3-VL-8B": 8_767_123_696,
}  # fmt: skip


def shape(model: str, share: int = 1) -> PreTrainedConfig:
    """Of one of ``CONFIGS``, with one layer in ``share`` of language model and tower."""
    content = copy.deepcopy(CONFIGS[model])
    config = AutoConfig.for_model(content.pop("model_type"), **content)
    words, vision = config.get_text_config(), config.vision_config
    words.num_hidden_layers //= share
    if getattr(words, "layer_types", None):
        words.layer_types = words.layer_types[: words.num_hidden_layers]
    vision.depth //= share
    for key in ("fullatt_block_indexes", "deepstack_visual_indexes"):
        if hasattr(vision, key):
            setattr(vision, key, [layer // share for layer in getattr(vision, key)])
    return config
