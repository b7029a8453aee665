"""Fixtures shared by all tests."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest
import torch
from families import compute_exactly, write_family
from helpers import flags_of, rows, settings_of
from ranks import launcher, run
from transformers import Qwen2VLForConditionalGeneration

from kit.data.phantom.dataset import write_slake_phantoms
from kit.data.prepare import PrepareConfig, prepare
from kit.evaluate.cf_proxy import cf_proxy
from kit.evaluate.config import CfProxyConfig
from kit.files import write_jsonl
from kit.grpo import grpo
from kit.grpo.config import GrpoConfig
from kit.model.families import FAMILIES
from kit.model.load import load_base, load_processor
from kit.model.processor import Processor
from kit.train import sft
from kit.train.config import SftConfig

LOOPS = {"sft": (sft, SftConfig), "grpo": (grpo, GrpoConfig)}
ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(1)  # as each rank has, and one core for each worker of pytest-xdist

# Fresh examples at every desk; in CI the same ones, so that a change is judged by what it changed.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")


def pytest_collection_modifyitems(items) -> None:
    """The tests on SLURM first: they are one long row, and wait for much of it. Then all that are
    slow, so that no worker of pytest-xdist is left with one of them at the end."""
    items.sort(
        key=lambda item: ("slurm" not in item.path.parts, not item.get_closest_marker("slow"))
    )


def pytest_collection_finish(session) -> None:
    """A pytest that pytest-xdist cannot tell its groups would start one SLURM beside another."""
    if getattr(session.config.option, "loadgroup", False):
        for item in session.items:
            if item.get_closest_marker("xdist_group") and "@" not in item.nodeid:
                raise pytest.UsageError("pytest-xdist keeps no groups together under this pytest")


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
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Have a folder made once, by the worker of pytest-xdist that comes first."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once"
    shared.mkdir(exist_ok=True)

    def folder_of(name: str, make: Callable[[Path], object]) -> Path:
        folder, made = shared / name, shared / f"{name}.made"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                made.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def base_of_family(once) -> Callable[[str], str]:
    """The folder of a small random model of a family, by its ``model_type``."""

    def folder_of(model_type: str) -> str:
        return str(once(model_type, lambda folder: write_family(model_type, folder)))

    return folder_of


@pytest.fixture(params=FAMILIES)
def family(request, base_of_family) -> str:
    """The folder of a small random model, of each family."""
    return base_of_family(request.param)


@pytest.fixture(scope="session")
def taught_family(once, base_of_family, prepared) -> Callable[[str], str]:
    """The folder of one that has learnt to answer four questions, by its ``model_type``: what it
    samples claims boxes, and completions of a prompt differ in reward."""

    def folder_of(model_type: str) -> str:
        def make(folder: Path) -> None:
            data = prepared["few"].with_name(f"{model_type}.json")  # beside its images
            shown = [row for row in rows(data.parent, "test.json") if row["regions"]]
            write_jsonl(data, shown[:4])
            sft.train(
                SftConfig(
                    base_model=base_of_family(model_type), data=str(data), output_dir=str(folder),
                    finetuning="full", freeze_vision_tower=True, max_steps=60, learning_rate=5e-3,
                    per_device_train_batch_size=4, prompting_mode="caption_reason_answer",
                    save_steps=0, report_to=["none"],
                )
            )  # fmt: skip

        return str(once(f"taught_{model_type}", make))

    return folder_of


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def exact(request, family, monkeypatch) -> SimpleNamespace:
    """A model of each family, its processor, and how near two ways to compute the same are on
    it."""
    wide = request.param == torch.float64
    if wide:
        compute_exactly(monkeypatch)
    return SimpleNamespace(
        model=load_base(family, dtype=request.param), processor=load_processor(family),
        near=1e-12 if wide else 1e-5,
    )  # fmt: skip


@pytest.fixture(scope="session")
def prepared(once) -> dict[str, Path]:
    """A few phantoms in the layout of SLAKE, prepared: the data file of each split, and ``few``,
    8 questions of the test split."""
    images = {"train": 12, "validate": 2, "test": 4}

    def make(folder: Path) -> None:
        write_slake_phantoms(folder / "SLAKE", images=images, seed=1)
        for split in images:
            prepare(
                PrepareConfig(
                    output=str(folder / f"{split}.json"), dataset="SLAKE", split=split,
                    slake_root=str(folder / "SLAKE"),
                )
            )  # fmt: skip
        write_jsonl(folder / "few.json", rows(folder, "test.json")[:8])

    folder = once("prepared", make)
    return {name: folder / f"{name}.json" for name in (*images, "few")}


@pytest.fixture(scope="session")
def trained(once, prepared) -> dict[str, Path]:
    """An SFT adapter of a few steps, and the GRPO records that it gives."""

    def make(folder: Path) -> None:
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

    folder = once("trained", make)
    return {"sft": folder / "sft", "data": folder / "grpo.jsonl"}


@pytest.fixture(scope="session")
def trained_small(once, prepared) -> Path:
    """An SFT adapter whose images were a third as large as the base's: at most 16 tokens."""

    def make(folder: Path) -> None:
        sft.train(
            SftConfig(
                base_model="tiny", data=str(prepared["few"]), output_dir=str(folder), max_steps=2,
                learning_rate=1e-2, lora_r=4, save_steps=0, report_to=["none"],
                min_pixels=784, max_pixels=16 * 784,
            )
        )  # fmt: skip

    return once("trained_small", make)


@pytest.fixture
def image_tokens(monkeypatch) -> set[int]:
    """Of how many tokens the images are that a test prepares, filled as it goes."""
    counts = set()
    prepare_image = Processor.prepare_image

    def counted(self, image):
        prepared = prepare_image(self, image)
        counts.add(prepared.n_tokens)
        return prepared

    monkeypatch.setattr(Processor, "prepare_image", counted)
    return counts


@pytest.fixture(scope="session")
def undisturbed(once) -> Callable[..., Path]:
    """The folder of a run to its end, made once for all the tests that compare with it."""

    def folder_of(stage: str, settings: dict, launch: str | None = None) -> Path:
        settings = {k: v for k, v in settings.items() if k != "output_dir"}
        digest = hashlib.sha256(repr(sorted(flags_of(settings))).encode()).hexdigest()

        def make(folder: Path) -> None:
            flags = flags_of(settings | {"output_dir": folder})
            done = run([*launcher(launch), f"launch/train_{stage}.py", *flags])
            assert done.returncode == 0, done.stderr
            assert any(row.get("grad_norm") for row in rows(folder)), "its steps move the weights"

        return once(f"{stage}_{launch or 'one'}_{digest[:12]}", make)

    return folder_of


@pytest.fixture
def start(prepared, trained) -> Callable[..., int]:
    """Run a stage in this process, in a folder."""

    def started(stage: str, folder: Path, **changes) -> int:
        loop, config_class = LOOPS[stage]
        return loop.train(config_class(**settings_of(stage, prepared, trained, folder, **changes)))

    return started
