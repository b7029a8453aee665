"""One optimizer step: what is clipped, what is decayed, what is left out."""

import pytest
import torch

from kit.run import process
from kit.train.optim import parameter_groups, take_step


@pytest.fixture
def linear():
    """A model whose gradient is known, and plain descent on it."""
    model = torch.nn.Linear(2, 1, bias=False)
    accelerator = process.join()
    optimizer = accelerator.prepare(torch.optim.SGD(model.parameters(), lr=1.0))
    with torch.no_grad():
        model.weight.zero_()

    def step(gradient, max_norm):
        model.weight.grad = torch.tensor([gradient])
        return take_step(accelerator, model, optimizer, max_norm), model.weight[0].tolist()

    return step


@pytest.mark.parametrize(
    ("max_norm", "moved"), [(0.0, [-3.0, -4.0]), (1.0, [-0.6, -0.8]), (10.0, [-3.0, -4.0])]
)
def test_a_gradient_is_clipped_to_its_norm_and_0_leaves_it(max_norm, moved, linear):
    (norm, applied), weight = linear([3.0, 4.0], max_norm)
    assert applied
    assert norm == pytest.approx(5)
    assert weight == pytest.approx(moved, abs=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_moves_nothing(value, linear):
    (_, applied), weight = linear([1.0, value], 1.0)
    assert not applied
    assert weight == [0, 0]
    assert linear([1.0, 0.0], 0.0)[1] == [-1, 0], "and is not there any more in the next step"


def test_matrices_alone_are_decayed():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2), torch.nn.Linear(2, 1))
    model[2].weight.requires_grad_(False)
    decayed, others = parameter_groups(model, 0.1)
    assert decayed == {"params": [model[0].weight], "weight_decay": 0.1}
    assert others["weight_decay"] == 0
    assert [id(p) for p in others["params"]] == [
        id(p) for p in (model[0].bias, model[1].weight, model[1].bias, model[2].bias)
    ]
