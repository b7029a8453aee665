"""A small study whose commands are stand-ins (``stub.py``)."""

from collections.abc import Callable
from pathlib import Path

import pytest
from stub_processes import Processes, evaluated_study, stand_in, write_study

from kit.study import study
from kit.study.config import StudyConfig


@pytest.fixture
def written(tmp_path, monkeypatch) -> Callable[..., Path]:
    """Writes the study file with changes; in its folder everything is run."""
    monkeypatch.chdir(tmp_path)
    return write_study


@pytest.fixture
def processes(monkeypatch) -> Processes:
    return stand_in(monkeypatch)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    return evaluated_study(tmp_path_factory.mktemp("evaluated"))


@pytest.fixture
def stubbed(written, processes, monkeypatch) -> Callable[..., list[str]]:
    """Runs the study with stand-ins, without its page; returns the outputs that were begun."""
    monkeypatch.setattr(study, "write_page", lambda *_: None)

    def run(code: int = 0, changes: dict | None = None, **flags: object) -> list[str]:
        processes.begun.clear()
        path = written(**(changes or {}))
        assert study.study(StudyConfig(study=str(path), **flags)) == code
        return [output for output, *_ in processes.begun]

    return run
