"""``full_determinism``: on from the beginning, and nothing on the way raises on a GPU for it. Which
operations would, torch says; that none of them is used, a CPU can show."""

import os
import re

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from kit.command import DEPRECATED
from kit.evaluate.config import EvaluateConfig
from kit.evaluate.evaluation import evaluate
from kit.model.decoding import likeliest
from kit.run import process

# What torch 2.13 documents to raise on CUDA under deterministic algorithms: its name there, and
# those of the operations that are dispatched.
RAISING = {
    "torch.nn.AvgPool3d": ("avg_pool3d_backward",),
    "torch.nn.AdaptiveAvgPool2d": ("_adaptive_avg_pool2d_backward",),
    "torch.nn.AdaptiveAvgPool3d": ("_adaptive_avg_pool3d_backward",),
    "torch.nn.AdaptiveMaxPool2d": ("adaptive_max_pool2d_backward",),
    "torch.nn.FractionalMaxPool2d": ("fractional_max_pool2d_backward",),
    "torch.nn.FractionalMaxPool3d": ("fractional_max_pool3d_backward",),
    "torch.nn.MaxUnpool1d": ("max_unpool2d",),
    "torch.nn.MaxUnpool2d": ("max_unpool2d",),
    "torch.nn.MaxUnpool3d": ("max_unpool3d",),
    "torch.nn.functional.interpolate": (
        "upsample_linear1d_backward", "upsample_bilinear2d_backward",
        "_upsample_bilinear2d_aa_backward", "upsample_bicubic2d_backward",
        "_upsample_bicubic2d_aa_backward", "upsample_trilinear3d_backward",
    ),
    "torch.nn.ReflectionPad1d": ("reflection_pad1d_backward",),
    "torch.nn.ReflectionPad2d": ("reflection_pad2d_backward",),
    "torch.nn.ReflectionPad3d": ("reflection_pad3d_backward",),
    "torch.nn.NLLLoss": ("nll_loss_forward", "nll_loss2d_forward"),
    "torch.nn.CTCLoss": ("_ctc_loss_backward",),
    "torch.nn.EmbeddingBag": ("_embedding_bag_backward",),
    "torch.Tensor.put_": ("put",),
    "torch.histc": ("histc",),
    "torch.bincount": ("bincount",),
    "torch.median": ("median", "nanmedian"),
    "torch.nn.functional.grid_sample": ("grid_sampler_2d_backward", "grid_sampler_3d_backward"),
    "torch.cumsum": ("cumsum",),
    "torch.Tensor.scatter_reduce": ("scatter_reduce",),
    "torch.Tensor.resize_": ("resize",),
}  # fmt: skip
UNDOCUMENTED = {"kthvalue", "multinomial"}  # torch.multinomial takes a cumsum on CUDA
NAMES = UNDOCUMENTED.union(*RAISING.values())


def raises(name: str, args: tuple, kwargs: dict) -> bool:
    """Whether an operation would raise on CUDA with such arguments."""
    if name == "cumsum":
        return args[0].is_floating_point()
    if name == "bincount":
        return (args[1:] or (kwargs.get("weights"),))[0] is not None
    if name == "scatter_reduce":
        return args[4] == "prod"
    if name == "resize":
        return args[0].is_quantized
    return name in NAMES


class Operations(TorchDispatchMode):
    """How many operations were dispatched, of the forward and of the backward, which of them would
    raise on CUDA, and how many came before the mode was on."""

    def __init__(self):
        super().__init__()
        self.count, self.found, self.before = 0, set(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::").rstrip("_")
        self.count += 1
        self.before += not torch.are_deterministic_algorithms_enabled()
        if raises(name, args, kwargs or {}):
            self.found.add(name)
        return function(*args, **kwargs or {})


@pytest.fixture(autouse=True)
def _undone(monkeypatch):
    """Nothing of it stays on for other tests."""
    for name in ("CUBLAS_WORKSPACE_CONFIG", "FLASH_ATTENTION_DETERMINISTIC"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name in ("deterministic", "benchmark"):
        monkeypatch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
    yield
    torch.use_deterministic_algorithms(False)


def test_the_table_is_that_of_torch():
    """Of the installed one; a newer one may name more."""
    told = torch.use_deterministic_algorithms.__doc__
    told = told.split("operations will throw a")[-1].split("In addition, several")[0]
    named = set(re.findall(r":(?:class|func):`(torch[\w.]+)`", told))
    assert len(named) > 20
    assert named <= RAISING.keys()


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("cumsum", lambda x: x.cumsum(0)),
        ("bincount", lambda x: x.long().bincount(x)),
        ("bincount", lambda x: x.long().bincount(weights=x)),
        ("median", lambda x: x.median(0)),
        ("nll_loss_forward", lambda x: nn.functional.cross_entropy(x[None], torch.tensor([1]))),
        (
            "upsample_linear1d_backward",
            lambda x: nn.functional.interpolate(x[None, None], 9, mode="linear").sum().backward(),
        ),
        (None, lambda x: (x.long().cumsum(0), x.long().bincount(), x.sort(), x[[0, 1]])),
    ],
)
def test_such_operations_are_found(name, act):
    with Operations() as seen:
        act(torch.ones(4).requires_grad_(name == "upsample_linear1d_backward"))
    assert seen.found == ({name} if name else set())
    assert seen.before == seen.count > 0


def test_what_is_switched_on(monkeypatch):
    process.fix_algorithms(False)
    assert not torch.are_deterministic_algorithms_enabled()
    torch.backends.cudnn.benchmark = True
    process.fix_algorithms(True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    process.fix_algorithms(True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8", "the user's own"


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 0.999])
def test_what_is_cut_off_is_what_transformers_cuts_off(top_p):
    scores_RV = 3 * torch.randn(8, 1500)
    scores_RV[:, :9] = -torch.inf
    for top_k in (0, 30):
        expected = TopKLogitsWarper(top_k or 1500)(None, scores_RV)
        expected = TopPLogitsWarper(top_p)(None, expected)
        found = likeliest(scores_RV.softmax(dim=1), top_k, top_p)
        assert torch.equal(found > 0, expected.isfinite())


@pytest.mark.filterwarnings(  # nor leans on what a library is about to take away
    "error::FutureWarning", "error::DeprecationWarning",
    f"ignore:{'|'.join(DEPRECATED)}:FutureWarning",
)  # fmt: skip
@pytest.mark.parametrize("stage", ["sft", "grpo", "evaluate"])
@pytest.mark.slow
def test_nothing_raises_on_a_gpu(stage, start, prepared, trained, tmp_path, monkeypatch):
    """Forward and backward of whole stages: sampling, probe, reference, update, checkpointing."""
    asked = []

    def bf16_support():  # the first to look for a GPU
        asked.append(torch.are_deterministic_algorithms_enabled())
        return "none"

    monkeypatch.setattr(process, "bf16_support", bf16_support)
    common = {"full_determinism": True}
    with Operations() as seen:
        if stage == "evaluate":
            config = EvaluateConfig(
                data=str(prepared["few"]), output=str(tmp_path), adapter=str(trained["sft"]),
                max_records=2, max_new_tokens=8, num_samples=2, counterfactual=True, **common,
            )  # fmt: skip
            assert evaluate(config) == 0
        else:
            common |= {"max_steps": 1, "save_steps": 0, "gradient_checkpointing": True}
            own = {"eval_data": str(prepared["few"]), "freeze_vision_tower": False}
            if stage == "grpo":
                own = {
                    "num_iterations": 2, "beta": 0.1, "top_k": 20, "top_p": 0.9,
                    "counterfactual": "online", "reward_funcs": [],
                }  # fmt: skip
            assert start(stage, tmp_path, **common, **own) == 0
            assert asked == [True], "before CUDA is"
    print(f"{stage}: {seen.count} operations")
    assert seen.count > 2000
    assert (seen.found, seen.before) == (set(), 0)
