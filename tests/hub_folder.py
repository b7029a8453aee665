"""Folders laid out as the hub's Qwen2-VL-2B-, Qwen2.5-VL-3B- and Qwen3-VL-2B-Instruct: the names of
their weights (before transformers 4.52 for the first two), shards with an index or one file, a flat
or a nested configuration, a list of end tokens, the chat template in a file of its own, 151,936
words. Other sizes of ``shapes.CONFIGS`` follow the first of their family.

The weights are random but for the last layer's MLP, which knows one answer by heart, a word after
the other, and then is torn between two ends, one of which is not valid: so the folder's model
claims boxes, completions of a prompt differ in reward, and every stage has something to work on.

The files beside the weights are as in public copies: of Qwen3-VL the list of files (one of weights
at 2B), preprocessors, chat template and generation settings (QwenLM/Qwen3-VL, issue 1825).
"""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from shapes import CONFIGS, N_WORDS
from torch import Tensor
from transformers import AddedToken, AutoConfig, AutoTokenizer, Qwen2Tokenizer
from transformers import AutoModelForImageTextToText as AnyModel

from kit.model.load import load_processor
from kit.model.tiny import CHAT_TEMPLATE, SPECIAL_TOKENS

GENERATION = {
    "bos_token_id": N_WORDS, "do_sample": True, "eos_token_id": [N_WORDS + 2, N_WORDS],
    "pad_token_id": N_WORDS,
}  # fmt: skip
GENERATIONS = {
    "qwen2_vl": {"repetition_penalty": 1.0, "temperature": 0.01, "top_k": 1, "top_p": 0.001},
    "qwen2_5_vl": {"repetition_penalty": 1.05, "temperature": 1e-06},
    "qwen3_vl": {"repetition_penalty": 1.0, "temperature": 0.7, "top_k": 20, "top_p": 0.8},
}
PREPROCESSOR = {
    "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2,
    "merge_size": 2, "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor",
}  # fmt: skip
PREPROCESSOR_3 = {
    "size": {"shortest_edge": 65536, "longest_edge": 16777216}, "patch_size": 16,
    "temporal_patch_size": 2, "merge_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    "image_processor_type": "Qwen2VLImageProcessorFast", "processor_class": "Qwen3VLProcessor",
}  # fmt: skip
VIDEO_3 = {key: value for key, value in PREPROCESSOR_3.items() if not key.startswith("image_p")} | {
    "size": {"shortest_edge": 4096, "longest_edge": 25165824},
    "video_processor_type": "Qwen3VLVideoProcessor",
}
PREPROCESSORS = {
    "qwen2_vl": {"preprocessor_config.json": PREPROCESSOR},
    "qwen2_5_vl": {
        "preprocessor_config.json": PREPROCESSOR | {"processor_class": "Qwen2_5_VLProcessor"}
    },
    "qwen3_vl": {
        "preprocessor_config.json": PREPROCESSOR_3,
        "video_preprocessor_config.json": VIDEO_3,
    },
}
# Qwen3-VL's makes no system turn up
CHAT_TEMPLATE_3 = re.sub("{% if loop.first.*?{% endif %}", "", CHAT_TEMPLATE, flags=re.DOTALL)
OLD_NAMES = {"model.visual.": "visual.", "model.language_model.": "model."}
SHARD_BYTES = {"qwen2_vl": 4 * 10**9, "qwen2_5_vl": 4 * 10**9, "qwen3_vl": 5 * 10**9}
STD = 0.001  # so small that words pass the layers nearly unchanged
LOGIT = 30.0  # of a word that is certain; all others together reach 12

# No two the same, as a word follows from the one before.
ANSWER = (
    '{ "caption": "what', " lies", ' there",', ' "reasoning": ["it', " is", ' seen"],',
    ' "boxes": [[', "300,", " 450,", " 420,", " 570]],", ' "answer":',
)  # fmt: skip
ENDS = (' "yes" }', ' "no"')


def write_hub_folder(
    folder: Path,
    model: str = "Qwen2-VL-2B",
    *,
    small: bool = False,
    tokenizer: Path | None = None,
    shard_bytes: int | None = None,
    weights: bool = True,
) -> Path:
    """Write the folder.

    Args:
        model: one of ``shapes.CONFIGS``.
        small: of two layers, for a try in seconds.
        tokenizer: the folder of Qwen2's own; left out: the embedded one with words added to it.
        shard_bytes: the most of a file; left out: as on the hub.
        weights: without them the folder serves what asks for shapes only.
    """
    folder.mkdir(parents=True)
    words = AutoTokenizer.from_pretrained(tokenizer) if tokenizer else padded_tokenizer()
    chain = answer_chain(words)
    words.chat_template = None
    words.save_pretrained(folder)
    config = small_config(CONFIGS[model]) if small else CONFIGS[model]
    kind = config["model_type"]
    template = CHAT_TEMPLATE_3 if kind == "qwen3_vl" else CHAT_TEMPLATE
    for name, content in {
        "chat_template.json": {"chat_template": template},
        "config.json": config,
        "generation_config.json": GENERATION | GENERATIONS[kind],
        **PREPROCESSORS[kind],
    }.items():
        (folder / name).write_text(json.dumps(content, indent=2))
    if weights:
        write_weights(folder, chain, shard_bytes or SHARD_BYTES[kind])
    else:
        save_file({}, folder / "model.safetensors")
    return folder


def write_weights(folder: Path, chain: list, shard_bytes: int) -> None:
    """In files of so many bytes, and their index; in one file where that is enough."""
    config = AutoConfig.from_pretrained(folder)
    old = config.model_type != "qwen3_vl"
    with torch.device("meta"):
        shapes = AnyModel.from_config(config).state_dict()
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight")
    shards: list[list[str]] = [[]]
    for name, weight in shapes.items():
        size = sum(2 * shapes[other].numel() for other in shards[-1])
        if size + 2 * weight.numel() > shard_bytes:
            shards.append([])
        shards[-1].append(name)
    torch.manual_seed(0)
    last = f"model.language_model.layers.{config.get_text_config().num_hidden_layers - 1}.mlp."
    where, embedding = {}, random_words(shapes["model.language_model.embed_tokens.weight"])
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        if len(shards) == 1:
            file = "model.safetensors"
        weights = {name: random_weight(name, shapes[name], embedding) for name in names}
        remember(weights, chain, embedding, prefix=last)
        weights = {old_name(name) if old else name: weight for name, weight in weights.items()}
        where |= dict.fromkeys(weights, file)
        save_file(weights, folder / file, metadata={"format": "pt"})
    if len(shards) > 1:
        total = sum(2 * weight.numel() for weight in shapes.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def small_config(config: dict) -> dict:
    """The same with two layers of language model and tower, and narrow."""
    text = {
        "hidden_size": 256, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 4096,
    }  # fmt: skip
    widths = {"embed_dim": 64, "hidden_size": 256}
    if config["model_type"] != "qwen2_vl":
        widths = {"hidden_size": 64, "intermediate_size": 96, "out_hidden_size": 256}
    layers = {"fullatt_block_indexes": [1], "deepstack_visual_indexes": [0, 1]}
    vision = config["vision_config"] | {"depth": 2, "num_heads": 2} | widths
    vision |= {key: value for key, value in layers.items() if key in vision}
    if "text_config" in config:
        return config | {"text_config": config["text_config"] | text, "vision_config": vision}
    return config | text | {"vision_config": vision}


def padded_tokenizer() -> Qwen2Tokenizer:
    """The embedded tokenizer with words that no text is taken apart into, up to as many as
    Qwen2's has, and the special tokens behind them as there."""
    model = json.loads(load_processor("tiny").tokenizer.backend_tokenizer.to_str())["model"]
    vocab = [w for w in sorted(model["vocab"], key=model["vocab"].get) if w not in SPECIAL_TOKENS]
    vocab += [f"Ġword{number}" for number in range(N_WORDS - len(vocab))]
    tokenizer = Qwen2Tokenizer(
        vocab={word: index for index, word in enumerate([*vocab, *SPECIAL_TOKENS])},
        merges=[tuple(pair) for pair in model["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=[*SPECIAL_TOKENS[1:2], *SPECIAL_TOKENS[3:]],
    )
    tokenizer.add_tokens([AddedToken(t, special=True) for t in SPECIAL_TOKENS])
    return tokenizer


def answer_chain(tokenizer) -> list[tuple[int, tuple[int, ...]]]:
    """Which words follow a word, from the end of the prompt to the end of the turn. Those of
    ``ANSWER`` that are not in the vocabulary are added to it, where the real one has room too."""
    for text in (*ANSWER, *ENDS):
        if len(tokenizer.encode(text)) > 1:
            tokenizer.add_tokens([AddedToken(text, normalized=False)])
    start = tokenizer.encode("<|im_start|>assistant\n")[-1]
    words = [start, *(tokenizer.encode(text)[0] for text in ANSWER)]
    last = tuple(tokenizer.encode(text)[0] for text in ENDS)
    end = (tokenizer.convert_tokens_to_ids("<|im_end|>"),)
    assert len({*words, *last}) == len(words) + len(last), "a word follows from the one before"
    chain = [(word, (after,)) for word, after in itertools.pairwise(words)]
    return [*chain, (words[-1], last), *((word, end) for word in last)]


def old_name(name: str) -> str:
    for new, old in OLD_NAMES.items():
        name = name.replace(new, old, 1) if name.startswith(new) else name
    return name


def random_words(shape: Tensor) -> Tensor:
    return torch.empty(shape.shape, dtype=torch.bfloat16).normal_(std=LOGIT / shape.shape[1])


def random_weight(name: str, shape: Tensor, embedding: Tensor) -> Tensor:
    if "embed_tokens" in name or "lm_head" in name:
        return embedding
    weight = torch.zeros(shape.shape, dtype=torch.bfloat16)
    if "norm" in name or "ln_q" in name:
        return weight.fill_(1.0) if name.endswith("weight") else weight
    return weight.normal_(std=STD)


def remember(weights: dict[str, Tensor], chain: list, embedding: Tensor, *, prefix: str) -> None:
    """One neuron a word, in the last layer: it fires at the word and writes what follows."""
    width = embedding.shape[1]
    word_norm = LOGIT / width**0.5
    fires_at = (0.5 * width**0.5) ** 2  # as normalised states are of length sqrt(width)
    for kind in ("gate", "up", "down"):
        weight = weights.get(f"{prefix}{kind}_proj.weight")
        for neuron, (word, following) in enumerate(chain if weight is not None else []):
            if kind == "down":
                words = embedding[list(following)].float()
                after = (words / words.square().sum(dim=1, keepdim=True)).sum(dim=0)  # as likely
                weight[:, neuron] = 10 * word_norm * after / after.norm() / fires_at
            else:
                key = embedding[word].float()
                weight[neuron] = 0.5 * key / key.norm()
