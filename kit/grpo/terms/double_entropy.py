"""Double entropy: the regularisation that PAPO sets beside its perception loss.

``perception`` can be had cheaply by saying anything at all of the black image. PAPO therefore
takes the entropies on the whole and on the masked image off the objective (arXiv 2507.06448,
equation 2; weights of 0.03 to 0.05 there), each by its estimate from the sampled tokens alone,
minus their log-probability. What that does: on the whole image its gradient is 0 on average, since
the policy itself samples; on the masked one it is that of the cross-entropy, so that the policy
there is drawn to what it says of the whole image, against ``perception``.
"""

from __future__ import annotations

from torch import Tensor

VIEWS = ("masked",)


def value(whole_K: Tensor, masked_K: Tensor) -> Tensor:
    """Minus both estimates of entropy, (K,), at most 0.

    >>> import torch
    >>> value(torch.tensor([0.5]).log(), torch.tensor([0.25]).log()).exp().tolist()
    [0.125]
    """
    return whole_K + masked_K
