"""Merged additions in later calls: other types and layouts, hooks, copies, compilers."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import fastopt.nn
from residual_layers import (
    NORMS,
    Layer,
    OwnRMSNorm,
    Sum,
    assert_alike,
    assert_same_type,
    joined,
    pair_of,
    passes_fixture,
    values,
)
from support import assert_same_bits

__all__ = ["passes_fixture"]


def _unusual(name: str) -> tuple[Any, Any]:
    x, y = values(seed=5), values(seed=6)
    return {
        "broadcast": (x, y[:, :1]),
        "broadcast from the right": (y[0, 0], x),
        "a number": (x, 1.5),
        "another type": (x.bfloat16(), y),
        "another type, widened by torch": (x, y.double()),
        "integers": (x, y.int()),
        "strides": (x.transpose(0, 1).contiguous().transpose(0, 1), y.transpose(0, 1).contiguous().transpose(0, 1)),
        "strides of one": (x, y.transpose(0, 1).contiguous().transpose(0, 1)),
        "a vector": (x[0, 0], y[0, 0]),
        "empty": (x[:0], y[:0]),
    }[name]


@pytest.mark.parametrize("norm", ["layer", "llama"])
@pytest.mark.parametrize(
    "name",
    [
        *["broadcast", "broadcast from the right", "a number", "another type", "integers", "strides"],
        *["strides of one", "a vector", "empty", "another type, widened by torch"],
    ],
)
def test_later_calls_with_other_arguments(name: str, norm: str, passes: list[bool]) -> None:
    """The example decides nothing about types and shapes."""
    theirs, ours = pair_of(Sum(NORMS[norm]()), example=(values(), values(seed=2)))
    assert joined(ours) == {"norm + add before"}
    passes.clear()
    with torch.no_grad():
        try:
            expected = theirs(*_unusual(name))
        except RuntimeError as error:
            with pytest.raises(RuntimeError, match=str(error).splitlines()[0][:20]):
                ours(*_unusual(name))
        else:
            y = ours(*_unusual(name))
            assert_same_type(y, expected)
            assert_same_bits(y, expected)
    assert passes == [name in ("a vector", "empty")]


@pytest.mark.parametrize("norm", ["layer", "llama"])
def test_under_autocast(norm: str, passes: list[bool]) -> None:
    """A part of a half type is added to a float32 residual by torch."""
    theirs, ours = pair_of(Layer(NORMS[norm]))
    passes.clear()
    for model in (theirs, ours):
        model.results = []
        with torch.autocast("cpu", torch.bfloat16):
            y = model(values(seed=5))
        y.sum().backward()
        model.results = [y.detach(), *(p.grad for p in model.parameters())]
    assert passes == [False]
    for mine, other in zip(ours.results, theirs.results, strict=True):
        assert_same_type(mine, other)
        assert_same_bits(mine, other)


HOOKS: dict[str, Callable[[Any], object]] = {
    "after the norm": lambda m: m.norm2.register_forward_hook(lambda _, i, o: o * i[0].mean()),
    "before the norm": lambda m: m.norm2.register_forward_pre_hook(lambda _, i: (i[0] * 2,)),
    "backward": lambda m: m.norm2.register_full_backward_hook(lambda _, i, o: (i[0] * 2,)),
    "another norm": lambda m: setattr(m, "norm2", nn.Tanh()),
    "forward of its own": lambda m: setattr(m.norm2, "forward", lambda x: x * 2),
    "another weight": lambda m: setattr(m.norm2, "weight", nn.Parameter(torch.full((6,), 3.0))),
}


@pytest.mark.parametrize("name", HOOKS)
def test_surgery(name: str) -> None:
    theirs, ours = pair_of(Layer(NORMS["llama"]))
    for model in (theirs, ours):
        HOOKS[name](model)
    assert joined(ours)
    assert_alike(theirs, ours, values(seed=5))


def test_hooks_on_all_modules() -> None:
    theirs, ours = pair_of(Layer())
    seen: list[tuple[str, float]] = []
    handle = nn.modules.module.register_module_forward_hook(
        lambda m, i, o: seen.append((type(m).__name__, float(i[0].detach().double().sum())))
    )
    try:
        for model in (theirs, ours):
            model(values())
    finally:
        handle.remove()
    assert seen[:5] == seen[5:]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies(again: Callable[[nn.Module], nn.Module], passes: list[bool]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Plain(), Plain())
    ours = fastopt.nn.convert(copy.deepcopy(model), fuse="trace", example=values())
    copied: Any = again(ours)
    assert joined(copied[0]) == {"norm + add before"}
    assert [graph.recipe for graph in copied[0]._graphs] == [graph.recipe for graph in ours[0]._graphs]
    assert copied.state_dict().keys() == model.state_dict().keys()
    passes.clear()
    assert_same_bits(copied(values()), ours(values()))
    assert passes == [True] * 4
    assert type(fastopt.nn.revert(copied)[0]) is Plain


class Plain(nn.Module):
    """A class that pickle can find."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.norm = nn.Linear(6, 6), OwnRMSNorm(6)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.norm(x + self.part(x))
        return y if mask is None else y * mask


def test_norms_of_groups_in_channels_last(passes: list[bool]) -> None:
    """Sums keep the layout that torch gives them."""
    example = values(shape=(2, 8, 4, 6)).contiguous(memory_format=torch.channels_last)
    theirs, ours = pair_of(Sum(nn.GroupNorm(2, 8)), example=(example, example))
    other = values(shape=(2, 8, 4, 6), seed=4)
    passes.clear()
    for pair in ((example, other.contiguous(memory_format=torch.channels_last)), (example, other), (other, other + 1)):
        y, expected = ours(*pair), theirs(*pair)
        assert_same_type(y, expected)
        assert_same_bits(y, expected)
    assert passes == [False, False, True]


def test_derivatives() -> None:
    _, ours = pair_of(Sum(nn.LayerNorm(6)), torch.float64, (values(torch.float64), values(torch.float64)))
    x, y = (values(torch.float64, (2, 6), seed).requires_grad_() for seed in (3, 4))
    assert torch.autograd.gradcheck(ours, (x, y))
    assert torch.autograd.gradgradcheck(ours, (x, y))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["layer", "llama"])
def test_compiled(norm: str) -> None:
    torch._dynamo.reset()
    theirs, ours = pair_of(nn.Sequential(Layer(NORMS[norm]), Layer(NORMS[norm])))
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    assert_close(compiled(values(seed=5)), theirs(values(seed=5)))
    x = values(seed=5).bfloat16()
    compiled, theirs = torch.compile(ours.bfloat16(), fullgraph=True, backend="aot_eager"), theirs.bfloat16()
    assert_close(compiled(x), theirs(x))


def test_exported_has_torchs_operators() -> None:
    _, ours = pair_of(Layer(NORMS["layer"]))
    program = torch.export.export(ours.eval(), (values(),))
    assert "fastopt" not in str(program.graph)
    assert_close(program.module()(values(seed=5)), ours(values(seed=5)))
