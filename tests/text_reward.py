"""A user's reward function for short runs, whose own rewards are all equal: steps that move nothing
would be the same whatever a test does to them."""

import torch


def by_letters(completions, **_):
    """Unlike texts earn unlike rewards, in 0..1."""
    return [sum(map(ord, text)) % 11 / 11 for text in completions]


def under_autocast(completions, **_):
    """Whether it is called as a model is, in the precision of the run."""
    return [torch.is_autocast_enabled("cpu")] * len(completions)
