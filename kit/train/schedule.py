"""The plan of a run's steps."""

from __future__ import annotations


def due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
