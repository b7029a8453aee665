"""Preference: what is rightly said is likelier without a control of the evidence than without that.

The divergences of ``evidence`` and ``differential`` are flat where a policy does not yet heed the
image: a token as likely on both images has no gradient. This has its full gradient there. It is the
conditional preference of mDPO (arXiv 2406.11839): an answer with its image is preferred to the same
answer with a changed one, by the log-sigmoid of the difference. Here both images are changed, so
that they differ in place alone, the policy is its own reference, and a token is a pair; only
completions whose answer is right count, all their tokens, since after its caption and reasoning an
answer follows from these, whatever the image shows. On the embedded model it has not been seen to
help: held out it stayed at -0.69 over 40 steps of 4 prompts at a weight of 1, and over 30 steps of
the answer's own tokens alone at 10.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

VIEWS = ("without_evidence", "without_control")
RIGHT = True  # of completions whose answer is right


def value(whole_K: Tensor, without_K: Tensor, control_K: Tensor) -> Tensor:
    """(K,), at most 0: what is already much likelier has no gradient, and none is above 1.

    >>> import torch
    >>> nothing, tenth = torch.tensor([1.0]).log(), torch.tensor([0.1]).log()
    >>> value(nothing, nothing, nothing).exp(), value(nothing, tenth, nothing).exp()
    (tensor([0.5000]), tensor([0.9091]))
    """
    return logsigmoid(control_K - without_K)
