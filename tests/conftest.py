"""Fixtures shared by all tests."""

import os
from pathlib import Path

import hypothesis
import pytest
import torch

from kit.data.phantom.dataset import write_slake_phantoms
from kit.data.prepare import PrepareConfig, prepare
from kit.model.load import load_base, load_processor

ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))

# Fresh examples at every desk; in CI the same ones, so that a change is judged by what it changed.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The real sample of SLAKE and VQA-RAD beside the checkout, where it is there."""
    folder = ROOT.parent / "shared" / "realdata"
    if not folder.is_dir():
        pytest.skip("the real sample is not beside the checkout")
    return folder


@pytest.fixture(scope="session")
def processor():
    return load_processor("tiny")


@pytest.fixture(scope="session")
def base_model():
    """The embedded model; do not change it."""
    return load_base("tiny").eval()


@pytest.fixture
def fresh_model():
    """The embedded model, to be changed at will."""
    return load_base("tiny")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> dict[str, Path]:
    """A few phantoms in the layout of SLAKE, prepared: the data file of each split."""
    folder = tmp_path_factory.mktemp("phantoms")
    images = {"train": 12, "validate": 2, "test": 4}
    write_slake_phantoms(folder / "SLAKE", images=images, seed=1)
    files = {split: folder / f"{split}.json" for split in images}
    for split, output in files.items():
        prepare(
            PrepareConfig(
                output=str(output),
                dataset="SLAKE",
                split=split,
                slake_root=str(folder / "SLAKE"),
            )
        )
    return files
