"""LoRA adapters: new ones, saved ones and their checks, and switching between two."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from torch import nn

from kit.errors import UserError
from kit.model.families import Family, family_of
from kit.model.folders import (
    MERGE,
    adapter_base,
    adapter_config,
    require_adapter,
)

LANGUAGE_LAYERS = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
# Names of weights in adapters that transformers before 4.52 trained, and their present ones.
_RENAMED = {r"^visual\.": "model.visual.", r"^model\.layers\.": "model.language_model.layers."}
_CHANGING_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def lora_targets(tower_of: Family | None = None) -> str:
    """The regular expression of the linear layers that LoRA adapts: all of the language model,
    and all of the vision tower and its mergers where its family is given."""
    language = rf".*language_model\..*\.({LANGUAGE_LAYERS})"
    return rf"({language}|.*visual\..*({tower_of.vision_layers}))" if tower_of else language


def add_lora(
    model: nn.Module, *, r: int, alpha: int, dropout: float, freeze_vision_tower: bool
) -> PeftModel:
    """Freeze the base and add trainable LoRA layers (arXiv 2106.09685)."""
    family = family_of(model.config.model_type)
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=lora_targets(None if freeze_vision_tower else family),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def load_adapter(model: nn.Module, folder: str | Path, *, trainable: bool = False) -> PeftModel:
    """Put a saved LoRA adapter onto its base.

    Raises:
        UserError: no adapter there, one with more than LoRA layers, or one that was trained on
            another base.
    """
    folder = Path(folder)
    require_adapter(folder)
    try:
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as weights:
            shapes = {
                _present_name(key): tuple(weights.get_slice(key).get_shape())
                for key in weights.offset_keys()
            }
        if whole := [key for key in shapes if "lora_" not in key]:
            what = f"the adapter holds whole weights beside its LoRA layers: {whole[0]}"
            raise UserError(what, where=folder, fix=MERGE)
        adapted = PeftModel.from_pretrained(
            model, folder, is_trainable=trainable, use_safetensors=True, key_mapping=_RENAMED
        )
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise _other_base(folder, str(error).splitlines()[0]) from error
    own = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    expected = {name: tuple(weight.shape) for name, weight in own.items()}
    if shapes != expected:
        differing = sorted(set(shapes.items()) ^ set(expected.items()))
        raise _other_base(folder, f"{differing[0][0]} differs")
    return adapted


def _present_name(key: str) -> str:
    prefix = "base_model.model."
    name = key.removeprefix(prefix)
    for old, new in _RENAMED.items():
        name = re.sub(old, new, name)
    return prefix + name


POLICY, REFERENCE = "default", "reference"  # PEFT saves "default" where any reader looks for it


def load_reference(model: PeftModel, folder: str | Path) -> None:
    """Load a saved adapter a second time, frozen, beside the one that is trained.

    Raises:
        UserError: an adapter that changed its base when it was made, which a second would again.
    """
    made = adapter_config(Path(folder)).get("init_lora_weights")
    if str(made).startswith(_CHANGING_THE_BASE):
        what = f"the adapter changes its base (init_lora_weights is {made!r}) and cannot be loaded"
        fix = "convert it to plain LoRA as PEFT's documentation says, or set beta: 0"
        raise UserError(f"{what} a second time, as reference", where=folder, fix=fix)
    model.load_adapter(
        str(folder), REFERENCE, is_trainable=False, use_safetensors=True, key_mapping=_RENAMED
    )
    model.set_adapter(POLICY)


@contextlib.contextmanager
def as_reference(model: nn.Module, other: nn.Module | None = None) -> Iterator[nn.Module]:
    """For a while, the model is what the policy started from: the frozen reference adapter, or
    the base where there is none, or the model ``other`` where no adapter is trained. What is
    trained stays marked as such."""
    if other is not None:
        yield other
        return
    if REFERENCE not in model.peft_config:
        with model.disable_adapter():
            yield model
        return
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    model.set_adapter(REFERENCE)
    try:
        yield model
    finally:
        model.set_adapter(POLICY)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained[name])


def disable_dropout(model: nn.Module) -> bool:
    """Switch the dropout of LoRA layers off; whether there was any."""
    found = False
    for name, module in model.named_modules():
        if "lora_dropout" in name and isinstance(module, nn.Dropout) and module.p > 0:
            module.p, found = 0.0, True
    return found


def _other_base(folder: Path, detail: str) -> UserError:
    fix = f"load it on the base it was trained on: {adapter_base(folder) or 'see its model card'}"
    return UserError(f"the adapter does not fit this base model ({detail})", where=folder, fix=fix)
