"""Loading base models, LoRA adapters and processors.

Weights come from safetensors only and no remote code is run. A local folder never touches a hub.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BitsAndBytesConfig,
    Qwen2VLForConditionalGeneration,
)

from kit.errors import UserError
from kit.model.processor import END_OF_TURN, IMAGE_TOKEN, Processor
from kit.model.tiny import TINY, base_folder
from kit.prompting.messages import MODES, build_messages

LANGUAGE_LAYERS = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
VISION_LAYERS = r"attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2|merger\.mlp\.[02]"


def lora_targets(freeze_vision_tower: bool) -> str:
    """The regular expression of the linear layers that LoRA adapts: all of the language model,
    and all of the vision tower and its merger unless that is frozen."""
    language = rf".*language_model\..*\.({LANGUAGE_LAYERS})"
    return language if freeze_vision_tower else rf"({language}|.*visual\..*({VISION_LAYERS}))"


def resolve_base(name: str) -> str | Path:
    """A folder for ``tiny`` and for local paths; a hub name otherwise.

    Raises:
        UserError: a path that is not there, or a folder that holds no Qwen2-VL.
    """
    if name == TINY:
        return base_folder()
    path = Path(name).expanduser()
    if not path.exists():
        looks_local = name.startswith((".", "/", "~")) or name.count("/") != 1
        if looks_local or (path.parent.is_dir() and str(path.parent) != "."):
            fix = (
                "give a folder with config.json, a hub name like Qwen/Qwen2-VL-2B-Instruct, or tiny"
            )
            raise UserError("no such model folder", where=name, fix=fix)
        return name
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise UserError(
            "this is an adapter, not a base model", where=path, fix="give it as adapter"
        )
    config = _read_json(path / "config.json", what="a model's config.json")
    if config.get("model_type") != "qwen2_vl":
        found = config.get("model_type")
        raise UserError(f"not a Qwen2-VL model but {found!r}", where=path, fix="use a Qwen2-VL")
    if not any(path.glob("*.safetensors")):
        fix = "the kit loads safetensors only; convert the weights"
        raise UserError("the model folder holds no *.safetensors", where=path, fix=fix)
    return path


def load_processor(
    name: str, *, min_pixels: int | None = None, max_pixels: int | None = None
) -> Processor:
    """The tokenizer and image processor of a base model or of a run folder.

    ``min_pixels`` and ``max_pixels`` bound an image's area after resizing, in pixels.
    """
    source = resolve_base(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **_source_options(source))
        image_processor = AutoImageProcessor.from_pretrained(source, **_source_options(source))
        _require_chat(tokenizer)
    except Exception as error:  # a damaged file may raise anything, tokenizers a plain Exception
        raise _not_loadable(name, error) from error
    size = dict(image_processor.size)
    size["shortest_edge"] = min_pixels or size["shortest_edge"]
    size["longest_edge"] = max_pixels or size["longest_edge"]
    if size["shortest_edge"] > size["longest_edge"]:
        what = f"min_pixels {size['shortest_edge']} exceeds max_pixels {size['longest_edge']}"
        raise UserError(what, where=name, fix="set min_pixels and max_pixels to fit each other")
    image_processor.size = size
    return Processor(tokenizer, image_processor)


def _require_chat(tokenizer) -> None:
    """Where its files are missing, transformers makes an empty tokenizer without a word."""
    unknown = {IMAGE_TOKEN, END_OF_TURN} - set(tokenizer.get_vocab())
    if unknown:
        raise ValueError(f"the tokenizer does not know {', '.join(sorted(unknown))}")
    text = tokenizer.apply_chat_template(build_messages("", MODES[0]), tokenize=False)
    if f"{IMAGE_TOKEN}<|vision_end|>" not in text:
        raise ValueError("the tokenizer's chat template has no place for an image")


def load_base(
    name: str,
    *,
    quantization: str = "none",
    dtype: torch.dtype = torch.float32,
    attn_implementation: str = "sdpa",
    device: torch.device | str = "cpu",
) -> nn.Module:
    """A ``Qwen2VLForConditionalGeneration``, in ``dtype`` or with NF4 double quantization.

    Under ``nf4`` the language model's layers are 4-bit (QLoRA, arXiv 2305.14314) and the vision
    tower and the output head stay in ``dtype``.

    Raises:
        UserError: no such folder, not a Qwen2-VL, no safetensors, hub not reachable.
    """
    source = resolve_base(name)
    options: dict = {
        "dtype": dtype,
        "attn_implementation": attn_implementation,
        "ignore_mismatched_sizes": True,  # they are refused below, by name
        "output_loading_info": True,
    }
    if quantization == "nf4":
        options["device_map"] = {"": device}
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=["visual", "lm_head"],
        )
    try:
        model, found = Qwen2VLForConditionalGeneration.from_pretrained(
            source, use_safetensors=True, **_source_options(source), **options
        )
    except (OSError, ValueError, SafetensorError, StrictDataclassError) as error:
        raise _not_loadable(name, error) from error
    wrong = sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]]))
    if wrong:
        what = f"{len(wrong)} weights are missing or of another size, first {wrong[0]}"
        raise _not_loadable(name, ValueError(what))
    if quantization == "nf4":
        _keep_trainable_after_generation(model)
    else:
        model = model.to(device)
    model.config.name_or_path = model.name_or_path = name
    return model


def add_lora(
    model: nn.Module, *, r: int, alpha: int, dropout: float, freeze_vision_tower: bool
) -> PeftModel:
    """Freeze the base and add trainable LoRA layers (arXiv 2106.09685)."""
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=lora_targets(freeze_vision_tower),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def load_adapter(model: nn.Module, folder: str | Path, *, trainable: bool = False) -> PeftModel:
    """Put a saved LoRA adapter onto its base.

    Raises:
        UserError: no adapter there, or one that was trained on another base.
    """
    folder = Path(folder)
    require_adapter(folder)
    try:
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as weights:
            shapes = {
                key: tuple(weights.get_slice(key).get_shape()) for key in weights.offset_keys()
            }
        adapted = PeftModel.from_pretrained(
            model, folder, is_trainable=trainable, use_safetensors=True
        )
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise _other_base(folder, str(error).splitlines()[0]) from error
    expected = {
        name.replace(".default", ""): tuple(parameter.shape)
        for name, parameter in adapted.named_parameters()
        if "lora_" in name
    }
    if shapes != expected:
        differing = sorted(set(shapes.items()) ^ set(expected.items()))
        raise _other_base(folder, f"{differing[0][0]} differs")
    return adapted


def require_adapter(folder: str | Path) -> None:
    """Check that a folder holds a LoRA adapter, without reading its weights.

    Raises:
        UserError: no such folder, or no finished adapter in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        fix = "give a folder with adapter_config.json, as train_sft writes it"
        raise UserError("no such adapter folder", where=folder, fix=fix)
    if (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        what = "a whole model, not an adapter: it has no adapter_config.json"
        raise UserError(what, where=folder, fix="give it as --base_model")
    kind = _adapter_config(folder).get("peft_type")
    if kind != "LORA":
        what = f"not a LoRA adapter: peft_type is {kind!r}"
        raise UserError(what, where=folder / "adapter_config.json", fix="is the file whole?")
    if not (folder / "adapter_model.safetensors").is_file():
        fix = "the kit loads safetensors only; is the run finished?"
        raise UserError("no adapter_model.safetensors", where=folder, fix=fix)


def adapter_base(folder: str | Path) -> str:
    """The name of the base model that an adapter folder was trained on."""
    return _adapter_config(Path(folder)).get("base_model_name_or_path") or ""


def _adapter_config(folder: Path) -> dict:
    return _read_json(folder / "adapter_config.json", what="an adapter_config.json")


def _keep_trainable_after_generation(model: nn.Module) -> None:
    """bitsandbytes repacks 4-bit weights on CPUs with AVX512-BF16 at the first forward in
    evaluation mode, after which input gradients are silently None; this keeps the layout."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _source_options(source: str | Path) -> dict:
    return {"trust_remote_code": False, "local_files_only": isinstance(source, Path)}


def _read_json(path: Path, what: str) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}, not an object")
        return value
    except FileNotFoundError as error:
        raise UserError(
            f"the folder holds no {what.split()[-1]}",
            where=path.parent,
            fix=f"give a folder with {what}",
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {what}: {error}", where=path, fix="is the file whole?"
        ) from error


def _not_loadable(name: str, error: Exception) -> UserError:
    fix = "check the name; without a network give a local folder with the model's files"
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(f"cannot load the model: {reason}", where=name, fix=fix)


def _other_base(folder: Path, detail: str) -> UserError:
    fix = f"load it on the base it was trained on: {adapter_base(folder) or 'see its model card'}"
    return UserError(f"the adapter does not fit this base model ({detail})", where=folder, fix=fix)
