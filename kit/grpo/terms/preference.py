"""Preference: a right answer is likelier without a control of its evidence than without that.

The divergences of ``evidence`` and ``differential`` are flat where a policy does not yet heed the
image: a token as likely on both images has no gradient, and most of what they sum comes from a few
words of the caption. This has its full gradient there, and is of the answer's tokens alone, in
completions whose answer is right. It is the conditional preference of mDPO (arXiv 2406.11839): an
answer with its image is preferred to the same answer with a changed one, by the log-sigmoid of the
difference. Here both images are changed, so that they differ in place alone, the policy is its own
reference, and a token is a pair. At first a weight of 2 makes it a policy term of advantage 1, of
few tokens: it takes 5 to 10 to be as strong as all of the policy's.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

VIEWS = ("without_evidence", "without_control")
RIGHT_ANSWERS = True  # the tokens that it is of


def value(whole_K: Tensor, without_K: Tensor, control_K: Tensor) -> Tensor:
    """(K,), at most 0: what is already much likelier has no gradient, and none is above 1.

    >>> import torch
    >>> nothing, tenth = torch.tensor([1.0]).log(), torch.tensor([0.1]).log()
    >>> value(nothing, nothing, nothing).exp(), value(nothing, tenth, nothing).exp()
    (tensor([0.5000]), tensor([0.9091]))
    """
    return logsigmoid(control_K - without_K)
