"""Dropout in larger programs: torch.compile, export, tracing, torch.func, subclasses, other devices."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import fastopt.nn.functional as F
from dropout_cases import FAMILY, IN_PLACE, Family
from fastopt import nn
from support import DTYPES, assert_same_bits, some_values

# Inductor, gradcheck and the tracer raise these warnings about themselves.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning",
    "ignore::FutureWarning",
    "ignore:At pre-dispatch tracing:UserWarning",
    "ignore:There is a performance drop:UserWarning",
    "ignore:.*isinstance.*LeafSpec:DeprecationWarning",
)
BACKENDS = ["eager", "aot_eager", "inductor"]


def with_gradients(function: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    torch.manual_seed(3)
    y = function(*leaves)
    return [y, *torch.autograd.grad(y.square().sum(), leaves)]


def assert_compiles(function: Callable[..., Tensor], inputs: list[Tensor], backend: str) -> None:
    """The function compiles into one graph, with eager mode's draws, masks and bits."""
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    for ours, eager in zip(with_gradients(compiled, inputs), with_gradients(function, inputs), strict=True):
        assert_same_bits(ours, eager)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILY, ids=str)
def test_compiled(family: Family, backend: str) -> None:
    inputs = family.inputs(torch.float32)
    assert_compiles(lambda *x: family(*x, seed=None), inputs, backend)
    assert_compiles(lambda *x: family(*x, seed=2**64 - 1, offset=2**63 + 1), inputs, backend)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_calls_stay_apart(backend: str) -> None:
    """No compiler merges two draws, although they look the same."""
    x = some_values(200, torch.float32, 1)
    assert_compiles(lambda x: F.dropout(x, 0.5) * F.dropout(x, 0.5) * F.dropout(x, 0.5), [x], backend)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", IN_PLACE, ids=str)
def test_compiled_in_place(family: Family, backend: str) -> None:
    assert_compiles(lambda x: family(x + 1, seed=None, inplace=True) * 2, family.inputs(torch.float32), backend)


def test_compiled_again_and_again() -> None:
    """Each call draws another mask, at other sizes as well."""
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


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # by torch 2.14
def test_operators() -> None:
    """torch's own checks of schemas, fakes and gradients pass."""
    x = some_values((4, 5), torch.float64, 1).requires_grad_()
    bias, residual = some_values(5, torch.float64, 2).requires_grad_(), some_values((4, 5), torch.float64, 3)
    seed = torch.tensor(5)
    rows = [("dropout", 2, None, None), ("alpha_dropout", 1, None, None), ("dropout_add", 2, residual, None)]
    for rule, *rest in [*rows, ("bias_dropout_add", 2, residual, bias)]:
        torch.library.opcheck(torch.ops.fastopt.dropout.default, (x, seed, rule, 0.3, 0, *rest))
    turned = [x.t().detach().t().requires_grad_(), torch.empty(5, 4).t().double().requires_grad_()]
    for other in turned:
        rest = (seed, "bias_dropout_add", 0.3, 0, 2, residual, bias)
        torch.library.opcheck(torch.ops.fastopt.dropout.default, (other, *rest))
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
    """A drawn mask is an error, as jit.trace would freeze it; a mask with a given seed is traced."""
    x = some_values((5, 9), torch.float32, 1)
    with pytest.raises(RuntimeError, match=r"torch\.jit\.trace would freeze the mask"):
        torch.jit.trace(nn.Dropout(0.5), (x,))
    traced = torch.jit.trace(lambda x: F.dropout(x, 0.5, seed=1), (x,))
    assert_same_bits(traced(x + 1), F.dropout(x + 1, 0.5, seed=1))
    assert torch.equal(torch.jit.trace(nn.Dropout(0.5).eval(), (x,))(x), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILY, ids=str)
def test_func(family: Family, dtype: torch.dtype) -> None:
    """torch.func has eager mode's bits, forward and backward."""
    inputs = family.inputs(dtype, family.shape[:1] + (4,) * (len(family.shape) - 1))
    expected = family.gradients(*inputs)
    direction = some_values(inputs[-1].shape, dtype, 99)
    y, pull = torch.func.vjp(family, *inputs)
    assert_same_bits(y, family(*inputs))
    for ours, eager in zip(pull(direction), expected, strict=True):
        assert_same_bits(ours, eager)
    x, *rest = inputs
    _, tangent = torch.func.jvp(lambda x: family(x, *rest), (x,), (direction,))
    assert_same_bits(tangent, expected[0])


def cubes(x: Tensor) -> Tensor:
    return F.dropout(x, 0.5, seed=2).pow(3).sum()


@pytest.mark.parametrize("outer", [torch.func.jacfwd, torch.func.jacrev])
@pytest.mark.parametrize("inner", [torch.func.jacfwd, torch.func.jacrev])
def test_func_twice(inner: Callable[..., Any], outer: Callable[..., Any]) -> None:
    x = torch.arange(1.0, 9)
    torch.testing.assert_close(outer(inner(cubes))(x), torch.diag(48 * x * F.dropout_mask(x.shape, 0.5, seed=2)))


@pytest.mark.parametrize("family", FAMILY, ids=str)
def test_vmap_with_a_seed(family: Family) -> None:
    """With a seed, all samples have the same mask, and each has the bits that it has alone."""
    for dtype in (torch.float32, torch.bfloat16):
        samples = [torch.stack([x, x * 2, x + 1]) for x in family.inputs(dtype)]
        for i, result in enumerate(torch.vmap(family)(*samples)):
            assert_same_bits(result, family(*[x[i] for x in samples]))
        first, *rest = samples
        for k in range(len(rest)):  # one operand is shared by all samples
            some = [x if i != k else x[0] for i, x in enumerate(rest)]
            dims = [0 if i != k else None for i in range(len(rest))]
            for i, result in enumerate(torch.vmap(family, in_dims=(0, *dims))(first, *some)):
                assert_same_bits(
                    result, family(first[i], *[x if d is None else x[i] for x, d in zip(some, dims, strict=True)])
                )


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_vmap_with_drawn_masks(compiled: bool) -> None:
    """Each sample draws another mask, also if all share the input."""
    x, constant = torch.ones(3, 50), torch.ones(50)
    draws = {
        "batched": lambda x: F.dropout(x, 0.5),
        "unbatched": lambda x: F.dropout(constant, 0.5) * x,
        "added": lambda x: F.dropout_add(constant, x, 0.5),
        "gradient": torch.func.grad(lambda x: F.dropout(x, 0.5).sum()),
    }
    for draw in draws.values():
        torch._dynamo.reset()

        def batch(randomness: str, draw: Callable[[Tensor], Tensor] = draw) -> Tensor:
            mapped = lambda x: torch.vmap(draw, randomness=randomness)(x)  # noqa: E731
            return (torch.compile(mapped, backend="aot_eager") if compiled else mapped)(x)

        with pytest.raises(Exception, match="called random operation while in randomness error mode"):
            batch("error")
        same, different = batch("same"), batch("different")
        assert torch.equal(same[0], same[1])
        assert torch.equal(same[0], same[2])
        assert not torch.equal(different[0], different[1])
        assert not torch.equal(different[1], different[2])


def test_vmap_within_vmap() -> None:
    inner = torch.vmap(lambda x: F.dropout(x, 0.5), randomness="different")
    seen = torch.vmap(inner, randomness="different")(torch.ones(2, 3, 64)).flatten(0, 1)
    assert len({tuple(row.tolist()) for row in seen}) == 6
    seen = torch.vmap(inner, randomness="same")(torch.ones(2, 3, 64))
    assert_same_bits(seen[0], seen[1])
    assert not torch.equal(seen[0, 0], seen[0, 1])


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_transforms(backend: str) -> None:
    x = torch.arange(1.0, 9)
    jvp = lambda x: torch.func.jvp(cubes, (x,), (x,))[1]  # noqa: E731
    for transformed in (jvp, torch.func.grad(cubes)):
        torch._dynamo.reset()
        found = torch.compile(lambda x, f=transformed: f(x), fullgraph=True, backend=backend)(x)
        assert_same_bits(found, transformed(x))


def test_forward_mode_in_a_dispatch_mode() -> None:
    x = torch.ones(20)
    with forward_ad.dual_level():
        expected = forward_ad.unpack_dual(F.dropout(forward_ad.make_dual(x, x), 0.5, seed=1)).tangent
        with FlopCounterMode(display=False):
            seen = forward_ad.unpack_dual(F.dropout(forward_ad.make_dual(x, x), 0.5, seed=1)).tangent
    assert_same_bits(seen, expected)
    assert expected.any()


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
    """Objects with __torch_function__ see the call and its arguments."""

    class Seen:
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            return function, kwargs

    for family in FAMILY:
        function, kwargs = family(*[Seen()] * (1 + family.residual + family.bias), p=0.25)
        assert function is (F.dropout if family.name == "drop_connect" else family.function)
        assert kwargs["p"] == 0.25
        assert kwargs["seed"] == 5


def test_masks_where_tensors_have_no_memory() -> None:
    expected = F.dropout_mask((5, 3), 0.5, seed=2**63)
    with torch.device("meta"):
        seen = F.dropout_mask((5, 3), 0.5, seed=2**63)
    assert torch.equal(seen, expected)
    with FakeTensorMode():
        assert F.dropout_mask((5, 3), 0.5, seed=1).shape == (5, 3)
        assert F.dropout_mask((5, 3), 0.5, seed=1, packed=True).shape == (2,)
    torch._dynamo.reset()
    compiled = torch.compile(lambda: F.dropout_mask((5, 3), 0.5, seed=2**63), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(), expected)


def test_nothing_is_drawn_for_an_empty_tensor() -> None:
    state = torch.get_rng_state()
    for family in FAMILY:
        torch._dynamo.reset()
        empty = [x[:0] if x.dim() > 1 else x for x in family.inputs(torch.float32)]
        function = lambda *x, family=family: family(*x, seed=None)  # noqa: E731
        assert function(*empty).numel() == 0
        assert torch.compile(function, fullgraph=True, backend="eager")(*empty).numel() == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_no_operand_of_a_subclass_is_kept() -> None:
    x, residual = (torch.ones(5, requires_grad=True).as_subclass(Sub) for _ in range(2))
    kept = weakref.ref(residual)
    y = F.dropout_add(x, residual * 1, 0.5)
    del residual
    assert y.requires_grad
    assert kept() is None


def test_compiled_channels_with_a_warning() -> None:
    torch._dynamo.reset()
    x = torch.ones(2, 3, 4)
    compiled = torch.compile(lambda x: F.dropout2d(x, 0.5, seed=1), fullgraph=True, backend="eager")
    assert_same_bits(compiled(x), F.dropout1d(x, 0.5, seed=1))


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
