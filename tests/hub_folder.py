"""A folder laid out as the hub's Qwen2-VL-2B-Instruct: the names that its weights had before
transformers 4.52, two shards with an index, a flat configuration, its list of end tokens, the chat
template in a file of its own, 151,936 words.

The weights are random but for the last layer's MLP, which knows one answer by heart, a word after
the other, and then is torn between two ends, one of which is not valid: so the folder's model
claims boxes, completions of a prompt differ in reward, and every stage has something to work on.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AddedToken, AutoConfig, AutoTokenizer, Qwen2Tokenizer
from transformers import Qwen2VLForConditionalGeneration as Qwen2VL

from kit.model.load import load_processor
from kit.model.tiny import CHAT_TEMPLATE, SPECIAL_TOKENS

N_WORDS = 151643  # and then the special tokens
CONFIG = {
    "architectures": ["Qwen2VLForConditionalGeneration"], "attention_dropout": 0.0,
    "bos_token_id": N_WORDS, "eos_token_id": N_WORDS + 2, "vision_start_token_id": N_WORDS + 9,
    "vision_end_token_id": N_WORDS + 10, "vision_token_id": N_WORDS + 11,
    "image_token_id": N_WORDS + 12, "video_token_id": N_WORDS + 13, "hidden_act": "silu",
    "hidden_size": 1536, "initializer_range": 0.02, "intermediate_size": 8960,
    "max_position_embeddings": 32768, "max_window_layers": 28, "model_type": "qwen2_vl",
    "num_attention_heads": 12, "num_hidden_layers": 28, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.41.2",
    "use_cache": True, "use_sliding_window": False, "vocab_size": 151936,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vision_config": {
        "depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "in_chans": 3,
        "hidden_size": 1536, "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14,
        "temporal_patch_size": 2,
    },
}  # fmt: skip
SMALL = {  # for a try in seconds
    "hidden_size": 256, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 4096,
    "vision_config": CONFIG["vision_config"] | {
        "depth": 2, "embed_dim": 64, "hidden_size": 256, "num_heads": 2,
    },
}  # fmt: skip
GENERATION = {
    "bos_token_id": N_WORDS, "do_sample": True, "eos_token_id": [N_WORDS + 2, N_WORDS],
    "pad_token_id": N_WORDS, "repetition_penalty": 1.0, "temperature": 0.01, "top_k": 1,
    "top_p": 0.001, "transformers_version": "4.37.0",
}  # fmt: skip
PREPROCESSOR = {
    "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2,
    "merge_size": 2, "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor",
}  # fmt: skip
OLD_NAMES = {"model.visual.": "visual.", "model.language_model.": "model."}
STD = 0.001  # so small that words pass the layers nearly unchanged
LOGIT = 30.0  # of a word that is certain; all others together reach 12

# No two the same, as a word follows from the one before.
ANSWER = (
    '{ "caption": "what', " lies", ' there",', ' "reasoning": ["it', " is", ' seen"],',
    ' "boxes": [[', "300,", " 450,", " 420,", " 570]],", ' "answer":',
)  # fmt: skip
ENDS = (' "yes" }', ' "no"')


def write_hub_folder(
    folder: Path, *, tokenizer: Path | None = None, shard_bytes: int = 4 * 10**9, **changes
) -> Path:
    """Write the folder.

    Args:
        tokenizer: the folder of Qwen2's own; left out: the embedded one with words added to it.
        changes: of ``CONFIG``.
    """
    folder.mkdir(parents=True)
    words = AutoTokenizer.from_pretrained(tokenizer) if tokenizer else padded_tokenizer()
    chain = answer_chain(words)
    words.chat_template = None
    words.save_pretrained(folder)
    for name, content in {
        "chat_template.json": {"chat_template": CHAT_TEMPLATE},
        "config.json": CONFIG | changes,
        "generation_config.json": GENERATION,
        "preprocessor_config.json": PREPROCESSOR,
    }.items():
        (folder / name).write_text(json.dumps(content, indent=2))
    with torch.device("meta"):
        shapes = Qwen2VL(AutoConfig.from_pretrained(folder)).state_dict()
    shapes.pop("lm_head.weight")  # the embedding
    shards: list[list[str]] = [[]]
    for name, weight in shapes.items():
        size = sum(2 * shapes[other].numel() for other in shards[-1])
        if size + 2 * weight.numel() > shard_bytes:
            shards.append([])
        shards[-1].append(name)
    torch.manual_seed(0)
    where, embedding = {}, random_words(shapes["model.language_model.embed_tokens.weight"])
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        weights = {old_name(name): random_weight(name, shapes[name], embedding) for name in names}
        remember(weights, chain, embedding, last_layer=(CONFIG | changes)["num_hidden_layers"] - 1)
        where |= dict.fromkeys(weights, file)
        save_file(weights, folder / file, metadata={"format": "pt"})
    total = sum(2 * weight.numel() for weight in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return folder


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
    if "embed_tokens" in name:
        return embedding
    weight = torch.zeros(shape.shape, dtype=torch.bfloat16)
    if "norm" in name or "ln_q" in name:
        return weight.fill_(1.0) if name.endswith("weight") else weight
    return weight.normal_(std=STD)


def remember(weights: dict[str, Tensor], chain: list, embedding: Tensor, *, last_layer: int):
    """One neuron a word, in the last layer: it fires at the word and writes what follows."""
    width = embedding.shape[1]
    word_norm = LOGIT / width**0.5
    fires_at = (0.5 * width**0.5) ** 2  # as normalised states are of length sqrt(width)
    for kind in ("gate", "up", "down"):
        weight = weights.get(f"model.layers.{last_layer}.mlp.{kind}_proj.weight")
        for neuron, (word, following) in enumerate(chain if weight is not None else []):
            if kind == "down":
                words = embedding[list(following)].float()
                after = (words / words.square().sum(dim=1, keepdim=True)).sum(dim=0)  # as likely
                weight[:, neuron] = 10 * word_norm * after / after.norm() / fires_at
            else:
                key = embedding[word].float()
                weight[neuron] = 0.5 * key / key.norm()
