"""Fixtures shared by all tests."""

import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import torch
from helpers import settings_of
from transformers import Qwen2VLForConditionalGeneration

from kit.data.phantom.dataset import write_slake_phantoms
from kit.data.prepare import PrepareConfig, prepare
from kit.evaluate.cf_proxy import cf_proxy
from kit.evaluate.config import CfProxyConfig
from kit.grpo import grpo
from kit.model.load import load_base, load_processor
from kit.train import sft
from kit.train.config import GrpoConfig, SftConfig

LOOPS = {"sft": (sft, SftConfig), "grpo": (grpo, GrpoConfig)}
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


@pytest.fixture(params=["untrained-float32", "base-float64"])
def exact_model(request):
    """A model on which two ways to compute the same differ by rounding only, far below 1e-5: one
    of the embedded model's shape that is not trained, and the embedded model in float64 (its
    weights are large, so that in float32 rounding alone makes up to 3e-5)."""
    model = load_base("tiny")
    if request.param == "base-float64":
        return model.double()
    torch.manual_seed(torch.initial_seed() % 2**32)
    fresh = Qwen2VLForConditionalGeneration(model.config)
    for parameter in fresh.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=0.06)  # not so small that attention is even
    return fresh


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


@pytest.fixture(scope="session")
def trained(prepared, tmp_path_factory) -> dict[str, Path]:
    """An SFT adapter of a few steps, and the GRPO records that it gives."""
    folder = tmp_path_factory.mktemp("trained")
    sft.train(
        SftConfig(
            base_model="tiny", data=str(prepared["train"]), output_dir=str(folder / "sft"),
            max_steps=4, learning_rate=1e-3, freeze_vision_tower=False, lora_r=4, save_steps=0,
            direct_answers=True, report_to=["none"],
        )
    )  # fmt: skip
    code = cf_proxy(
        CfProxyConfig(
            data=str(prepared["train"]), output=str(folder / "grpo.jsonl"),
            adapter=str(folder / "sft"), max_records=16, max_new_tokens=80,
        )
    )  # fmt: skip
    assert code == 0
    return {"sft": folder / "sft", "data": folder / "grpo.jsonl"}


@pytest.fixture
def start(prepared, trained) -> Callable[..., int]:
    """Run a stage in this process, in a folder."""

    def started(stage: str, folder: Path, **changes) -> int:
        loop, config_class = LOOPS[stage]
        return loop.train(config_class(**settings_of(stage, prepared, trained, folder, **changes)))

    return started
