"""Gradients of every order, backward and forward, in place; and what the graph keeps for them."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.autograd import forward_ad

import fastopt.nn.functional as F
from dropout_cases import FAMILY, IN_PLACE, ONE_TENSOR, Family
from fastopt import nn
from support import assert_same_bits, running, some_values

# Gradcheck imports deprecated code for forward mode, and older torch uses some itself.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script:DeprecationWarning",
    "ignore:.*torch._vmap_internals:FutureWarning",
    "ignore:.*torch.cpu.amp.autocast:FutureWarning",
)


def doubles(family: Family) -> list[Tensor]:
    return [
        tensor.requires_grad_()
        for tensor in family.inputs(torch.float64, family.shape[:1] + (4,) * (len(family.shape) - 1))
    ]


@pytest.mark.parametrize("family", FAMILY, ids=str)
def test_gradients_of_first_and_second_order(family: Family) -> None:
    inputs = doubles(family)
    assert torch.autograd.gradcheck(family, inputs, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(family, inputs, check_batched_grad=True, check_fwd_over_rev=True)


@pytest.mark.parametrize("family", [f for f in FAMILY if f.complex], ids=str)
def test_gradients_of_complex_tensors(family: Family) -> None:
    inputs = [torch.complex(x, x + 1).detach().requires_grad_() for x in doubles(family)]
    assert torch.autograd.gradcheck(family, inputs)
    assert torch.autograd.gradgradcheck(family, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("family", IN_PLACE, ids=str)
def test_gradients_in_place(family: Family) -> None:
    def in_place(x: Tensor) -> Tensor:
        return family(x * 1, inplace=True)

    assert torch.autograd.gradcheck(in_place, doubles(family), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(in_place, doubles(family))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILY, ids=str)
@pytest.mark.parametrize("inplace", [False, True])
def test_reverse_over_forward(family: Family, inplace: bool) -> None:
    """A tangent that depends on the input itself has the right gradient."""
    how = {"inplace": True} if inplace and family in IN_PLACE else {}
    inputs = doubles(family)

    def tangents(*inputs: Tensor) -> Tensor:
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(x * 1, x * x) * 1 for x in inputs]  # not views, which take another path
            y = family(*duals, **how)
            return forward_ad.unpack_dual(y * y).tangent

    assert torch.autograd.gradcheck(tangents, inputs)


@pytest.mark.parametrize("family", FAMILY, ids=str)
def test_every_choice_of_inputs_that_need_a_gradient(family: Family) -> None:
    inputs = family.inputs(torch.float32)
    everything = family.gradients(*inputs)
    for needs in itertools.product([False, True], repeat=len(inputs)):
        leaves = [x.clone().requires_grad_(need) for x, need in zip(inputs, needs, strict=True)]
        y = family(*leaves)
        assert y.requires_grad == any(needs)
        if any(needs):
            y.backward(some_values(y.shape, y.dtype, 99))
        for leaf, need, expected in zip(leaves, needs, everything, strict=True):
            assert (leaf.grad is not None) == need
            if need:
                assert_same_bits(leaf.grad, expected)


@pytest.mark.parametrize("p", [1e-3, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("family", [f for f in ONE_TENSOR if "alpha" not in f.name], ids=str)
def test_zero_exactly_where_the_gradient_is(family: Family, p: float) -> None:
    x = family.inputs(torch.float32)[0].requires_grad_()
    y = family(x, p=p)
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(x))
    assert torch.equal(y == 0, grad == 0)
    assert (grad == 0).any() == (p > 1e-3)


def test_nothing_but_numbers_is_kept() -> None:
    for family in FAMILY:
        kept: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t) or t, lambda t: t):
            family(*[x.requires_grad_() for x in family.inputs(torch.float32)])
        assert not kept


def test_expanded_gradient() -> None:
    """The gradient of sum() is an expanded scalar."""
    for family in FAMILY:
        x, *rest = family.inputs(torch.float32)
        x.requires_grad_()
        family(x, *rest).sum().backward()
        y = family(x, *rest)
        (expected,) = torch.autograd.grad(y, x, torch.ones_like(y))
        assert_same_bits(x.grad, expected)


@pytest.mark.parametrize("family", IN_PLACE, ids=str)
def test_in_place(family: Family) -> None:
    x = family.inputs(torch.float32)[0]
    y, version = x.clone(), x._version
    assert family(y, inplace=True) is y
    assert_same_bits(y, family(x))
    assert y._version > version
    z = x.clone().requires_grad_()
    w = z * 1
    saved = w * w  # its gradient needs w's old values
    family(w, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        saved.sum().backward()


@pytest.mark.parametrize("family", IN_PLACE, ids=str)
def test_in_place_on_a_view(family: Family) -> None:
    """A view's base gets the new values and the right gradient."""
    x = family.inputs(torch.float32)[0]
    grads = []
    for inplace in (True, False):
        leaf = x.clone().requires_grad_()
        base = leaf * 2
        if inplace:
            family(base[1:], inplace=True)
        else:
            base = torch.cat([base[:1], family(base[1:])])
        base.square().sum().backward()
        grads.append(leaf.grad)
    assert_same_bits(*grads)


@pytest.mark.parametrize("family", IN_PLACE, ids=str)
def test_in_place_where_torch_refuses(family: Family) -> None:
    """Where torch refuses to work in place, so do we, and nothing is written."""
    x = family.inputs(torch.float32)[0].requires_grad_()
    before = x.detach().clone()
    for refused in (x, x[:2], x.split(1)[0], (x * 1).split(1)[0]):
        with pytest.raises(RuntimeError, match=r"in-?place operation|modified inplace") as theirs:
            refused.mul_(2)
        with pytest.raises(RuntimeError) as ours:
            family(refused, inplace=True)
        assert str(ours.value) == str(theirs.value)
        assert_same_bits(x.detach(), before)
    with pytest.raises(RuntimeError, match="more than one element"):
        family(before[:1].expand(3, *before.shape[1:]), inplace=True)
    assert_same_bits(x.detach(), before)


@pytest.mark.parametrize("family", IN_PLACE, ids=str)
def test_in_place_on_an_inference_tensor(family: Family) -> None:
    with torch.inference_mode():
        x = family.inputs(torch.float32)[0].clone()
        assert_same_bits(family(x.clone(), inplace=True), family(x))
    before = x.clone()
    with pytest.raises(RuntimeError, match="Inplace update to inference tensor outside InferenceMode"):
        family(x, inplace=True)
    assert_same_bits(x, before)


@pytest.mark.parametrize("family", FAMILY, ids=str)
def test_modes(family: Family) -> None:
    inputs = [x.requires_grad_() for x in family.inputs(torch.float32)]
    expected = family(*inputs)
    with torch.no_grad():
        y = family(*inputs)
    assert not y.requires_grad
    with torch.inference_mode():
        z = family(*inputs)
    assert z.is_inference()
    for same in (y, z):
        assert_same_bits(same, expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint_restores_the_mask(reentrant: bool) -> None:
    """As with torch's dropout, the repetition restores the generator's state, and with it the mask."""
    layers = torch.nn.Sequential(torch.nn.Linear(9, 9), nn.Dropout(0.4), torch.nn.Linear(9, 9), nn.AlphaDropout(0.2))
    x = some_values((5, 9), torch.float32, 1).requires_grad_()
    found = []
    for recompute in (False, True):
        torch.manual_seed(3)
        layers.zero_grad()
        y = torch.utils.checkpoint.checkpoint(layers, x, use_reentrant=reentrant) if recompute else layers(x)
        torch.rand(7)  # something else draws in between
        y.square().sum().backward()
        found.append([y, *(p.grad.clone() for p in layers.parameters())])
    for plain, recomputed in zip(*found, strict=True):
        assert_same_bits(recomputed, plain)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint_without_the_generators_state(reentrant: bool) -> None:
    """With a given seed, there is nothing to restore."""
    w = some_values((9, 9), torch.float32, 1).requires_grad_()
    x = some_values((5, 9), torch.float32, 2).requires_grad_()

    def block(x: Tensor) -> Tensor:
        return F.dropout(x @ w, 0.4, seed=7) @ w

    found = []
    for recompute in (False, True):
        y = (
            torch.utils.checkpoint.checkpoint(block, x, use_reentrant=reentrant, preserve_rng_state=False)
            if recompute
            else block(x)
        )
        found.append([y, *torch.autograd.grad(y.square().sum(), (x, w))]) if not reentrant else None
        if reentrant:  # which supports only .backward()
            x.grad = w.grad = None
            y.square().sum().backward()
            found.append([y, x.grad.clone(), w.grad.clone()])
    for plain, recomputed in zip(*found, strict=True):
        assert_same_bits(recomputed, plain)


def test_backward_on_several_threads() -> None:
    x = some_values((4, 64, 40, 40), torch.float32, 1)
    grads = []
    for threads in (1, 2):
        with running(threads=threads):
            z = x.clone().requires_grad_()
            F.dropout(z, 0.5, seed=1).square().sum().backward()
            grads.append(z.grad)
    assert_same_bits(*grads)
