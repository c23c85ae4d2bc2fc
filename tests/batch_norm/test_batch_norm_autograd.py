"""Derivatives of batch normalization, of every order and in both directions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import fastopt.nn.functional as F
from batch_norm_cases import ACTIVATIONS
from support import assert_same_bits, some_values

# torch's own code warns when it computes several tangents at once.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script:DeprecationWarning",
    "ignore::FutureWarning",
    "ignore:There is a performance drop:UserWarning",
)

SHAPES = [(7, 3), (4, 3, 5), (3, 2, 4, 5)]


def leaves(shape: tuple[int, ...], residual: bool = False, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    shapes = [shape, shape[1:2], shape[1:2], *([shape] if residual else [])]
    return [some_values(s, dtype, seed).requires_grad_() for seed, s in enumerate(shapes)]


def normalize(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None, *, training: bool = True, **options: Any
) -> Tensor:
    mean, var = torch.zeros(x.shape[1], dtype=x.dtype) + 0.3, torch.ones(x.shape[1], dtype=x.dtype) + 0.5
    return F.batch_norm(x, mean, var, weight, bias, training, residual=residual, **options)


def plain(x: Tensor, mean: None, var: None, weight: Any = 1, bias: Any = 0, *, training: bool) -> Tensor:
    """Batch normalization of (N, C) whose derivatives are right in every order, which those of torch's own are not."""
    deviation = x - x.mean(0)
    return deviation * torch.rsqrt(deviation.square().mean(0) + 1e-5) * weight + bias


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_first_and_second_derivatives(activation: str | None, residual: bool, training: bool) -> None:
    for shape in SHAPES:
        inputs = leaves(shape, residual)

        def function(*tensors: Tensor) -> Tensor:
            return normalize(*tensors, training=training, activation=activation, negative_slope=0.2)

        assert gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True)
        assert gradgradcheck(function, inputs)


def test_without_parameters() -> None:
    for training in (False, True):
        x = some_values((4, 3, 5), torch.float64, 1).requires_grad_()
        mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)

        def function(x: Tensor, training: bool = training) -> Tensor:
            return F.batch_norm(x, mean.clone(), var.clone(), training=training, activation="silu")  # noqa: B023

        assert gradcheck(function, (x,), check_forward_ad=True)
        assert gradgradcheck(function, (x,))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_second_derivatives_of_any_layout(layout: torch.memory_format) -> None:
    inputs = leaves((3, 2, 4, 5), residual=True)
    inputs = [t.detach().contiguous(memory_format=layout).requires_grad_() if t.ndim == 4 else t for t in inputs]
    assert gradgradcheck(lambda *tensors: normalize(*tensors, activation="gelu"), inputs)
    wide = some_values((3, 4, 4, 5), torch.float64, 1).requires_grad_()
    assert gradcheck(lambda x: normalize(x[:, ::2], *inputs[1:3], activation="elu"), (wide,))


def test_second_derivatives_of_some() -> None:
    """Each second derivative goes to the tensor it belongs to."""
    inputs = leaves((4, 3, 5), residual=True)
    for place in range(4):
        some = [t if i == place else t.detach() for i, t in enumerate(inputs)]
        assert gradgradcheck(lambda *tensors: normalize(*tensors, activation="silu"), some)


def test_one_tensor_as_input_and_residual() -> None:
    x = some_values((4, 3, 5), torch.float64, 1).requires_grad_()

    def function(x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, training=True, activation="silu", residual=x)

    assert gradcheck(function, (x,), check_forward_ad=True)
    assert gradgradcheck(function, (x,))


def test_gradient_penalty() -> None:
    """A step on the norm of the input's gradient, as in a Wasserstein GAN, has torch's result."""
    inputs = leaves((6, 3, 4, 4))
    results = []
    for function in (F.batch_norm, torch.nn.functional.batch_norm):
        y = function(inputs[0], None, None, *inputs[1:], training=True).pow(3).sum()
        (grad,) = torch.autograd.grad(y, inputs[0], create_graph=True)
        results.append(torch.autograd.grad(grad.square().sum(), inputs))
    torch.testing.assert_close(results[0], results[1])


def test_third_derivatives() -> None:
    x, weight, bias = leaves((5, 2))

    def second(function: Any) -> Tensor:
        y = function(x, None, None, weight, bias, training=True).pow(3).sum()
        (first,) = torch.autograd.grad(y, x, create_graph=True)
        (again,) = torch.autograd.grad(first.pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(again.square().sum(), x)[0]

    torch.testing.assert_close(second(F.batch_norm), second(plain))


def test_forward_mode_equals_torch() -> None:
    inputs = [tensor.detach() for tensor in leaves((6, 3, 4, 4))]
    tangents = [some_values(tensor.shape, tensor.dtype, 20 + i) for i, tensor in enumerate(inputs)]
    results = []
    with forward_ad.dual_level():
        for function in (F.batch_norm, torch.nn.functional.batch_norm):
            dual = [forward_ad.make_dual(x, t) for x, t in zip(inputs, tangents, strict=True)]
            y = function(dual[0], None, None, *dual[1:], training=True)
            results.append(forward_ad.unpack_dual(y).tangent)
    assert results[0].abs().max() > 0.1
    torch.testing.assert_close(results[0], results[1])


def test_gradients_as_they_come() -> None:
    """Expanded, transposed and negated gradients, and those of another layout, give the bits of a dense copy."""
    x, weight, bias = leaves((4, 6, 5, 7), dtype=torch.float32)
    y = normalize(x, weight, bias, activation="relu")
    grad = some_values((4, 6, 7, 5), torch.float32, 9).transpose(2, 3)
    negated = torch._neg_view(grad)
    expanded = some_values((1, 6, 1, 1), torch.float32, 9).expand_as(y)
    last = grad.contiguous(memory_format=torch.channels_last)
    for odd in (grad, negated, expanded, last):
        dense = torch.empty_like(y).copy_(odd)
        found, expected = (torch.autograd.grad(y, (x, weight, bias), g, retain_graph=True) for g in (odd, dense))
        for a, b in zip(found, expected, strict=True):
            assert_same_bits(a, b)


@pytest.mark.parametrize("one", range(5), ids=["input", "weight", "bias", "residual", "grad"])
@pytest.mark.parametrize("training", [True, False])
def test_negated_tensors(training: bool, one: int) -> None:
    """Dense tensors that are lazily negated are read as the values they stand for."""
    results = []
    for negated in (torch.neg, torch._neg_view):
        inputs = leaves((4, 6, 5), residual=True, dtype=torch.float32)
        tensors = [*inputs, some_values((4, 6, 5), torch.float32, 9)]
        tensors[one] = negated(tensors[one])
        y = normalize(*tensors[:4], training=training, activation="silu")
        results.append((y, *torch.autograd.grad(y, inputs, tensors[4])))
    for found, expected in zip(*results, strict=True):
        assert_same_bits(found, expected)


def test_only_what_is_wanted() -> None:
    x, weight, bias = leaves((4, 6, 5), dtype=torch.float32)
    everything = torch.autograd.grad(normalize(x, weight, bias).pow(2).sum(), (x, weight, bias))
    for k, one in enumerate((x, weight, bias)):
        others = [t if t is one else t.detach() for t in (x, weight, bias)]
        (found,) = torch.autograd.grad(normalize(*others).pow(2).sum(), one)
        assert_same_bits(found, everything[k])
    with torch.no_grad():
        assert not normalize(x, weight, bias).requires_grad


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 6, 5), (4, 6, 5, 7)], ids=str)
def test_only_the_gradient_of_the_residual(shape: tuple[int, ...], training: bool) -> None:
    """In columns and in planes, the residual's gradient alone has the bits it has next to the input's. Only in float32
    is it kept for the input's."""
    for dtype in (torch.float32, torch.bfloat16):
        x, weight, bias, residual = (t.to(dtype) for t in leaves(shape, residual=True))
        x, residual = x.detach().requires_grad_(), residual.detach().requires_grad_()
        grad = some_values(shape, dtype, 9)

        def normalized(x: Tensor) -> Tensor:
            options = {"training": training, "activation": "relu"}
            return normalize(x, weight.detach(), bias.detach(), residual, **options)  # noqa: B023

        _, expected = torch.autograd.grad(normalized(x), (x, residual), grad)
        (found,) = torch.autograd.grad(normalized(x.detach()), residual, grad)
        assert_same_bits(found, expected)


def test_nothing_but_the_input_is_kept() -> None:
    """The graph keeps the input, the parameters and two numbers per channel; no mask, no normalized tensor."""
    x, weight, bias = leaves((8, 4, 32, 32), dtype=torch.float32)
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        normalize(x, weight, bias, activation="gelu")
    beside = [t for t in kept if t.data_ptr() not in (x.data_ptr(), weight.data_ptr(), bias.data_ptr())]
    assert sum(t.numel() for t in beside) == 8


def test_checkpoint() -> None:
    from torch.utils.checkpoint import checkpoint

    x, weight, bias = leaves((4, 6, 5), dtype=torch.float32)
    expected = torch.autograd.grad(normalize(x, weight, bias, activation="silu").pow(2).sum(), (x, weight, bias))
    y = checkpoint(lambda *t: normalize(*t, activation="silu"), x, weight, bias, use_reentrant=False)
    for a, b in zip(torch.autograd.grad(y.pow(2).sum(), (x, weight, bias)), expected, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("inner", [torch.func.jacrev, torch.func.jacfwd])
@pytest.mark.parametrize("outer", [torch.func.jacrev, torch.func.jacfwd])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("activation", [None, "relu", "silu", "gelu"])
def test_second_derivatives_of_torch_func(activation: str | None, training: bool, outer: Any, inner: Any) -> None:
    """Second derivatives are right with respect to one tensor, and to two different ones."""
    tensors = [some_values(shape, torch.float64, i) for i, shape in enumerate([(5, 2), (2,), (2,)])]
    mean, var = some_values((2,), torch.float64, 8), some_values((2,), torch.float64, 9).abs()

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        running = (None, None) if training else (mean, var)
        return F.batch_norm(x, *running, weight, bias, training, activation=activation).pow(3).sum()

    def expected(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        evaluated = (x - mean) * torch.rsqrt(var + 1e-5) * weight + bias
        y = plain(x, None, None, weight, bias, training=True) if training else evaluated
        return (y if activation is None else getattr(torch.nn.functional, activation)(y)).pow(3).sum()

    every = (0, 1, 2)
    found = [outer(inner(loss, argnums=every), argnums=every)(*tensors) for loss in (ours, expected)]
    torch.testing.assert_close(*found)


def test_backward_through_forward_mode() -> None:
    x = some_values((5, 2), torch.float64, 1).requires_grad_()
    tangent = some_values((5, 2), torch.float64, 2)
    results = []
    for function in (F.batch_norm, plain):
        with forward_ad.dual_level():
            y = function(forward_ad.make_dual(x, tangent), None, None, training=True)
            t = forward_ad.unpack_dual(y).tangent
            results.append(torch.autograd.grad(t.pow(2).sum(), x)[0])
    torch.testing.assert_close(results[0], results[1])
