"""Dropout inside larger programs: torch.compile, export, tracing, torch.func, subclasses, other devices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import fastopt.nn.functional as F
from dropouts import FAMILY, IN_PLACE, ONE_TENSOR, Family
from fastopt import nn
from support import assert_same_bits, some_values

# What inductor, gradcheck and the tracer say of themselves.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning",
    "ignore::FutureWarning",
    "ignore:At pre-dispatch tracing:UserWarning",
    "ignore:.*isinstance.*LeafSpec:DeprecationWarning",
)
BACKENDS = ["eager", "aot_eager", "inductor"]


def with_gradients(function: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    torch.manual_seed(3)
    y = function(*leaves)
    return [y, *torch.autograd.grad(y.square().sum(), leaves)]


def assert_compiles(function: Callable[..., Tensor], inputs: list[Tensor], backend: str) -> None:
    """One graph, and the bits of eager mode: the same draws, the same masks."""
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    for ours, eager in zip(with_gradients(compiled, inputs), with_gradients(function, inputs), strict=True):
        assert_same_bits(ours, eager)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILY, ids=str)
def test_compiled(family: Family, backend: str) -> None:
    inputs = family.inputs(torch.float32)
    assert_compiles(lambda *x: family(*x, seed=None), inputs, backend)
    assert_compiles(lambda *x: family(*x, seed=2**64 - 1, offset=2**63 + 1), inputs, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_calls_stay_apart(backend: str) -> None:
    """No compiler takes two draws for one, though they look the same."""
    x = some_values(200, torch.float32, 1)
    assert_compiles(lambda x: F.dropout(x, 0.5) * F.dropout(x, 0.5) * F.dropout(x, 0.5), [x], backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", IN_PLACE, ids=str)
def test_compiled_in_place(family: Family, backend: str) -> None:
    assert_compiles(lambda x: family(x + 1, seed=None, inplace=True) * 2, family.inputs(torch.float32), backend)


def test_compiled_again_and_again() -> None:
    """Each call draws anew, other sizes too."""
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: F.dropout(x, 0.5), fullgraph=True)
    torch.manual_seed(1)
    seen = [compiled(torch.ones(n)) for n in (100, 100, 70, 100)]
    torch.manual_seed(1)
    for y in seen:
        assert_same_bits(y, F.dropout(torch.ones(y.shape), 0.5))


def test_compiled_model_with_checkpoint() -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(9, 9), nn.Dropout(0.5), torch.nn.Linear(9, 9), nn.Dropout(0.2))

    def block(x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(layers, x, use_reentrant=False)

    x = some_values((5, 9), torch.float32, 1)
    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    for ours, eager in zip(with_gradients(compiled, [x]), with_gradients(layers, [x]), strict=True):
        torch.testing.assert_close(ours, eager)


def test_operators() -> None:
    """torch's own checks of schemas, fakes and gradients."""
    x = some_values((4, 5), torch.float64, 1).requires_grad_()
    bias, residual = some_values(5, torch.float64, 2).requires_grad_(), some_values((4, 5), torch.float64, 3)
    seed = torch.tensor(5)
    rows = [("dropout", 2, None, None), ("alpha_dropout", 1, None, None), ("dropout_add", 2, residual, None)]
    for rule, *rest in [*rows, ("bias_dropout_add", 2, residual, bias)]:
        torch.library.opcheck(torch.ops.fastopt.dropout.default, (x, seed, rule, 0.3, 0, *rest))
    torch.library.opcheck(torch.ops.fastopt.dropout_gradients.default, (x, seed, "dropout", 0.3, 0))


def test_exported_and_traced() -> None:
    x = some_values((5, 9), torch.float32, 1)
    module = torch.nn.Sequential(nn.Dropout(0.5), nn.Dropout1d(0.2))
    programs = {
        "export": torch.export.export(module, (x,)).module(),
        "make_fx": make_fx(lambda t: module(t))(x),
        "symbolic_trace": torch.fx.symbolic_trace(module),
    }
    for name, program in programs.items():
        torch.manual_seed(1)
        ours = [program(x), program(x)]
        torch.manual_seed(1)
        for y in ours:
            assert_same_bits(y, module(x), name)


def test_jit_traced() -> None:
    """A mask that is drawn would be frozen, or not, as that compiler pleases; one with a seed may."""
    x = some_values((5, 9), torch.float32, 1)
    with pytest.raises(RuntimeError, match=r"torch\.jit\.trace would freeze the mask"):
        torch.jit.trace(nn.Dropout(0.5), (x,))
    traced = torch.jit.trace(lambda x: F.dropout(x, 0.5, seed=1), (x,))
    assert_same_bits(traced(x + 1), F.dropout(x + 1, 0.5, seed=1))
    assert torch.equal(torch.jit.trace(nn.Dropout(0.5).eval(), (x,))(x), x)


@pytest.mark.parametrize("family", FAMILY, ids=str)
def test_func(family: Family) -> None:
    """grad, jvp and a Hessian."""
    inputs = family.inputs(torch.float64, family.shape[:1] + (4,) * (len(family.shape) - 1))
    expected = with_gradients(family, inputs)[1:]
    every = tuple(range(len(inputs)))
    found = torch.func.grad(lambda *x: family(*x).square().sum(), argnums=every)(*inputs)
    for ours, eager in zip(found, expected, strict=True):
        assert_same_bits(ours, eager)
    _, tangent = torch.func.jvp(lambda x: family(x, *inputs[1:]).square().sum(), (inputs[0],), (inputs[0],))
    torch.testing.assert_close(tangent, (expected[0] * inputs[0]).sum())
    flat = inputs[0].flatten()[:4]
    hessian = torch.func.hessian(lambda x: F.dropout(x, 0.5, seed=2).pow(3).sum())(flat)
    kept = F.dropout_mask(flat.shape, 0.5, seed=2)
    torch.testing.assert_close(hessian, torch.diag(48 * flat * kept))


@pytest.mark.parametrize("family", FAMILY, ids=str)
def test_vmap_with_a_seed(family: Family) -> None:
    """A seed means the same mask for every sample."""
    samples = [torch.stack([x, x * 2, x + 1]) for x in family.inputs(torch.float32)]
    batched = torch.vmap(family)(*samples)
    for i, result in enumerate(batched):
        assert_same_bits(result, family(*[x[i] for x in samples]))


@pytest.mark.parametrize("family", ONE_TENSOR, ids=str)
def test_vmap_with_drawn_masks(family: Family) -> None:
    x = torch.ones(3, *family.shape)
    draw = lambda x: family(x, p=0.5, seed=None)  # noqa: E731
    with pytest.raises(RuntimeError, match="vmap: called random operation while in randomness error mode"):
        torch.vmap(draw)(x)
    same = torch.vmap(draw, randomness="same")(x)
    assert torch.equal(same[0], same[1])
    assert torch.equal(same[0], same[2])
    torch.manual_seed(1)
    different = torch.vmap(draw, randomness="different")(x)
    assert not torch.equal(different[0], different[1])
    torch.manual_seed(1)
    per_sample = torch.vmap(torch.func.grad(lambda x: draw(x).sum()), randomness="different")(x)
    if "alpha" not in family.name:
        assert_same_bits(per_sample, different)
    torch.manual_seed(1)
    one = torch.vmap(draw, randomness="same")(x)
    torch.manual_seed(1)
    other = torch.vmap(draw, in_dims=-1, out_dims=-1, randomness="same")(x.movedim(0, -1))
    assert_same_bits(other.movedim(-1, 0), one)


class Sub(torch.Tensor):
    """A subclass that changes nothing."""


def test_subclass() -> None:
    for family in FAMILY:
        inputs = family.inputs(torch.float32)
        result = family(*[x.as_subclass(Sub) for x in inputs])
        assert type(result) is Sub
        assert_same_bits(result.as_subclass(Tensor), family(*inputs))
    with torch.no_grad():
        assert type(F.dropout(torch.nn.Parameter(torch.ones(5)), 0.5)) is Tensor


def test_overridden() -> None:
    """Objects with __torch_function__ see the call."""

    class Seen:
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            return function, kwargs

    for family in FAMILY:
        function, kwargs = family(*[Seen()] * (1 + family.residual + family.bias), p=0.25)
        assert function is (F.dropout if family.name == "drop_connect" else family.function)
        assert kwargs["p"] == 0.25
        assert kwargs["seed"] == 5


def test_tensors_without_memory() -> None:
    for family in FAMILY:
        shape = family(*[x.to("meta") for x in family.inputs(torch.float32)]).shape
        assert shape == family.shape
        with FakeTensorMode():
            assert family(*[torch.empty(x.shape) for x in family.inputs(torch.float32)]).shape == shape


def test_autocast() -> None:
    linear, x = torch.nn.Linear(9, 9), some_values((5, 9), torch.float32, 1)
    with torch.autocast("cpu", torch.bfloat16):
        h = linear(x)
        assert F.dropout(h, 0.5).dtype == torch.bfloat16
        assert F.bias_dropout_add(h, linear.bias, x, 0.5).dtype == torch.float32
