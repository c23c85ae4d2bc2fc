"""DropConnect around any module."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import fastopt.nn.functional as F
from fastopt import nn
from support import TORCH, assert_same_bits, some_values

MODULES = {
    "Linear": (torch.nn.Linear(5, 4), ["weight"], (3, 5)),
    "Conv2d": (torch.nn.Conv2d(5, 4, 3), ["weight"], (2, 5, 6, 6)),
    "LSTM": (torch.nn.LSTM(5, 4), ["weight_ih_l0", "weight_hh_l0"], (3, 2, 5)),
    "Sequential": (torch.nn.Sequential(torch.nn.Linear(5, 5), torch.nn.Linear(5, 5)), ["0.weight", "1.weight"], (3, 5)),
}


@pytest.mark.parametrize("name", MODULES)
def test_weights_and_nothing_else(name: str) -> None:
    module, names, shape = MODULES[name]
    wrapped, x = nn.DropConnect(module, 0.5), some_values(shape, torch.float32, 1)
    assert wrapped.weights == names
    torch.manual_seed(1)
    seen = wrapped(x)
    torch.manual_seed(1)
    dropped = copy.deepcopy(module)
    for weight in names:
        parameter = dropped.get_parameter(weight)
        parameter.data = F.drop_connect(parameter.data, 0.5)
    expected = dropped(x)
    first = (lambda y: y[0]) if isinstance(expected, tuple) else (lambda y: y)
    assert_same_bits(first(seen), first(expected))
    assert not torch.equal(first(wrapped(x)), first(expected)), "other weights each time"
    wrapped.eval()
    assert_same_bits(first(wrapped(x)), first(module(x)))


def test_gradients_go_to_the_weights_that_were_kept() -> None:
    wrapped = nn.DropConnect(torch.nn.Linear(20, 30), 0.5)
    torch.manual_seed(1)
    wrapped(torch.ones(3, 20)).sum().backward()
    torch.manual_seed(1)
    kept = F.drop_connect(torch.ones(30, 20), 0.5)
    assert torch.equal(wrapped.module.weight.grad, 3 * kept)
    assert torch.equal(wrapped.module.bias.grad, torch.full((30,), 3.0))


def test_as_a_module() -> None:
    wrapped = nn.DropConnect(torch.nn.LSTM(5, 4, 2), 0.25, weights=["weight_hh_l0"])
    assert repr(wrapped).splitlines()[:2] == ["DropConnect(", "  p=0.25, weights=weight_hh_l0"]
    assert set(wrapped.state_dict()) == {f"module.{key}" for key in wrapped.module.state_dict()}
    for again in (copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        assert repr(again) == repr(wrapped)
    tied = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False))
    tied[1].weight = tied[0].weight
    shared = nn.DropConnect(tied, 0.5)
    y = shared(torch.eye(4))
    torch.testing.assert_close((y != 0).any(), torch.tensor(True))
    assert shared.weights == ["0.weight"]


@pytest.mark.skipif(TORCH < (2, 6), reason="torch's compiler did not know functional_call on modules")
def test_compiled_from_torch_2_6() -> None:
    wrapped = nn.DropConnect(torch.nn.Linear(20, 30), 0.5)
    x = some_values((3, 20), torch.float32, 1)
    torch._dynamo.reset()
    torch.manual_seed(1)
    eager = wrapped(x)
    torch.manual_seed(1)
    torch.testing.assert_close(torch.compile(wrapped, fullgraph=True, backend="aot_eager")(x), eager)


def test_refused() -> None:
    with pytest.raises(ValueError, match="dropout probability"):
        nn.DropConnect(torch.nn.Linear(2, 2), 1.5)
    with pytest.raises(ValueError, match="weights: the module has no parameter 'wait', only weight, bias"):
        nn.DropConnect(torch.nn.Linear(2, 2), weights=["wait"])
    with pytest.raises(ValueError, match="weights: the module has no parameter to drop from"):
        nn.DropConnect(torch.nn.ReLU())
