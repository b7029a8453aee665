"""Evidence: what is said is less likely without the evidence.

``perception`` (PAPO, arXiv 2507.06448) with the image of which the evidence is inpainted, where
that takes random patches: its gold boxes, or those for which ``cf_proxy`` measured the record. A
prompt without any adds nothing (``objectives/evidence/absent``). A policy that heeds any change of
an image gains as much; see ``differential``.
"""

from __future__ import annotations

from torch import Tensor

from kit.grpo.terms.perception import divergence

VIEWS = ("without_evidence",)


def value(whole_K: Tensor, without_K: Tensor) -> Tensor:
    """(K,) in 0..``perception.MOST``.

    >>> import torch
    >>> value(torch.tensor([0.5]).log(), torch.tensor([0.25]).log()).tolist()
    [0.1931471824645996]
    """
    return divergence(whole_K, without_K)
