"""fuse="trace" on additions before norms: what it merges, that others get the sum, and where torch adds instead."""

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
from fastopt.nn._norm import fusion
from fastopt.nn._rms_forms import _Gemma, _Llama
from fastopt.nn._traced import trace
from support import HALF, assert_same_bits, some_values

SHAPE = (3, 8, 6)


class OwnRMSNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = 1e-6

    forward = _Llama.forward


class OtherRMSNorm(OwnRMSNorm):
    """Gemma's."""

    _norm = _Gemma._norm
    forward = _Gemma.forward


NORMS: dict[str, Callable[[], nn.Module]] = {
    "rms": lambda: nn.RMSNorm(6),
    "layer": lambda: nn.LayerNorm(6),
    "layer of two": lambda: nn.LayerNorm((8, 6)),
    "group": lambda: nn.GroupNorm(2, 8),
    "instance": lambda: nn.InstanceNorm1d(8, affine=True, track_running_stats=True),
    "llama": lambda: OwnRMSNorm(6),
    "gemma": lambda: OtherRMSNorm(6),
    "active": lambda: fastopt.nn.LayerNorm(6, activation="silu"),
}


class Layer(nn.Module):
    """A layer as in transformers: norm, part, addition, norm, part, addition."""

    def __init__(self, norm: Callable[[], nn.Module] = NORMS["llama"], add: Any = lambda a, b: a + b) -> None:
        super().__init__()
        self.norm1, self.part1, self.norm2, self.part2 = norm(), nn.Linear(6, 6), norm(), nn.Linear(6, 6)
        self.add, self.first = add, False
        if isinstance(self.norm2, nn.GroupNorm):
            self.norm1 = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        residual = x
        x = self.part1(self.norm1(x))
        x = residual = self.add(residual, x)
        x = self.part2(self.norm2(x))
        return self.add(residual, x)


def values(dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = SHAPE, seed: int = 1) -> Tensor:
    return (some_values(shape, torch.float64, seed) * 2).to(dtype)


def pair_of(model: nn.Module, dtype: torch.dtype = torch.float32, example: Any = None) -> tuple[Any, Any]:
    """The converted model, and the same with traces."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    plain = fastopt.nn.convert(copy.deepcopy(model).to(dtype))
    example = values(dtype) if example is None else example
    return plain, fastopt.nn.convert(copy.deepcopy(model).to(dtype), fuse="trace", example=example)


def joined(model: Any) -> set[str]:
    return {name for graph in getattr(model, "_graphs", []) for name in graph.found}


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each addition was one pass with its norm."""
    found: list[bool] = []

    def noted(a: Any, b: Any, real: Any = fusion._adds_alike) -> bool:
        found.append(real(a, b))
        return found[-1]

    monkeypatch.setattr(fusion, "_adds_alike", noted)
    return found


def assert_alike(theirs: nn.Module, ours: nn.Module, *inputs: Any) -> None:
    """Results to the bit, because both use the same kernels; gradients to rounding, because fused ones round once."""
    found = []
    for model in (theirs, ours):
        given = [x.clone().requires_grad_() for x in inputs]
        y = model(*given)
        y.float().square().sum().backward()
        grads = [x.grad for x in (*given, *model.parameters()) if x.grad is not None]
        found.append([y.detach(), *grads])
        model.zero_grad()
    for mine, other in zip(found[1], found[0], strict=True):
        assert_same_type(mine, other)
        tolerance = 0.02 if mine.dtype in HALF else 1e-5
        assert (mine - other).abs().max() <= tolerance * other.abs().max()
    assert_same_bits(found[1][0], found[0][0])


def assert_same_type(mine: Tensor, other: Tensor) -> None:
    assert (mine.dtype, mine.shape, mine.stride()) == (other.dtype, other.shape, other.stride())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF], ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_merged(name: str, dtype: torch.dtype, passes: list[bool]) -> None:
    """A Hugging Face class leaves float64 to its own code."""
    theirs, ours = pair_of(Layer(NORMS[name]), dtype)
    assert joined(ours) == {"norm2 + add before"}
    row = next(row for row in fastopt.nn.report(ours).rows if row.name == "norm2")
    assert (row.state, row.note) == ("as one", "with add before")
    passes.clear()
    for mode in (True, False):
        assert_alike(theirs.train(mode), ours.train(mode), values(dtype, seed=5))
    assert passes == [True, True]
    assert_close(list(ours.buffers()), list(theirs.buffers()))
    if name != "active":  # torch has no such module
        assert type(fastopt.nn.revert(ours)) is Layer
        assert "_graphs" not in vars(ours)


def test_one_call_with_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The merged call reaches the function once, with the residual."""
    _, ours = pair_of(Layer(NORMS["rms"]))
    calls = []
    cls = type(ours.norm2)
    monkeypatch.setattr(cls, "_normalize", lambda m, *a, real=cls._normalize: (calls.append(a[1:3]), real(m, *a))[1])
    x = values()
    ours(x)
    assert [sum_too for _, sum_too in calls] == [False, True]
    assert calls[0][0] is None
    assert calls[1][0] is not None


ADDITIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "torch.add": torch.add,
    "method": lambda a, b: a.add(b),
    "the other way": lambda a, b: b + a,
    "with itself": lambda a, b: b + b,
}


@pytest.mark.parametrize("name", ADDITIONS)
def test_additions(name: str) -> None:
    theirs, ours = pair_of(Layer(add=ADDITIONS[name]))
    assert joined(ours) == {"norm2 + add before"}
    assert_alike(theirs, ours, values(seed=5))


def _in_place(a: Tensor, b: Tensor) -> Tensor:
    b += a
    return b


LEFT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "in place": _in_place,
    "in place, method": lambda a, b: b.add_(a),
    "a number": lambda a, b: b + 1.0,
    "alpha": lambda a, b: torch.add(a, b, alpha=2),
    "difference": lambda a, b: a - b,
}


@pytest.mark.parametrize("name", LEFT)
def test_left(name: str) -> None:
    theirs, ours = pair_of(Layer(add=LEFT[name]))
    assert not joined(ours)
    assert_alike(theirs, ours, values(seed=5))


class Changed(nn.Module):
    """Changes the sum in place before, or after, it is normalized; or only reads it before."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.norm, self.act, self.how = nn.LayerNorm(6), nn.ReLU(inplace=True), how

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = x + y
        if self.how == "before":
            h = self.act(h)
        if self.how == "without its result":
            self.act(h)
        if self.how == "an argument":
            x = torch.relu_(x)
        z = self.norm(h)
        return z * h * x


@pytest.mark.parametrize("how", ["before", "without its result", "an argument", "never"])
def test_a_sum_that_changes(how: str) -> None:
    example = (values(), values(seed=2))
    theirs, ours = pair_of(Changed(how), example=example)
    assert bool(joined(ours)) == (how in ("an argument", "never"))
    if not joined(ours):  # it was not merged and then found to differ
        assert "no norm next to" in trace(ours, example, {})
    with torch.no_grad():
        assert_same_bits(ours(values(seed=5), values(seed=6)), theirs(values(seed=5), values(seed=6)))


class Sum(nn.Module):
    """An addition of any two arguments."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Any, y: Any) -> Tensor:
        h = x + y
        return self.norm(h) * h


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
