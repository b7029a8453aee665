"""Fixtures of the training tests."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import settings_of

from kit.train import grpo, sft
from kit.train.config import GrpoConfig, SftConfig

LOOPS = {"sft": (sft, SftConfig), "grpo": (grpo, GrpoConfig)}


@pytest.fixture
def start(prepared, trained) -> Callable[..., int]:
    """Run a stage in this process, in a folder."""

    def started(stage: str, folder: Path, **changes) -> int:
        loop, config_class = LOOPS[stage]
        return loop.train(config_class(**settings_of(stage, prepared, trained, folder, **changes)))

    return started
