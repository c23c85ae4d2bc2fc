"""Every ISA, thread count and memory format has the reference's bits, and nothing outside is written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastopt.nn.functional as F
from dropout_cases import FAMILY, IN_PLACE, SHAPES, Family, KernelCall, calls, formats
from fastopt import _core, reference
from support import DTYPES, ISAS, SIZES, Guarded, assert_same_bits, running, some_values

PROBABILITIES = [1e-6, 0.1, 1 / 3, 0.5, 0.999, 1.0]


def everywhere(call: Any) -> list[Tensor]:
    """The results of `call` on the reference, and on each ISA with one thread and with two."""
    found = []
    for way in [{"backend": "reference"}, *({"isa": isa, "threads": n} for isa in ISAS for n in (1, 2))]:
        with running(**way):
            found.append(call())
    return found


def assert_same_everywhere(call: Any) -> Tensor:
    first, *others = everywhere(call)
    for other in others:
        assert_same_bits(other, first)
        assert other.stride() == first.stride()
    return first


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILY, ids=str)
def test_forward(family: Family, dtype: torch.dtype) -> None:
    for p in PROBABILITIES:
        inputs = family.inputs(dtype)
        assert_same_everywhere(lambda inputs=inputs, p=p: family(*inputs, p=p, offset=2**63 + 7))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILY, ids=str)
def test_backward(family: Family, dtype: torch.dtype) -> None:
    inputs = family.inputs(dtype)
    for grads in zip(*everywhere(lambda: family.gradients(*inputs)), strict=True):
        for grad in grads[1:]:
            assert_same_bits(grad, grads[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sizes(dtype: torch.dtype) -> None:
    for n in [*SIZES, 4095, 16383, 16384, 16385, 50_001]:
        x, r = some_values(n, dtype, 1), some_values(n, dtype, 2)
        assert_same_everywhere(lambda x=x: F.dropout(x, 0.4, seed=7))
        assert_same_everywhere(lambda x=x, r=r: F.dropout_add(x, r, 0.4, seed=8))


@pytest.mark.parametrize(
    "shape", [(1, 1), (255, 3), (256, 1023), (257, 1025), (600, 2049), (3, 0), (0, 3), (2, 300, 5)]
)
def test_bias_gradient_at_the_edges_of_its_blocks(shape: tuple[int, ...]) -> None:
    family = FAMILY[-1]
    for dtype in (torch.float32, torch.float16):
        inputs = family.inputs(dtype, shape)
        for grads in zip(*everywhere(lambda inputs=inputs: family.gradients(*inputs)), strict=True):
            for grad in grads[1:]:
                assert_same_bits(grad, grads[0])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", ["dropout", "channels"])
def test_formats(shape: tuple[int, ...], rule: str) -> None:
    """The mask belongs to the elements, wherever they lie in memory."""
    x = some_values(shape, torch.float32, 3)
    function = F.dropout if rule == "dropout" else F.feature_alpha_dropout
    expected = function(x, 0.4, True, seed=11)
    for name, same in formats(x).items():
        for result in everywhere(lambda same=same: function(same, 0.4, True, seed=11)):
            assert_same_bits(result, expected, name)
        if name != "sliced":
            assert function(same, 0.4, True, seed=11).stride() == torch.empty_like(same).stride()


@pytest.mark.parametrize("family", IN_PLACE, ids=str)
def test_formats_in_place(family: Family) -> None:
    x = family.inputs(torch.float32)[0]
    expected = family(x)
    for name, same in formats(x).items():
        assert family(same, inplace=True) is same
        assert_same_bits(same, expected, name)


@pytest.mark.parametrize("family", FAMILY, ids=str)
def test_every_operand_in_another_format(family: Family) -> None:
    inputs = family.inputs(torch.float32)
    expected, grads = family(*inputs), family.gradients(*inputs)
    for k, tensor in enumerate(inputs):
        for name, same in formats(tensor).items():
            changed = [*inputs[:k], same, *inputs[k + 1 :]]
            for result in everywhere(lambda changed=changed: family(*changed)):
                assert_same_bits(result, expected, name)
            for ours, theirs in zip(family.gradients(*changed), grads, strict=True):
                assert_same_bits(ours, theirs, name)


@pytest.mark.parametrize("family", [f for f in FAMILY if f.complex], ids=str)
def test_complex(family: Family) -> None:
    """Real and imaginary part share one flag; lazily conjugated and negated tensors are read as their values."""
    inputs = [torch.complex(x, x + 1) for x in family.inputs(torch.float32)]
    result = assert_same_everywhere(lambda: family(*inputs))
    if not family.residual:
        parts = [family(part.contiguous()) for part in (inputs[0].real, inputs[0].imag)]
        assert_same_bits(result, torch.complex(*parts))
        lazy = inputs[0].conj()
        assert_same_bits(family(lazy), family(lazy.resolve_conj()))
        assert_same_bits(family(lazy.imag), family(lazy.imag.resolve_neg()))


@pytest.mark.parametrize("family", FAMILY, ids=str)
def test_lazily_negated(family: Family) -> None:
    """Memory of these dense tensors holds the opposite of their values."""
    inputs = family.inputs(torch.float32)
    for k, x in enumerate(inputs):
        changed = [*inputs[:k], torch._neg_view(x), *inputs[k + 1 :]]
        expected = [*inputs[:k], -x, *inputs[k + 1 :]]
        for result in everywhere(lambda changed=changed: family(*changed)):
            assert_same_bits(result, family(*expected))
    x = inputs[0].requires_grad_()
    y = family(x, *inputs[1:])
    grad = some_values(y.shape, y.dtype, 9)
    (lazy,) = torch.autograd.grad(y, x, torch._neg_view(grad), retain_graph=True)
    (eager,) = torch.autograd.grad(y, x, -grad)
    assert_same_bits(lazy, eager)


@given(calls(), st.sampled_from(ISAS), st.sampled_from([1, 2]))
@settings(max_examples=300, deadline=None)
def test_any_layout_and_mask(call: KernelCall, isa: str, threads: int) -> None:
    """Kernel and reference agree on dense tensors with dimensions in any order, and masks with any number of them."""
    with running(isa=isa, threads=threads):
        ours = call.run(_core, threads)
    assert_same_bits(ours, call.run(reference))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_outside_is_written(dtype: torch.dtype) -> None:
    for n in SIZES:
        for misalign in (0, 1, 3):
            guarded = Guarded(n, dtype, misalign)
            guarded.inside.copy_(some_values(n, dtype, 1))
            expected = F.dropout(guarded.inside.clone(), 0.5, seed=3)
            for isa in ISAS:
                with running(isa=isa):
                    guarded.inside.copy_(some_values(n, dtype, 1))
                    F.dropout(guarded.inside, 0.5, inplace=True, seed=3)
                assert_same_bits(guarded.inside, expected)
            guarded.check()


@pytest.mark.parametrize("n", [1 << 20, (32 << 18) + 1])
def test_large(n: int) -> None:
    """Sizes on both sides of the one from which on large pages are used."""
    x = torch.ones(n)
    with running(threads=2):
        y = F.dropout(x, 0.25, seed=1)
        mask = F.dropout_mask((n,), 0.25, seed=1)
    assert torch.equal(y != 0, mask)
    assert torch.equal(y[mask], torch.full_like(y[mask], 1 / 0.75))


def test_special_values() -> None:
    """A dropped element becomes 0, whatever it was; a kept one is only scaled."""
    x = torch.tensor([float("inf"), float("-inf"), float("nan"), -0.0, 1e-45, 3e38] * 50)
    for result in everywhere(lambda: F.dropout(x, 0.5, seed=2)):
        kept = F.dropout_mask(x.shape, 0.5, seed=2)
        assert_same_bits(result, torch.where(kept, x * 2, torch.zeros(())))
        assert not torch.signbit(result[~kept]).any()
