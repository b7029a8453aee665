"""One token of each row through the language model: what its decoder layers compute, without what
calling them costs.

A token of a small batch is little arithmetic, so the time goes to the number of operations. The
layers' own linear layers and MLP are called; norms, rotation and attention are written out for
rows of one token, where all three axes of a position are equal and a key is shared by a group of
query heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kit.model.cache import RowCache


def next_hidden(
    causal_lm: nn.Module, ids_R: Tensor, position_R: Tensor, visible_RC: Tensor, cache: RowCache
) -> Tensor:
    """Append a token to each row of a cache; the last hidden states (R, H).

    ``visible_RC`` (bool) says which of the rows' own columns, the new one included, each may see.
    """
    text = causal_lm.model.language_model
    hidden_RH = text.embed_tokens(ids_R)
    cos_R1D, sin_R1D = (
        part.transpose(0, 1) for part in text.rotary_emb(hidden_RH, position_R.expand(3, 1, -1))
    )
    half = cos_R1D.shape[-1] // 2
    sin_R1D = torch.cat([-sin_R1D[..., :half], sin_R1D[..., half:]], dim=-1)
    bias_RC = hidden_RH.new_zeros(visible_RC.shape).masked_fill_(~visible_RC, -torch.inf)
    bias_R11C = bias_RC[:, None, None]
    for number, layer in enumerate(text.layers):
        attention = layer.self_attn
        normed_RH = _rms_norm(layer.input_layernorm, hidden_RH)
        q, k, v = (
            project(normed_RH).unflatten(1, (-1, attention.head_dim))
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if hasattr(attention, "q_norm"):
            q, k = _rms_norm(attention.q_norm, q), _rms_norm(attention.k_norm, k)
        both = torch.cat([q, k], dim=1)
        both = torch.addcmul(both * cos_R1D, both.roll(half, -1), sin_R1D)
        q, k = both.split([q.shape[1], k.shape[1]], dim=1)
        cache.append(k[:, :, None], v[:, :, None], number)
        seen = cache.attend(q.unflatten(1, (k.shape[1], -1)), bias_R11C, attention.scaling, number)
        hidden_RH = hidden_RH + attention.o_proj(seen.flatten(1).to(v.dtype))
        normed_RH = _rms_norm(layer.post_attention_layernorm, hidden_RH)
        hidden_RH = hidden_RH + layer.mlp(normed_RH)
    cache.used += 1
    return _rms_norm(text.norm, hidden_RH)


def _rms_norm(layer: nn.Module, x: Tensor) -> Tensor:
    """As one operation, where the layer makes seven."""
    return nn.functional.rms_norm(x, layer.weight.shape, layer.weight, layer.variance_epsilon)
