"""Loading base models and processors.

Weights come from safetensors only and no remote code is run. A local folder never touches a hub.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
)
from transformers.utils import cached_file

from kit.errors import UserError, need_extra
from kit.model.attention import use_tree_attention
from kit.model.families import family_of
from kit.model.folders import TINY, resolve_base
from kit.model.processor import END_OF_TURN, IMAGE_TOKEN, Processor
from kit.prompting.messages import MODES, build_messages
from kit.text import decoded

PREPROCESSOR, CHAT_TEMPLATE = "preprocessor_config.json", "chat_template.json"


def load_processor(
    name: str,
    adapter: str | Path | None = None,
    *,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    say: Callable[[str], None] | None = None,
) -> Processor:
    """The tokenizer and image processor of a base model or of a run folder.

    Args:
        adapter: the folder of an adapter of it, whose images are as large as in its training.
        min_pixels, max_pixels: bounds of an image's area after resizing, in pixels, instead of
            those that the adapter was trained with, or else of the base's.
        say: told in one line which bounds are used, and whose they are.
    """
    source = resolve_base(name)
    rows = base_config(name).get_text_config().vocab_size
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **_source_options(source))
        image_processor = _image_processor(source)
        _fit_for_chat(tokenizer, source)
        _require_weights_for(tokenizer, rows)
    except Exception as error:  # a damaged file may raise anything, tokenizers a plain Exception
        raise _not_loadable(name, error) from error
    size, owner = dict(image_processor.size), f"of {name}"
    if adapter is not None and (Path(adapter) / PREPROCESSOR).is_file():
        size, owner = _trained_size(Path(adapter)), f"of {adapter}"
    elif adapter is not None:
        owner += f", as {adapter} has no {PREPROCESSOR}"
    told = []
    for edge, bound, given in (
        ("shortest_edge", "min_pixels", min_pixels),
        ("longest_edge", "max_pixels", max_pixels),
    ):
        if given:
            told.append(f"{bound} {given} as given, instead of {size[edge]} {owner}")
            size[edge] = given
        else:
            told.append(f"{bound} {size[edge]} {owner}")
    if size["shortest_edge"] > size["longest_edge"]:
        what = f"min_pixels {size['shortest_edge']} exceeds max_pixels {size['longest_edge']}"
        fix = "set min_pixels and max_pixels to fit each other"
        raise UserError(what, where="; ".join(told), fix=fix)
    if say is not None:
        say(f"image size: {'; '.join(told)}")
    image_processor.size = size
    return Processor(tokenizer, image_processor, rows)


def _image_processor(source: str | Path):
    """That of a folder or hub name. Early copies of Qwen2.5-VL, and what was trained from them,
    name a class of their own, which became Qwen2-VL's before its release."""
    try:
        return AutoImageProcessor.from_pretrained(source, **_source_options(source))
    except ValueError as error:
        if "Unrecognized image processor" not in str(error):
            raise
        from transformers import Qwen2VLImageProcessor  # which warns where there is no torchvision

        return Qwen2VLImageProcessor.from_pretrained(source, **_source_options(source))


def _trained_size(adapter: Path) -> dict[str, int]:
    """The bounds that an adapter was trained with, under transformers' names."""
    try:
        return dict(_image_processor(adapter).size)
    except Exception as error:  # a damaged file may raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        what = f"cannot read the image size that the adapter was trained with: {reason}"
        raise UserError(what, where=adapter / PREPROCESSOR, fix="is the file whole?") from error


def _fit_for_chat(tokenizer, source: str | Path) -> None:
    """Give a tokenizer the chat template that shows images: its own, or that of ``CHAT_TEMPLATE``,
    where transformers before 4.52 kept the processor's. Where files are missing, transformers
    makes an empty tokenizer without a word."""
    unknown = {IMAGE_TOKEN, END_OF_TURN} - set(tokenizer.get_vocab())
    if unknown:
        raise ValueError(f"the tokenizer does not know {', '.join(sorted(unknown))}")
    templates = [tokenizer.chat_template]
    file = cached_file(
        source, CHAT_TEMPLATE,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )  # fmt: skip
    if file:
        templates.append(json.loads(decoded(Path(file).read_bytes()))["chat_template"])
    for template in filter(None, templates):
        tokenizer.chat_template = template.lstrip("\ufeff") if type(template) is str else template
        text = tokenizer.apply_chat_template(build_messages("", MODES[0]), tokenize=False)
        if f"{IMAGE_TOKEN}<|vision_end|>" in text:
            return
    raise ValueError("the tokenizer's chat template has no place for an image")


def _require_weights_for(tokenizer, rows: int) -> None:
    """Each token needs its row of weights, which one that was added later may not have."""
    token, index = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    if index >= rows:
        what = f"the tokenizer's {token!r} is number {index}, but there are {rows} rows of weights"
        raise ValueError(f"{what}: tokens were added without model.resize_token_embeddings")


def load_base(
    name: str,
    *,
    quantization: str = "none",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """A model of transformers (``kit.model.families``), in ``dtype`` or with NF4 double
    quantization.

    Under ``nf4`` the language model's layers are 4-bit (QLoRA, arXiv 2305.14314) and the vision
    tower and the output head stay in ``dtype``.

    Raises:
        UserError: no such folder, another family, no safetensors, hub not reachable.
    """
    if quantization == "nf4":
        need_extra("bitsandbytes", "qlora")
    source = resolve_base(name)
    base_config(name)
    options: dict = {
        "dtype": dtype,
        "attn_implementation": "sdpa",
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
            llm_int8_skip_modules=["model.visual", "lm_head"],
        )
    try:
        model, found = AutoModelForImageTextToText.from_pretrained(
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
    use_tree_attention(model)
    model.config.name_or_path = model.name_or_path = _name_anywhere(name)
    return model


def _name_anywhere(name: str) -> str:
    """What an adapter is to call its base: a relative folder is none in another working folder,
    where ``models/qwen`` would be a stranger's on the hub."""
    source = resolve_base(name)
    return name if name == TINY or isinstance(source, str) else str(source.absolute())


def base_config(name: str) -> PreTrainedConfig:
    """The configuration of a base, whose family is known.

    Raises:
        UserError: as ``load_base``.
    """
    source = resolve_base(name)
    options = _source_options(source)
    try:
        found, _ = PreTrainedConfig.get_config_dict(source, **options)
        family_of(found.get("model_type"), where=name)  # before transformers, which knows others
        return AutoConfig.from_pretrained(source, **options)
    except (OSError, ValueError, StrictDataclassError) as error:
        raise _not_loadable(name, error) from error


def hidden_size(name: str) -> int:
    """The width of a base's language model.

    Raises:
        UserError: as ``load_base``.
    """
    return base_config(name).get_text_config().hidden_size


def _keep_trainable_after_generation(model: nn.Module) -> None:
    """bitsandbytes repacks 4-bit weights on CPUs with AVX512-BF16 at the first forward in
    evaluation mode, after which input gradients are silently None; this keeps the layout."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _source_options(source: str | Path) -> dict:
    return {"trust_remote_code": False, "local_files_only": isinstance(source, Path)}


def _not_loadable(name: str, error: Exception) -> UserError:
    fix = "check the name; without a network give a local folder with the model's files"
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(f"cannot load the model: {reason}", where=name, fix=fix)
