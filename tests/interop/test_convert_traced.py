"""fuse="trace": norm, addition and activation run as one, if torch.fx finds them and an example confirms it."""

from __future__ import annotations

import copy
import enum
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from fastopt import nn
from support import some_values

T = torch.nn


class Residual(T.Module):
    def __init__(self, last: Callable[[Any, Tensor, Tensor], Tensor], inner: bool = False) -> None:
        super().__init__()
        self.conv1, self.bn1 = T.Conv2d(4, 4, 3, padding=1), T.BatchNorm2d(4)
        self.conv2, self.bn2 = T.Conv2d(4, 4, 3, padding=1), T.BatchNorm2d(4)
        if inner:
            self.bn2 = T.Sequential(T.Conv2d(4, 4, 1), T.BatchNorm2d(4))
        self.act, self.skip, self.shortcut = T.ReLU(inplace=True), T.Identity(), None
        self.scale, self.last = 1, last

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        y = self.conv2(self.act(self.bn1(self.conv1(x))))
        short = x if self.shortcut is None else self.shortcut(x)
        return self.last(self, self.bn2(y), short) * self.scale


def added(self: Any, y: Tensor, x: Tensor) -> Tensor:
    y += x
    return self.act(y)


ENDS: dict[str, tuple[Callable[[Any, Tensor, Tensor], Tensor], str]] = {
    "in place, module": (added, "bn2 + add + act"),
    "module": (lambda s, y, x: s.act(x + y), "bn2 + add + act"),
    "function": (lambda s, y, x: F.relu(y + x), "bn2 + add + relu"),
    "torch.relu": (lambda s, y, x: torch.relu(torch.add(x, y)), "bn2 + add + relu"),
    "method": (lambda s, y, x: y.add(x).relu_(), "bn2 + add + relu"),
    "silu": (lambda s, y, x: F.silu(y + x, inplace=True), "bn2 + add + silu"),
    "identity between": (lambda s, y, x: s.act(s.skip(y) + x), "bn2 + add + act"),
    "no activation": (lambda s, y, x: (y + x).sigmoid(), "bn2 + add"),
    "no addition": (lambda s, y, x: s.act(y) + x, "bn2 + act"),
}


def pair_of(block: T.Module) -> tuple[T.Module, T.Module]:
    torch.manual_seed(0)
    for module in block.modules():
        if isinstance(module, T.BatchNorm2d):
            T.init.normal_(module.weight)
            T.init.normal_(module.bias)
    theirs = block.double()
    ours = nn.convert(copy.deepcopy(theirs), fuse="trace", example=values())
    return theirs, ours


def values(seed: int = 1) -> Tensor:
    return some_values((4, 4, 6, 6), torch.float64, seed)


def assert_alike(theirs: T.Module, ours: T.Module) -> None:
    found = []
    for model in (theirs, ours):
        x = values(5).requires_grad_()
        y = model(x)
        y.square().sum().backward()
        found.append([y, x.grad, *(p.grad for p in model.parameters()), *model.buffers()])
    assert_close(found[1], found[0], rtol=1e-6, atol=1e-8)


def joined(model: Any) -> set[str]:
    return {name for graph in getattr(model, "_graphs", []) for name in graph.found}


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("name", ENDS)
def test_found(name: str, inner: bool) -> None:
    last, expected = ENDS[name]
    theirs, ours = pair_of(Residual(last, inner))
    assert joined(ours) == {"bn1 + act", expected}
    assert type(ours).__name__ == "Residual"
    assert inspect.signature(ours.forward) == inspect.signature(theirs.forward)
    assert_alike(theirs, ours)
    assert_alike(theirs.eval(), ours.eval())
    assert type(nn.revert(ours)) is Residual
    assert vars(ours).keys() == vars(theirs).keys()


LEFT_OUT: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "used twice": lambda s, y, x: s.act(y + x) + y,
    "with itself": lambda s, y, x: s.act(y + y),
    "of itself": lambda s, y, x: s.act(y + y.sigmoid()),
    "alpha": lambda s, y, x: s.act(torch.add(y, x, alpha=2)),
    "a number": lambda s, y, x: s.act(y + 1),
    "multiplied": lambda s, y, x: s.act(y * x),
    "slope": lambda s, y, x: F.leaky_relu(y, 0.3) + x,
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_not_found(name: str) -> None:
    theirs, ours = pair_of(Residual(LEFT_OUT[name]))
    assert joined(ours) == {"bn1 + act"}
    assert_alike(theirs, ours)


def into_input(self: Any, y: Tensor, x: Tensor) -> Tensor:
    x += y
    return self.act(x)


def test_an_input_that_changes_in_place() -> None:
    """The caller sees it change, so that only additions to the norm's own result are merged."""
    theirs, ours = pair_of(Residual(into_input))
    assert joined(ours) == {"bn1 + act"}
    found = []
    for model in (theirs, ours):
        x = values(5)
        with torch.no_grad():
            model(x)
        found.append(x)
    assert_close(found[1], found[0])
    assert not torch.equal(found[0], values(5))


def test_broadcast_residual_is_torchs_addition() -> None:
    theirs, ours = pair_of(Residual(lambda s, y, x: s.act(y + x[:, :1])))
    assert "bn2 + add + act" in joined(ours)
    assert_alike(theirs, ours)


SURGERY: dict[str, Callable[[Any], object]] = {
    "hook on the norm": lambda m: m.bn2.register_forward_hook(lambda _, i, o: o - 1),
    "hook on the activation": lambda m: m.act.register_forward_hook(lambda _, i, o: o - 1),
    "hook on what is between": lambda m: m.skip.register_forward_hook(lambda _, i, o: o - 1),
    "activation exchanged": lambda m: setattr(m, "act", T.Tanh()),
    "norm exchanged": lambda m: setattr(m, "bn2", T.BatchNorm2d(4).double()),
    "between exchanged": lambda m: setattr(m, "skip", T.Hardtanh()),
    "option changed": lambda m: setattr(m, "scale", 3),
    "submodule that was None": lambda m: setattr(m, "shortcut", T.Conv2d(4, 4, 1).double().requires_grad_(False)),
    "forward of its own": lambda m: setattr(m, "forward", lambda x: x * 2),
    "evaluation of a part": lambda m: m.bn1.eval(),
}


@pytest.mark.parametrize("name", SURGERY)
def test_surgery(name: str) -> None:
    theirs, ours = pair_of(Residual(ENDS["identity between"][0]))
    for model in (theirs, ours):
        torch.manual_seed(3)
        SURGERY[name](model)
        model.shortcut is not None and T.init.ones_(model.shortcut.weight)
    assert_alike(theirs, ours)


class Block(T.Module):
    """A class that pickle can find."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.p = T.Conv2d(4, 4, 1), T.BatchNorm2d(4), 0.0

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn(self.conv(x)) + x)
        return F.dropout(y, self.p, self.training) if self.p > 0 else y


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies(again: Callable[[T.Module], T.Module]) -> None:
    theirs, ours = pair_of(T.Sequential(Block(), Block()))
    copied = again(ours)
    assert joined(copied[0]) == {"bn + add + relu"}
    assert_alike(theirs, copied)
    assert type(nn.revert(copied)[0]) is Block


def test_an_option_that_forward_asked_for_is_not_frozen() -> None:
    """timm's models ask an option whether to drop."""
    _, ours = pair_of(Block())
    ours.p = 1.0
    assert not ours(values()).any()


class Configured(Block):
    """Configured by numbers and flags of every kind that a module may keep, in ``options``."""

    def __init__(self, options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        options = self.options
        if isinstance(options, Tensor):
            return x * options
        while not isinstance(options, (int, float, str, Mode)):
            options = next(iter(options.values() if isinstance(options, dict) else options))
        y = F.relu(self.bn(self.conv(x)) + x)
        return y if options in (1, "as it was", Mode.ONE) else y + 1


class Mode(enum.Enum):
    ONE, TWO = 1, 2


CHANGES: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "number": (1, lambda m: setattr(m, "options", 2)),
    "name": ("as it was", lambda m: setattr(m, "options", "another")),
    "enum": (Mode.ONE, lambda m: setattr(m, "options", Mode.TWO)),
    "dict": ({"on": True}, lambda m: m.options.update(on=False)),
    "another dict": ({"on": True}, lambda m: setattr(m, "options", {"on": False})),
    "list": ([1, 2], lambda m: m.options.reverse()),
    "tuple": ((1, 2), lambda m: setattr(m, "options", (2, 1))),
    "list in a dict": ({"on": [1]}, lambda m: m.options["on"].insert(0, 3)),
    "tensor": (1, lambda m: setattr(m, "options", torch.arange(6, dtype=torch.float64))),
    "list of tensors": ([1], lambda m: setattr(m, "options", torch.arange(6, dtype=torch.float64))),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_options_in_lists_and_dicts_are_not_frozen(kind: str) -> None:
    options, change = CHANGES[kind]
    theirs, ours = pair_of(Configured(copy.deepcopy(options)))
    assert joined(ours) == {"bn + add + relu"}
    assert_alike(theirs, ours)
    for model in (theirs, ours):
        change(model)
    assert_alike(theirs, ours)


class Asks(T.Module):
    """A module whose forward torch.fx cannot trace, or traces wrongly."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.bn, self.how, self.calls = T.BatchNorm2d(4), how, [0]

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn(x))
        if self.how == "values" and x.sum() > 1e9:
            return y
        if self.how == "type" and isinstance(x, Tensor):
            return y + 1
        return y


def test_values_are_asked_for() -> None:
    theirs, ours = pair_of(Asks("values"))
    assert type(ours) is Asks
    assert_alike(theirs, ours)


def test_another_result_on_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    theirs = Asks("type").double()
    ours = nn.convert(copy.deepcopy(theirs), fuse="trace", example=values(), report=True)
    assert type(ours) is Asks
    assert "another result" in capsys.readouterr().out
    assert_alike(theirs, ours)


def test_an_example_that_does_not_reach_it() -> None:
    model = T.ModuleDict({"used": Block(), "unused": Block()}).double()
    model.forward = lambda x: model["used"](x)
    nn.convert(model, fuse="trace", example=values())
    assert joined(model["used"])
    assert type(model["unused"]) is Block


def test_the_example_changes_nothing() -> None:
    model = T.Sequential(Block(), T.Dropout()).double()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    nn.convert(model, fuse="trace", example=values())
    assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_compiled() -> None:
    torch._dynamo.reset()
    theirs, ours = pair_of(T.Sequential(Block(), Residual(added)))
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    assert_close(compiled(values()), theirs(values()))
