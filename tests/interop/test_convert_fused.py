"""convert fuses a norm and the activation after it in a Sequential. Used in another way, each runs by itself."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from fastopt import nn
from support import assert_same_bits, some_values

T = torch.nn
SHAPES = {"BatchNorm1d": (4, 3, 5), "BatchNorm3d": (2, 3, 2, 3, 2)}


def types(model: T.Module) -> list[type]:
    return [type(module) for module in model.modules()]


class Own(T.Sequential):
    """Runs as torch's Sequential does, but its constructor takes other arguments."""

    def __init__(self, width: int, activation: T.Module) -> None:
        super().__init__(OrderedDict(norm=T.BatchNorm2d(width), act=activation))


ACTIVATIONS: dict[str, Callable[[], T.Module]] = {
    "relu": T.ReLU,
    "relu in place": lambda: T.ReLU(True),
    "relu6": T.ReLU6,
    "leaky_relu": lambda: T.LeakyReLU(0.2),
    "elu": T.ELU,
    "silu": T.SiLU,
    "gelu": T.GELU,
    "hardswish": T.Hardswish,
}


@pytest.mark.parametrize("norm", ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"])
@pytest.mark.parametrize("before", [T, nn], ids=["torch", "fastopt"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_fused(norm: str, before: Any, name: str) -> None:
    """The pair runs in one call, and revert restores everything."""
    model = T.Sequential(getattr(before, norm)(3), ACTIVATIONS[name](), T.ReLU())
    keys, x = set(vars(model[0])), some_values(SHAPES.get(norm, (4, 3, 5, 5)), torch.float64, 1)
    expected = copy.deepcopy(model.double())(x)
    kinds = [type(model), getattr(T, norm), *types(model)[2:]]
    nn.convert(nn.convert(model))
    assert types(model) == [nn.Sequential, getattr(nn, norm), *kinds[2:]]
    assert model.pairs() == [("0", "1")]
    assert "0 + 1 as one" in repr(model)
    assert_close(model(x), expected)
    nn.revert(model)
    assert types(model) == kinds
    assert vars(model[0]).keys() == keys


def test_the_kernel_applies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.convert(T.Sequential(T.BatchNorm2d(3), T.ReLU())).eval()
    monkeypatch.setattr(torch.nn.functional, "relu", None)
    assert (model(some_values((2, 3, 4, 4), torch.float32, 1)) >= 0).all()


NOT_FUSED: dict[str, Callable[[], T.Module]] = {
    "between": lambda: T.Sequential(T.BatchNorm2d(3), T.Tanh(), T.ReLU()),
    "before": lambda: T.Sequential(T.ReLU(), T.BatchNorm2d(3)),
    "elu of alpha 2": lambda: T.Sequential(T.BatchNorm2d(3), T.ELU(2.0)),
    "gelu by tanh": lambda: T.Sequential(T.BatchNorm2d(3), T.GELU("tanh")),
    "relu6 of other limits": lambda: T.Sequential(T.BatchNorm2d(3), setattr(r := T.ReLU6(), "max_val", 3) or r),
    "subclass of relu": lambda: T.Sequential(T.BatchNorm2d(3), type("R", (T.ReLU,), {})()),
    "other norm": lambda: T.Sequential(T.LocalResponseNorm(3), T.ReLU()),
    "dropout": lambda: T.Sequential(T.Dropout(), T.ReLU()),
    "has one": lambda: T.Sequential(nn.BatchNorm2d(3, activation="silu"), T.ReLU()),
    "own norm": lambda: T.Sequential(type("N", (T.BatchNorm2d,), {})(3), T.ReLU()),
}


@pytest.mark.parametrize("name", NOT_FUSED)
def test_not_fused(name: str) -> None:
    model, x = NOT_FUSED[name]().eval(), some_values((2, 3, 4, 4), torch.float32, 1)
    expected = model(x.clone())
    nn.convert(model)
    assert not getattr(model, "pairs", list)()
    assert_close(model(x.clone()), expected)


def test_a_sequential_that_overrides_forward_is_left_alone() -> None:
    class Negated(T.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return -super().forward(x)

    model = nn.convert(Negated(T.BatchNorm2d(3), T.ReLU()))
    assert type(model) is Negated


# Ways to take a converted model apart, or to use its parts elsewhere. Each is also applied to a copy of torch's model.


def body() -> T.Sequential:
    torch.manual_seed(0)
    model = T.Sequential(T.Conv2d(3, 4, 3), T.BatchNorm2d(4), T.ReLU(), T.Conv2d(4, 2, 3), T.BatchNorm2d(2), T.SiLU())
    for norm in (model[1], model[4]):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    return model


def nested() -> T.Sequential:
    torch.manual_seed(1)
    return T.Sequential(T.Sequential(T.Conv2d(3, 4, 3), T.BatchNorm2d(4)), T.ReLU(), Own(4, T.LeakyReLU(0.3)))


def done(act: Callable[[Any], object]) -> Callable[[Any, Tensor], Tensor]:
    """Makes a way that changes the model and then runs it."""

    def use(model: Any, x: Tensor) -> Tensor:
        act(model)
        return model(x)

    return use


def of_one(i: int, what: Callable[[Any], object]) -> Callable[[Any, Tensor], Tensor]:
    return done(lambda m: what(m[i]))


HOOKS: dict[str, Callable[[Any], object]] = {
    "forward hook": lambda p: p.register_forward_hook(lambda _, i, o: o - 1),
    "forward pre-hook": lambda p: p.register_forward_pre_hook(lambda _, i: (i[0] * 2 - 1,)),
    "backward hook": lambda p: p.register_full_backward_hook(lambda _, i, o: (i[0] * 2,)),
    "backward pre-hook": lambda p: p.register_full_backward_pre_hook(lambda _, o: (o[0] * 3,)),
    "hook that is removed": lambda p: p.register_forward_hook(lambda _, i, o: o - 1).remove(),
}
CHANGES: dict[str, Callable[[Any], object]] = {
    "own forward": lambda p: setattr(p, "forward", lambda x: x - 1),
    "forward around its own": lambda p: setattr(p, "forward", lambda x, was=p.forward: was(x) - 1),
    "class of another": lambda p: setattr(p, "__class__", T.Identity),
    "subclass": lambda p: setattr(
        p, "__class__", type("Sub", (type(p),), {"forward": lambda s, x: super(type(s), s).forward(x) + 1})
    ),
    "evaluation": lambda p: p.eval(),
}
SURGERY: dict[str, Callable[[Any, Tensor], Tensor]] = {
    **{f"{name}, of part {i}": of_one(i, hook) for name, hook in HOOKS.items() for i in (1, 2, 4, 5)},
    **{f"{name}, of part {i}": of_one(i, change) for name, change in CHANGES.items() for i in (1, 2, 5)},
    "class of the norm set back": of_one(1, lambda p: setattr(p, "__class__", T.BatchNorm2d)),
    "hook on the whole": done(lambda m: m.register_forward_hook(lambda _, i, o: o * 2)),
    "activation exchanged": done(lambda m: m.__setitem__(2, T.LeakyReLU(0.3))),
    "activation exchanged by one of a kernel": done(lambda m: m.__setitem__(2, T.Hardswish())),
    "norm exchanged": done(lambda m: m.__setitem__(1, T.BatchNorm2d(4).double())),
    "norm taken out": done(lambda m: m.__setitem__(1, T.Identity())),
    "activation deleted": done(lambda m: m.__delitem__(2)),
    "norm deleted": done(lambda m: m.__delitem__(1)),
    "something between": done(lambda m: m.insert(2, T.Hardtanh(-0.5, 0.5))),
    "one more at the end": done(lambda m: m.append(T.ReLU6())),
    "extended": done(lambda m: m.extend([T.BatchNorm2d(2).double(), T.ReLU()])),
    "parts exchanged": done(lambda m: (lambda a, b: (m.__setitem__(1, b), m.__setitem__(2, a)))(m[1], m[2])),
    "negative slope changed": done(lambda m: (m.__setitem__(2, T.LeakyReLU()), setattr(m[2], "negative_slope", 0.7))),
    "alpha changed": done(lambda m: (m.__setitem__(2, T.ELU()), setattr(m[2], "alpha", 3.0))),
    "norm alone": lambda m, x: m[1](m[0](x)),
    "activation alone": lambda m, x: m[2](m[0](x)),
    "one by one": lambda m, x: m[5](m[4](m[3](m[2](m[1](m[0](x)))))),
    "one by one, with something between": lambda m, x: m[3](m[2](m[1](m[0](x)) + 1)),
    "activation twice": lambda m, x: m[2](-m[2](m[1](m[0](x)))),
    "in a loop": lambda m, x: [x := part(x) for part in m][-1],
    "children": lambda m, x: [x := part(x) for part in m.children()][2],
    "slice that ends between": lambda m, x: m[:2](x),
    "slice that starts between": lambda m, x: m[2:](m[0](x)),
    "slice with both": lambda m, x: m[1:3](m[0](x)),
    "another Sequential, another activation": lambda m, x: T.Sequential(m[0], m[1], T.LeakyReLU(0.3))(x),
    "another Sequential, the same": lambda m, x: T.Sequential(m[0], m[1], m[2])(x),
    "another Sequential, another order": lambda m, x: T.Sequential(m[0], m[2], m[1])(x),
    "activation shared with another place": lambda m, x: T.Sequential(m, m[2], T.Conv2d(2, 2, 1).requires_grad_(False))[
        :2
    ](x),
    "ModuleList": lambda m, x: [x := part(x) for part in T.ModuleList(list(m)[:3])][-1],
    "added to another": lambda m, x: (m + T.Sequential(T.BatchNorm2d(2).double(), T.ReLU()))(x),
    "copied": lambda m, x: copy.deepcopy(m)(x),
    "copied flat": lambda m, x: copy.copy(m)(x),
    "a part copied": lambda m, x: copy.deepcopy(m[1])(m[0](x)),
    "pickled": lambda m, x: pickle.loads(pickle.dumps(m))(x),
    "saved": lambda m, x: again(m)(x),
    "functional_call": lambda m, x: torch.func.functional_call(
        m, {"1.weight": torch.full((4,), 2.0, dtype=x.dtype)}, (x,)
    ),
    "checkpointed": lambda m, x: torch.utils.checkpoint.checkpoint_sequential(m, 2, x, use_reentrant=False),
    "norm by another name": lambda m, x: T.Sequential(OrderedDict(a=m[0], b=m[1], c=m[2]))(x),
    "batch statistics in evaluation": done(
        lambda m: [m.eval(), setattr(m[1], "running_mean", None), setattr(m[1], "running_var", None)]
    ),
    "frozen norm": done(lambda m: m[1].requires_grad_(False)),
    "to another type": lambda m, x: m.float()(x.float()),
    "weights exchanged": done(lambda m: setattr(m[1], "weight", T.Parameter(torch.arange(4.0, dtype=torch.float64)))),
}


def again(model: T.Module) -> T.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def assert_alike(use: Callable[[Any, Tensor], Tensor], theirs: T.Module, ours: T.Module) -> None:
    """Compares results, gradients and buffers."""
    results = []
    for model in (theirs, ours):
        x = some_values((4, 3, 8, 8), torch.float64, 3).requires_grad_()
        torch.manual_seed(2)
        y = use(model, x)
        y.float().square().sum().backward()
        results.append((y, x.grad, [p.grad for p in model.parameters()], list(model.buffers())))
    assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SURGERY)
@pytest.mark.parametrize("when", ["before", "after"])
def test_surgery(name: str, when: str) -> None:
    """Surgery works on a model that has run, and on one that has not."""
    theirs = body().double()
    ours = nn.convert(copy.deepcopy(theirs))
    if when == "after":
        x = some_values((4, 3, 8, 8), torch.float64, 9)
        assert_close(ours(x), theirs(x))
    assert_alike(SURGERY[name], theirs, ours)


NESTED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "as it is": lambda m, x: m(x),
    "inner hook": lambda m, x: (m[0].register_forward_hook(lambda _, i, o: o - 1), m(x))[1],
    "inner norm's hook": lambda m, x: (m[0][1].register_forward_hook(lambda _, i, o: o - 1), m(x))[1],
    "inner grown": lambda m, x: (m[0].append(T.Tanh()), m(x))[1],
    "inner alone": lambda m, x: m[0](x),
    "inner emptied": lambda m, x: m[1:](m[0][:1](x)),
    "subclass alone": lambda m, x: m[2](m[0](x)),
    "subclass pickled": lambda m, x: pickle.loads(pickle.dumps(m[2]))(m[0](x)),
    "subclass copied": lambda m, x: copy.deepcopy(m)[2](m[0](x)),
    "subclass's part by name": lambda m, x: m[2].act(m[2].norm(m[0](x))),
    "subclass's class set back": lambda m, x: (setattr(m[2], "__class__", Own), m(x))[1],
}


@pytest.mark.parametrize("name", NESTED)
def test_surgery_on_nested_ones(name: str) -> None:
    theirs = nested().double()
    ours = nn.convert(copy.deepcopy(theirs))
    assert (ours.pairs(), ours[2].pairs()) == ([("0", "1")], [("norm", "act")])
    assert_alike(NESTED[name], theirs, ours)
    nn.revert(ours)
    assert type(ours[2]) is Own


def test_class_of_an_activation_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patching works as guided backpropagation does it."""
    theirs = body().double()
    ours = nn.convert(copy.deepcopy(theirs))
    monkeypatch.setattr(T.ReLU, "forward", lambda self, x: x.clamp(0, 0.5))
    assert_alike(lambda m, x: m(x), theirs, ours)


@pytest.fixture
def global_hook() -> Iterator[list[str]]:
    seen: list[str] = []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda m, i, o: seen.append(type(m).__name__))
    yield seen
    handle.remove()


def test_hooks_on_all_modules_see_each(global_hook: list[str]) -> None:
    nn.convert(body())(some_values((4, 3, 8, 8), torch.float32, 1))
    assert global_hook == ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "BatchNorm2d", "SiLU", "Sequential"]


def test_no_cycles() -> None:
    """A model and its parts are freed when the last reference goes; a part keeps and pickles nothing else."""
    gc.collect()
    gc.disable()
    try:
        model = nn.convert(T.Sequential(T.Linear(1000, 1000), T.BatchNorm1d(1000), T.ReLU()))
        norm, gone = model[1], weakref.ref(model[0])
        del model
        assert gone() is None
        assert len(pickle.dumps(norm)) < 30_000
    finally:
        gc.enable()


def test_state_dict_and_attributes_are_torchs() -> None:
    model = body()
    names = [*dict(model.named_modules())]
    ours = nn.convert(copy.deepcopy(model))
    assert [*dict(ours.named_modules())] == names
    assert ours.state_dict().keys() == model.state_dict().keys()
    assert ours[1].activation is None
    assert isinstance(ours, T.Sequential)
    assert len(ours) == len(model)


def test_pickled_subclass_has_its_class_after_revert() -> None:
    model = pickle.loads(pickle.dumps(nn.convert(nested())))
    assert types(nn.revert(model)) == types(nested())


@pytest.mark.parametrize("training", [True, False])
def test_tail_of_a_nested_sequential(training: bool) -> None:
    """The outer activation is fused with the inner norm, and has the bits of a direct call."""
    ours = nn.convert(nested()).train(training)
    by_hand = copy.deepcopy(ours)
    x = some_values((4, 3, 8, 8), torch.float32, 1)
    z = by_hand[0][0](x)
    norm = by_hand[0][1]
    expected = nn.functional.batch_norm(
        z, norm.running_mean, norm.running_var, norm.weight, norm.bias, training, activation="relu"
    )
    assert_same_bits(ours[:2](x), expected)
