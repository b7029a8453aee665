"""A small study whose commands are stand-ins (``stub.py``)."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from stub_processes import Processes

from kit.study import study
from kit.study.config import StudyConfig

STUDY = {
    "output": "out",
    "seeds": [0, 1],
    "phantoms": {"train": 8, "prompts": 4, "test": 6},
    "train_sft": {"cfg": "sft_tiny"},
    "train_grpo": {"cfg": "grpo_tiny", "max_steps": 2},
    "evaluate": {"prompting_mode": "caption_reason_answer", "counterfactual": True},
    "systems": {"plain": {"weights": "0.2,0.8,0,0"}, "good": {"beta": 0.1}},
}


def write_study(**changes: object) -> Path:
    """The study file with changes, in the working folder."""
    path = Path("small.yaml")
    kept = {key: value for key, value in (STUDY | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(kept, sort_keys=False))
    return path


def stand_in(patch: pytest.MonkeyPatch) -> Processes:
    """Stand-ins for what the runner starts."""
    made = Processes()
    patch.setattr(study, "Popen", made)
    patch.setattr(study, "LOOKS_EVERY", 0.0)
    patch.setattr("os.fsync", lambda _: None)
    return made


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
    """The folder of a study of three systems and five seeds that was run, page and all."""
    folder = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stand_in(patch)
        systems = {"plain": {}, "good": {"beta": 0.1}, "bad": {"beta": 0.2}}
        path = write_study(systems=systems, seeds=[0, 1, 2, 3, 4])
        assert study.study(StudyConfig(study=str(path))) == 0
    return folder


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
