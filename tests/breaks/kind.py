"""What a break is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Break:
    """A mistake: ``what`` goes wrong, the ``file`` in which ``old`` stands exactly once and
    ``new`` takes its place, and the tests (pytest's names) of which one must fail then."""

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
