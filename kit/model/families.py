"""What differs between the families of models that the kit trains, one record each.

Everything else follows from a model's own configuration. Each has ``model.visual``,
``model.language_model`` and ``lm_head``, and places images by the same positions
(``kit.model.sharing.trunk_positions``).
"""

from __future__ import annotations

from dataclasses import dataclass

from kit.data.boxes import Convention
from kit.errors import UserError


@dataclass(frozen=True)
class Family:
    """
    name: as its makers write it; vision_layers: regular expression of the ends of the names of all
    linear layers of its tower, which LoRA adapts; boxes: what the untrained model's boxes count
    (the kit teaches the grid to each); deepstack: whether its tower also gives features that are
    added to hidden states after the first layers of the language model (arXiv 2406.04334).
    """

    name: str
    vision_layers: str
    boxes: Convention
    deepstack: bool = False


FAMILIES = {  # by ``config.model_type``
    "qwen2_vl": Family(  # arXiv 2409.12191
        "Qwen2-VL",
        r"attn\.(qkv|proj)|mlp\.fc[12]|merger\.mlp\.[02]",
        boxes="grid_1000",
    ),
    "qwen2_5_vl": Family(  # arXiv 2502.13923
        "Qwen2.5-VL",
        r"attn\.(qkv|proj)|mlp\.(gate|up|down)_proj|merger\.mlp\.[02]",
        boxes="resized_pixels",
    ),
    "qwen3_vl": Family(  # arXiv 2511.21631
        "Qwen3-VL",
        r"attn\.(qkv|proj)|(mlp|merger|deepstack_merger_list\.\d+)\.linear_fc[12]",
        boxes="grid_1000",
        deepstack=True,
    ),
}


def family_of(model_type: object, where: object = None) -> Family:
    """The record of a ``config.model_type``.

    Raises:
        UserError: there is none; ``where`` is the model.

    >>> family_of("qwen3_vl").name
    'Qwen3-VL'
    """
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = ", ".join(f"{family.name} ({key})" for key, family in FAMILIES.items())
        what = f"not a model of a family that the kit knows: model_type is {model_type!r}"
        raise UserError(what, where=where, fix=f"use one of {known}")
    return FAMILIES[model_type]


def teaches_grid(config: object) -> None:
    """Note in a model's configuration that it was trained by the kit, so that its boxes are on the
    0..1000 grid whatever its family's are; what is saved of it says so too."""
    config.answer_boxes = "grid_1000"


def boxes_of(config: object) -> Convention:
    """What the boxes of a model count of their own accord, by its configuration."""
    return getattr(config, "answer_boxes", None) or family_of(config.model_type).boxes
