"""Image features: once an image and run, where the vision tower is frozen."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from kit.model.families import family_of
from kit.model.resources import Kept

CACHE_BYTES = 2**28  # 340 images of 256 tokens of the 2B model in bfloat16


class FeatureCache(Kept):
    """The features of the images seen last, up to ``CACHE_BYTES``.

    Kept by what they follow from: the image's content and bounds (``Processor.prepare_image``
    names it by them), the precision, and the tower's weights as they are in memory.
    """

    def __init__(self) -> None:
        super().__init__(CACHE_BYTES)
        self._weights: tuple = ()

    def renew(self, tower: nn.Module) -> None:
        """Forget everything if the weights are not those that it was computed with."""
        weights = tuple((p.data_ptr(), p._version, p.dtype) for p in tower.parameters())
        if weights != self._weights:
            self.clear()
            self._weights = weights


_CACHES: WeakKeyDictionary[nn.Module, FeatureCache] = WeakKeyDictionary()  # by tower


def encode_images(
    causal_lm: nn.Module,
    keys: Sequence[str],
    pixel_values: Tensor,
    grids_I3: Tensor,
    image_index: Tensor,
) -> list[Tensor]:
    """Run the vision tower once a distinct image (``kit.model.sharing.distinct_images``).

    Returns:
        (image tokens, H) of the images of ``image_index``, one after the other: what stands in the
        places of their tokens, and for a family with deepstack, what is added there after each of
        its first layers.

    Of a frozen tower no gradient is computed, also where checkpointing lets its inputs require
    one, and features are kept (:class:`FeatureCache`). Each image then passes alone, so that its
    features do not depend on what happened to be computed beside it.
    """
    tower = causal_lm.model.visual
    trained = _is_trained(tower)
    with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
        # adapter layers follow more than their weights, and the shards of ZeRO-3 need all ranks
        if trained or _adapted(tower) or any(hasattr(p, "ds_id") for p in tower.parameters()):
            found = _run(causal_lm, pixel_values, grids_I3)
        else:
            found = _cached(causal_lm, keys, pixel_values, grids_I3)
    layers = zip(*(found[i] for i in image_index.tolist()), strict=True)
    return [torch.cat(of_images) for of_images in layers]


def embed(causal_lm: nn.Module, ids_BS: Tensor, images: Sequence[Tensor] = ()) -> dict:
    """What the language model is called with for tokens and the images among them
    (``encode_images``)."""
    embeds_BSH = causal_lm.model.language_model.embed_tokens(ids_BS)
    if not images:
        return {"inputs_embeds": embeds_BSH}
    is_image_BS = ids_BS == causal_lm.config.image_token_id
    first, *deeper = (features.to(embeds_BSH.dtype) for features in images)
    inputs = {"inputs_embeds": embeds_BSH.masked_scatter(is_image_BS[:, :, None], first)}
    if deeper:
        inputs |= {"visual_pos_masks": is_image_BS, "deepstack_visual_embeds": deeper}
    return inputs


Features = tuple[Tensor, ...]  # of an image, as ``encode_images`` gives them


def _cached(causal_lm, keys, pixel_values: Tensor, grids_I3: Tensor) -> list[Features]:
    cache = _CACHES.setdefault(causal_lm.model.visual, FeatureCache())
    cache.renew(causal_lm.model.visual)
    precision = _precision(pixel_values.device.type)
    found = []
    patches = pixel_values.split(grids_I3.prod(dim=1).tolist())
    for key, patches_of_image, grid_3 in zip(keys, patches, grids_I3, strict=True):
        features = cache.get((key, precision))
        if features is None:
            (features,) = _run(causal_lm, patches_of_image, grid_3[None])
            cache.put((key, precision), features, sum(layer.nbytes for layer in features))
        found.append(features)
    return found


def _precision(device: str) -> torch.dtype | None:
    """Of autocast, where it is on."""
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None


def _run(causal_lm: nn.Module, pixel_values: Tensor, grids_I3: Tensor) -> list[Features]:
    found = causal_lm.model.get_image_features(pixel_values, grids_I3, return_dict=True)
    layers = [found.pooler_output]
    if family_of(causal_lm.config.model_type).deepstack:
        sizes = [len(features) for features in found.pooler_output]
        for layer in found.deepstack_features:  # of all images in one until transformers 5.23
            layers.append(layer.split(sizes) if isinstance(layer, Tensor) else layer)
    return list(zip(*layers, strict=True))


def _is_trained(tower: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in tower.parameters())


def _adapted(tower: nn.Module) -> bool:
    return any(hasattr(module, "lora_A") for module in tower.modules())
