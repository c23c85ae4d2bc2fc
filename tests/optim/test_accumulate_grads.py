"""``fastopt.accumulate_grads_``: sums to the bit, of every pair of types and layouts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastopt
from support import DTYPES, ISAS, SIZES, Guarded, assert_same_bits, running, some_values


def _expected(total: Tensor, grad: Tensor) -> Tensor:
    wide = torch.promote_types(total.dtype, torch.float32)
    return (total.to(wide) + grad.to(wide)).to(total.dtype)


@pytest.mark.parametrize("isa", [*ISAS, "reference"])
@pytest.mark.parametrize("grad_type", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_adds_to_the_bit(dtype: torch.dtype, grad_type: torch.dtype, isa: str) -> None:
    sizes = [*SIZES, 16385]
    guards = [Guarded(n, dtype, i % 16) for i, n in enumerate(sizes)]
    for i, guard in enumerate(guards):
        guard.inside.copy_(some_values(guard.inside.shape, dtype, i))
    sums = [guard.inside for guard in guards]
    grads = [some_values(n, grad_type, 100 + i) for i, n in enumerate(sizes)]
    expected = [_expected(total, grad) for total, grad in zip(sums, grads, strict=True)]
    before = [grad.clone() for grad in grads]
    with running("reference") if isa == "reference" else running("native", isa, 2):
        fastopt.accumulate_grads_(sums, grads)
    for total, want, grad, old in zip(sums, expected, grads, before, strict=True):
        assert_same_bits(total, want)
        assert_same_bits(grad, old)
    for guard in guards:
        guard.check()


def test_small_gradients_are_not_lost() -> None:
    total, grad = torch.ones(9), torch.full((9,), 2.0**-12, dtype=torch.bfloat16)
    for _ in range(4):
        fastopt.accumulate_grads_(total, grad)
    assert_same_bits(total, torch.full((9,), 1 + 2.0**-10))


def test_layouts_and_complex_numbers() -> None:
    sums = [torch.ones(4, 6).T, torch.ones(4, 12)[:, ::2], torch.ones(3, dtype=torch.complex64)]
    grads = [some_values((6, 4), torch.bfloat16, 1), some_values((4, 6), torch.float32, 2).T.contiguous().T]
    grads.append(torch.complex(some_values(3, torch.float32, 3), some_values(3, torch.float32, 4)))
    expected = [total + grad for total, grad in zip(sums, grads, strict=True)]
    fastopt.accumulate_grads_(sums, grads)
    for total, want in zip(sums, expected, strict=True):
        assert_same_bits(total, want)


def test_autograd_knows() -> None:
    total = torch.ones(3)
    version = total._version
    fastopt.accumulate_grads_([total], [torch.ones(3)])
    assert total._version == version + 1


def test_errors() -> None:
    good, zeros = torch.ones(3), torch.zeros(3)
    shared = torch.ones(5)
    for sums, grads, error, text in (
        ([good], [], ValueError, "1 sums and 0 grads"),
        ([good], [None], TypeError, r"grads\[0\] is a NoneType"),
        ([good, zeros], [torch.ones(3), torch.ones(4)], RuntimeError, r"grads\[1\] is torch.float32 of shape \(4,\)"),
        ([good], [torch.ones(3, dtype=torch.complex64)], RuntimeError, r"grads\[0\] is torch.complex64"),
        ([good], [torch.ones(3).to_sparse()], RuntimeError, r"grads\[0\] has layout"),
        ([good, torch.ones(1).expand(3)], [zeros, zeros], RuntimeError, r"sums\[1\] is an expanded"),
        ([good, shared[:3], shared[2:]], [zeros, zeros, zeros], RuntimeError, r"sums\[1\] .* sums\[2\]"),
        ([good, shared[:3]], [zeros, shared[1:4]], RuntimeError, r"sums\[1\] .* sums\[1\]"),
        ([good, torch.ones(3, dtype=torch.int32)], [zeros, zeros], RuntimeError, r"sums\[1\] has dtype torch.int32"),
    ):
        with pytest.raises(error, match=text):
            fastopt.accumulate_grads_(sums, grads)  # type: ignore[arg-type]
        assert_same_bits(good, torch.ones(3))
