"""convert's fusion: a BatchNorm applies the ReLU behind it, where nobody can tell, and gives it back."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from fastopt import nn
from fastopt.nn._batch_norm.fusion import FusedReLU
from support import some_values

SHAPES = {"BatchNorm1d": (4, 3, 5), "BatchNorm3d": (2, 3, 2, 3, 2)}


def types(model: torch.nn.Module) -> list[type]:
    return [type(module) for module in model.modules()]


def fusable() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.ReLU())


class OtherSequential(torch.nn.Sequential):
    pass


class Negated(nn.BatchNorm2d):
    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        return -super().forward(input, residual)


def hooked(index: int, register: str) -> torch.nn.Module:
    model = fusable()
    getattr(model[index], register)(lambda *_: None)
    return model


def twice(index: int) -> torch.nn.Module:
    model = fusable()
    return torch.nn.Sequential(model, torch.nn.Sequential(model[index]))


def patched(index: int) -> torch.nn.Module:
    """With a forward of its own, which calls the class's that was (as accelerate's hooks do)."""
    model = fusable()
    model[index].forward = model[index].forward
    return model


HOOKS = [
    *["register_forward_hook", "register_forward_pre_hook"],
    *["register_full_backward_hook", "register_full_backward_pre_hook"],
]
ALONE: dict[str, Callable[[], torch.nn.Module]] = {
    **{f"{hook}_{i}": lambda i=i, hook=hook: hooked(i, hook) for i in (0, 1) for hook in HOOKS},
    **{f"twice_{i}": lambda i=i: twice(i) for i in (0, 1)},
    **{f"patched_{i}": lambda i=i: patched(i) for i in (0, 1)},
    "same_sequential": lambda: torch.nn.Sequential(*[m := torch.nn.BatchNorm2d(3), torch.nn.ReLU(), m]),
    "same_relu": lambda: torch.nn.Sequential(torch.nn.BatchNorm2d(3), r := torch.nn.ReLU(), torch.nn.Tanh(), r),
    "subclass": lambda: OtherSequential(*fusable()),
    "module_list": lambda: torch.nn.ModuleList(fusable()),
    "between": lambda: torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Identity(), torch.nn.ReLU()),
    "before": lambda: torch.nn.Sequential(torch.nn.ReLU(), torch.nn.BatchNorm2d(3)),
    "relu6": lambda: torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.ReLU6()),
    "silu": lambda: torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.SiLU()),
    "subclass_of_relu": lambda: torch.nn.Sequential(torch.nn.BatchNorm2d(3), type("R", (torch.nn.ReLU,), {})()),
    "other_norm": lambda: torch.nn.Sequential(torch.nn.InstanceNorm2d(3, affine=True), torch.nn.ReLU()),
    "dropout": lambda: torch.nn.Sequential(torch.nn.Dropout(), torch.nn.ReLU()),
    "nested": lambda: torch.nn.Sequential(torch.nn.Sequential(torch.nn.BatchNorm2d(3)), torch.nn.ReLU()),
    "own_forward": lambda: torch.nn.Sequential(Negated(3), torch.nn.ReLU()),
    "has_one": lambda: torch.nn.Sequential(nn.BatchNorm2d(3, activation="silu"), torch.nn.ReLU()),
}


@pytest.mark.parametrize("name", ALONE)
def test_not_fused(name: str) -> None:
    model, x = ALONE[name]().eval(), some_values((2, 3, 4, 4), torch.float32, 1)
    expected = None if name == "module_list" else model(x.clone())
    nn.convert(model)
    assert FusedReLU not in types(model)
    assert all(getattr(m, "activation", None) in (None, "silu") for m in model.modules())
    if expected is not None:
        assert_close(model(x.clone()), expected)


@pytest.mark.parametrize("norm", ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"])
@pytest.mark.parametrize("before", [torch.nn, nn], ids=["torch", "fastopt"])
def test_fused(norm: str, before: object) -> None:
    """Modules that were made as ours, too; nothing is left of it after revert."""
    model = torch.nn.Sequential(getattr(before, norm)(3), torch.nn.ReLU(True), torch.nn.ReLU())
    keys, x = set(vars(model[0])), some_values(SHAPES.get(norm, (4, 3, 5, 5)), torch.float64, 1)
    expected = copy.deepcopy(model.double())(x)
    nn.convert(nn.convert(model))
    assert types(model)[1:] == [getattr(nn, norm), FusedReLU, torch.nn.ReLU]
    assert_close(model(x), expected)
    nn.revert(model)
    assert types(model)[1:] == [getattr(torch.nn, norm), torch.nn.ReLU, torch.nn.ReLU]
    assert vars(model[0]).keys() == keys
    assert vars(model[1]).keys() == vars(torch.nn.ReLU()).keys()
    assert repr(model[1]) == "ReLU(inplace=True)"


def test_a_sequential_in_two_places() -> None:
    shared = fusable()
    model = torch.nn.ModuleList([torch.nn.Sequential(shared, shared), torch.nn.Sequential(shared)]).eval()
    x = some_values((2, 3, 4, 4), torch.float32, 1)
    expected = model[0](x)
    nn.convert(model)
    assert_close(model[0](x), expected)
    nn.revert(model)
    assert types(shared)[1:] == [torch.nn.BatchNorm2d, torch.nn.ReLU]
    assert_close(model[0](x), expected)


@pytest.mark.parametrize("other", [torch.nn.Identity, lambda: torch.nn.BatchNorm2d(3)], ids=["Identity", "BatchNorm2d"])
def test_revert_where_the_norm_before_a_fused_relu_was_replaced(other: Callable[[], torch.nn.Module]) -> None:
    """Either refused with everything as it was, or a ReLU again."""
    model = nn.convert(torch.nn.Sequential(torch.nn.Dropout(), fusable()))
    model[1][0] = other()
    before = types(model)
    try:
        nn.revert(model)
    except ValueError:
        assert types(model) == before
    else:
        assert type(model[1][1]) is torch.nn.ReLU


@pytest.mark.parametrize("other", [torch.nn.Identity(), torch.nn.LeakyReLU(0.3), torch.nn.Sigmoid()], ids=str)
@pytest.mark.parametrize("place", [0, 1])
def test_either_part_replaced(place: int, other: torch.nn.Module) -> None:
    """The part that is left goes back to what it is alone."""
    x = some_values((4, 3, 2, 2), torch.float32, 1)
    theirs = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.ReLU())
    ours = nn.convert(copy.deepcopy(theirs))
    theirs[place] = ours[place] = other
    torch.testing.assert_close(ours(x), theirs(x))
    assert types(nn.revert(ours)) == types(theirs)


def test_parts_moved_apart() -> None:
    x = some_values((4, 3, 2, 2), torch.float32, 1)
    theirs = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.ReLU())
    ours = nn.convert(copy.deepcopy(theirs))
    for model in (theirs, ours):
        model.insert(1, torch.nn.Hardtanh(-0.5, 0.5))
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_fused_relu_that_comes_before_its_norm_is_a_relu() -> None:
    model = nn.convert(fusable()).eval()
    norm = model[0]
    del model[0]
    model.append(norm)
    x = some_values((2, 3, 4, 4), torch.float32, 1)
    assert_close(model(x), norm(x.relu()))


def test_a_fused_relu_behind_another_module_is_a_relu() -> None:
    """Whatever that says of its activation."""
    model = nn.convert(fusable())
    model[0] = torch.nn.Identity()
    model[0].activation = "relu"
    x = some_values((2, 3, 4, 4), torch.float32, 1)
    assert_close(model(x), x.relu())
