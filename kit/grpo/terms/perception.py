"""Perception: what is said follows from the image, and is less likely with most of it black.

The implicit perception loss of PAPO (arXiv 2507.06448, equation 2; code MikeWangWZHL/PAPO): the KL
divergence of the policy on the whole image from the policy on the image of which each patch is
black with a chance of 60% is maximised, by the tokens sampled; weights of 0.01 to 0.02. Estimator
and bounds are those of its code (EasyR1's ``low_var_kl``). Two things are the kit's: a patch is one
of the model's (14 or 16 pixels of the resized image), not 14 pixels of the file, and the gradient
passes through both images, as in the paper's equation and with ``RECOMPUTE_AUG_LOG_PROBS`` in its
code, which by default scores the black image once and takes it as fixed.
"""

from __future__ import annotations

import torch
from torch import Tensor

VIEWS = ("masked",)
MOST = 10.0  # that a token counts: beyond there is nothing to gain, and no gradient


def value(whole_K: Tensor, masked_K: Tensor) -> Tensor:
    """See :func:`divergence`."""
    return divergence(whole_K, masked_K)


def divergence(whole_K: Tensor, changed_K: Tensor) -> Tensor:
    """How much less is known of each token with the changed image, (K,) in 0..``MOST``: the k3
    estimate of KL(whole||changed), ``exp(d) - d - 1`` with ``d`` the changed log-probability less
    the whole one's (Schulman 2020), which is 0 where both are equal.

    Over tokens that the policy samples on the whole image its mean is that KL, as far as no token
    reaches ``MOST``. The mean of its gradient is that of KL(whole||changed) with respect to what is
    said of the changed image, and of KL(changed||whole) with respect to what is said of the whole
    one: there k3 has it the other way round (as in PAPO; ``grpo_loss`` says more). Per token it is
    ``(1 - exp(d))`` times that of the difference of the two, at most 1 where the token is likelier
    with the whole image and at most some 13 where it is not; it is 0 where the two are equal, so
    that a policy that does not heed the change at all is not moved.

    >>> whole = torch.tensor([0.5, 0.5, 0.5]).log()
    >>> divergence(whole, torch.tensor([0.5, 0.25, 1e-9]).log()).tolist()
    [0.0, 0.1931471824645996, 10.0]
    """
    difference_K = (changed_K - whole_K).clamp(-20, 20)  # exp() and its gradient stay finite
    return (torch.exp(difference_K) - difference_K - 1).clamp(max=MOST)
