"""Counting the bytes that a computation keeps alive, on torch's meta device.

Leans on what torch does not promise: the identity of a storage (``_cdata``), the kernel that
attention runs on a CPU, and ``TorchDispatchMode``. Read in torch 2.6 to 2.13.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

# module, the names that it must have, what they are for
LEANS_ON = (
    (
        "torch.utils._python_dispatch",
        ("TorchDispatchMode",),
        "seeing every tensor that an update makes (preflight)",
    ),
    (
        "torch.utils._pytree",
        ("tree_flatten", "tree_unflatten"),
        "finding the tensors among an operation's arguments (preflight)",
    ),
    (
        "torch.ops.aten",
        ("_scaled_dot_product_flash_attention_for_cpu",),
        "attention without its matrix of scores (preflight)",
    ),
)


# operations whose second argument may be masks
_INDEXING = (
    torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_,
    torch.ops.aten._index_put_impl_,
)  # fmt: skip


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive, and the most at any moment; of those, the
    matrices with so many ``columns``. What meets a meta tensor becomes one.

    A boolean index has no content then: each is taken to mark ``n_marked`` places, as those of
    image tokens do."""

    def __init__(self, columns: int, n_marked: int = 0):
        super().__init__()
        self.columns, self.n_marked = columns, n_marked
        self.now = self.now_large = self.peak = self.peak_large = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        function: Callable,
        types: Sequence[type],
        args: tuple = (),
        kwargs: dict | None = None,
    ) -> object:
        flat, spec = tree_flatten((args, kwargs or {}))
        if any(isinstance(value, Tensor) and value.is_meta for value in flat):
            flat = [value.to("meta") if isinstance(value, Tensor) else value for value in flat]
        args, kwargs = tree_unflatten(flat, spec)
        if function.overloadpacket in _INDEXING:
            args = (args[0], self._places(args[1]), *args[2:])
        result = function(*args, **kwargs)
        for value in tree_flatten(result)[0]:
            if isinstance(value, Tensor) and value.is_meta:
                self._note(value)
        return result

    def _places(self, indices: Sequence[Tensor | None]) -> list[Tensor | None]:
        found: list[Tensor | None] = []
        for index in indices:
            if index is not None and index.is_meta and index.dtype == torch.bool:
                place = torch.empty(self.n_marked, dtype=torch.int64, device="meta")
                found += [place] * index.ndim
            else:
                found.append(index)
        return found

    def know(self, tensor: Tensor) -> None:
        """Do not count what is there already."""
        self._known.add(tensor.untyped_storage()._cdata)

    def _note(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        large = size if value.ndim == 2 and value.shape[1] == self.columns else 0
        self.now += size
        self.now_large += large
        if self.now > self.peak:
            self.peak, self.peak_large = self.now, self.now_large
        weakref.finalize(storage, self._drop, key, size, large)

    def _drop(self, key: int, size: int, large: int) -> None:
        self._known.discard(key)
        self.now -= size
        self.now_large -= large


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask=None, **_) -> Tensor:
    """Scaled dot product attention as its kernels keep it: without the matrix of scores, which
    torch would compute on the meta device."""
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = (x.repeat_interleave(repeats, dim=1) for x in (key, value))
    if attn_mask is not None:
        attn_mask = torch.empty(attn_mask.shape, dtype=query.dtype, device="meta")
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return kernel(query, key, value, attn_mask=attn_mask)[0]


def fused_attention() -> contextlib.AbstractContextManager[None]:
    """Have models attend as the fused kernels do, which never hold the matrix of scores."""
    return attention_by(_attention)


@contextlib.contextmanager
def attention_by(function: Callable) -> Iterator[None]:
    """Have models attend by a function in place of torch's own."""
    functional, before = nn.functional, nn.functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = function
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = before
