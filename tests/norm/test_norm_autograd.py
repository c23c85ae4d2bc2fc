"""Derivatives of the norms of single samples, of every order and in both directions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import fastopt.nn.functional as F
from batch_norm_cases import ACTIVATIONS
from norm_cases import GROUP, KINDS, LAYER, Kind, Problem
from support import assert_same_bits, some_values

# torch's own code warns when it computes several tangents at once.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script:DeprecationWarning",
    "ignore::FutureWarning",
    "ignore:There is a performance drop:UserWarning",
)

kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def tiny(kind: Kind, **changes: Any) -> Problem:
    return Problem(kind, (2, 4, 3), 2, torch.float64, **changes)


def checked(problem: Problem) -> tuple[Any, list[Tensor]]:
    """A function of tensors, and leaves for it."""
    leaves = problem.leaves()

    def function(*tensors: Tensor) -> Any:
        return problem.call(dict(zip(leaves, tensors, strict=True)))

    return function, [leaf.requires_grad_() for leaf in leaves.values()]


@pytest.mark.slow
@kinds
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_first_and_second_derivatives(kind: Kind, activation: str | None) -> None:
    """Also through the sum that is returned."""
    for residual in (False, True):
        function, inputs = checked(tiny(kind, activation=activation, residual=residual))
        assert gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True)
        assert gradgradcheck(function, inputs)


@kinds
def test_derivatives_of_some(kind: Kind) -> None:
    """Each second derivative goes to the tensor it belongs to, and to input and residual alike."""
    problem = tiny(kind, activation="silu", residual=True)
    function, inputs = checked(problem)
    for place in range(len(inputs)):
        some = [t if i == place else t.detach() for i, t in enumerate(inputs)]
        assert gradgradcheck(lambda *tensors: function(*tensors)[0], some)
        assert gradgradcheck(lambda *tensors: [y for y in function(*tensors) if y.requires_grad], some)
    function, inputs = checked(tiny(kind, affine=False))
    assert gradcheck(function, inputs, check_forward_ad=True)
    assert gradgradcheck(function, inputs)


@kinds
def test_a_sum_that_is_not_returned(kind: Kind) -> None:
    """Its gradients, and theirs, are those of an addition before the norm."""
    x, residual = (some_values((2, 4, 3), torch.float64, seed).requires_grad_() for seed in (1, 2))
    argument = kind.argument((2, 4, 3), 2)
    results = []
    for y in (kind.ours(x, *argument, residual=residual), kind.theirs(x + residual, *argument)):
        first = torch.autograd.grad(y.pow(3).sum(), (x, residual), create_graph=True)
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), (x, residual))
        results.append((*first, *second))
    torch.testing.assert_close(*results)


@kinds
def test_one_tensor_as_input_and_residual(kind: Kind) -> None:
    x = some_values((2, 4, 3), torch.float64, 1).requires_grad_()
    argument = kind.argument((2, 4, 3), 2)

    def function(x: Tensor) -> Any:
        return kind.ours(x, *argument, activation="silu", residual=x, return_sum=True)

    assert gradcheck(function, (x,), check_forward_ad=True)
    assert gradgradcheck(function, (x,))


@kinds
def test_either_gradient_may_be_missing(kind: Kind) -> None:
    problem = replace(tiny(kind, residual=True), dtype=torch.float32)
    own = {k: v.requires_grad_() for k, v in problem.leaves().items()}
    y, total = problem.call(own)
    (of_sum,) = torch.autograd.grad(total.pow(2).sum(), own["input"], retain_graph=True)
    assert_same_bits(of_sum, 2 * total.detach())
    (of_y,) = torch.autograd.grad(y.pow(2).sum(), own["input"], retain_graph=True)
    (of_both,) = torch.autograd.grad(y.pow(2).sum() + total.pow(2).sum(), own["input"])
    torch.testing.assert_close(of_both, of_y + of_sum)


@kinds
def test_third_derivatives(kind: Kind) -> None:
    x = some_values((2, 4, 3), torch.float64, 1).requires_grad_()
    problem = tiny(kind, affine=False)

    def third(call: Any) -> Tensor:
        (first,) = torch.autograd.grad(call({"input": x}).pow(3).sum(), x, create_graph=True)
        (again,) = torch.autograd.grad(first.pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(again.square().sum(), x)[0]

    torch.testing.assert_close(third(problem.call), third(problem.plain), rtol=1e-6, atol=1e-6)


@kinds
def test_gradients_as_they_come(kind: Kind) -> None:
    """Expanded, transposed and negated gradients, and those of another layout, give the bits of a dense copy."""
    problem = Problem(kind, (4, 6, 5, 7), 3, activation="relu")
    leaves = {k: v.requires_grad_() for k, v in problem.leaves().items()}
    y = problem.call(leaves)
    grad = some_values((4, 6, 7, 5), torch.float32, 9).transpose(2, 3)
    expanded = some_values((1, 6, 1, 1), torch.float32, 9).expand_as(y)
    for odd in (grad, torch._neg_view(grad), expanded, grad.contiguous(memory_format=torch.channels_last)):
        found, expected = (
            torch.autograd.grad(y, list(leaves.values()), g, retain_graph=True) for g in (odd, odd.contiguous())
        )
        for a, b in zip(found, expected, strict=True):
            assert_same_bits(a, b)


@kinds
def test_negated_tensors(kind: Kind) -> None:
    """Dense tensors that are lazily negated are read as the values they stand for."""
    problem = Problem(kind, (4, 6, 5), 3, residual=True, activation="silu")
    for one in problem.leaves():
        results = []
        for negated in (torch.neg, torch._neg_view):
            leaves = {k: v.requires_grad_() for k, v in problem.leaves().items()}
            given = {k: negated(v) if k == one else v for k, v in leaves.items()}
            y, total = problem.call(given)
            results.append((y, total, *torch.autograd.grad((y + total).sum(), list(leaves.values()))))
        for found, expected in zip(*results, strict=True):
            assert_same_bits(found, expected)


@kinds
def test_nothing_but_the_input_is_kept(kind: Kind) -> None:
    """The graph keeps the input or the sum, the parameters and two numbers per set."""
    for residual in (False, True):
        problem = Problem(kind, (8, 4, 16, 16), 2, residual=residual, activation="gelu")
        leaves = {k: v.requires_grad_() for k, v in problem.leaves().items()}
        kept: list[Tensor] = []

        def pack(tensor: Tensor, kept: list[Tensor] = kept) -> Tensor:
            kept.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            results = problem.call(leaves)
        known = {leaf.data_ptr() for leaf in leaves.values()} | ({results[1].data_ptr()} if residual else set())
        sets = 8 * 4 * 16 if kind.is_rows else 8 * 2 if kind is GROUP else 8 * 4
        assert sum(t.numel() for t in kept if t.data_ptr() not in known) == 2 * sets
        assert residual == all(t.data_ptr() != leaves["input"].data_ptr() for t in kept)


@kinds
def test_forward_mode_equals_torch(kind: Kind) -> None:
    problem = tiny(kind, residual=True)
    leaves = problem.leaves()
    tangents = {k: some_values(v.shape, v.dtype, 20 + i) for i, (k, v) in enumerate(leaves.items())}
    results = []
    with forward_ad.dual_level():
        for call in (problem.call, problem.torchs):
            dual = {k: forward_ad.make_dual(v, tangents[k]) for k, v in leaves.items()}
            results.append([forward_ad.unpack_dual(y).tangent for y in call(dual)])
    torch.testing.assert_close(*results)


@kinds
def test_backward_through_forward_mode(kind: Kind) -> None:
    problem = tiny(kind, residual=True)
    results = []
    for call in (problem.call, problem.plain):
        leaves = {k: v.requires_grad_() for k, v in problem.leaves().items()}
        with forward_ad.dual_level():
            tangent = some_values(problem.shape, torch.float64, 20)
            dual = {**leaves, "input": forward_ad.make_dual(leaves["input"], tangent)}
            t = forward_ad.unpack_dual(call(dual)[0]).tangent
            results.append(torch.autograd.grad(t.pow(2).sum(), (leaves["input"], leaves["residual"])))
    torch.testing.assert_close(*results)


@kinds
@pytest.mark.parametrize("inner", [torch.func.jacrev, torch.func.jacfwd])
@pytest.mark.parametrize("outer", [torch.func.jacrev, torch.func.jacfwd])
def test_second_derivatives_of_torch_func(kind: Kind, outer: Any, inner: Any) -> None:
    """Second derivatives are right with respect to one tensor, and to two different ones."""
    problem = tiny(kind, residual=True, activation="silu")
    leaves = problem.leaves()

    def loss(call: Any, *tensors: Tensor) -> Tensor:
        return sum(y.pow(3).sum() for y in call(dict(zip(leaves, tensors, strict=True))))  # type: ignore[return-value]

    every = tuple(range(len(leaves)))
    found = [
        outer(inner(lambda *t: loss(call, *t), argnums=every), argnums=every)(*leaves.values())  # noqa: B023
        for call in (problem.call, problem.plain)
    ]
    torch.testing.assert_close(*found)


def test_checkpoint() -> None:
    from torch.utils.checkpoint import checkpoint

    problem = Problem(LAYER, (4, 6, 5), residual=True, activation="silu")
    expected = problem.run()
    found = problem.run(lambda leaves: checkpoint(problem.call, leaves, use_reentrant=False))
    for name, value in expected.items():
        assert_same_bits(found[name], value, name)


def test_sum_is_protected_from_writes() -> None:
    """The sum is kept for the backward pass: writing to it is noticed."""
    x = some_values((4, 6), torch.float32, 1).requires_grad_()
    y, total = F.layer_norm(x, (6,), residual=x.detach(), return_sum=True)
    with torch.no_grad():
        total.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
