"""Differential: what is said needs the evidence, and nothing else as much.

The divergence from the image without its evidence is raised and that from the image without a
control of it lowered (``kit.counterfactual.controls``: the same shape, as much tissue and as large
a change, elsewhere). DVRP (arXiv 2601.06801, equation 4) does so with a masked and a noised image,
weights of 0.01 each: there the second differs from the first in kind, so that a policy that tells
black patches from noise satisfies both. Here the two differ in place alone, and a policy that heeds
any change gains nothing. DVRP sums over the whole vocabulary, here as in ``perception`` it is k3 of
the sampled tokens. A prompt without evidence or without a control adds nothing.
"""

from __future__ import annotations

from torch import Tensor

from kit.grpo.terms.perception import divergence

VIEWS = ("without_evidence", "without_control")


def value(whole_K: Tensor, without_K: Tensor, control_K: Tensor) -> Tensor:
    """(K,), within ``perception.MOST`` of 0.

    >>> import torch
    >>> whole, quarter = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
    >>> value(whole, quarter, whole).tolist(), value(whole, quarter, quarter).tolist()
    ([0.1931471824645996], [0.0])
    """
    return divergence(whole_K, without_K) - divergence(whole_K, control_K)
