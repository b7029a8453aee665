"""A user's reward function for short runs, whose own rewards are all equal: steps that move nothing
would be the same whatever a test does to them."""


def by_letters(completions, **_):
    """Unlike texts earn unlike rewards, in 0..1."""
    return [sum(map(ord, text)) % 11 / 11 for text in completions]
