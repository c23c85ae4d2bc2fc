"""Cautious steps: every kernel equals the NumPy reference to the bit, with every way to store parameters and states."""

from typing import Any

import pytest
import torch
from torch import Tensor

from caution_cases import CASES
from optimizer_cases import Case, ids
from precision_cases import OPTIONS, run_kinds
from support import (
    DTYPES,
    ISAS,
    Guarded,
    assert_same_bits,
    assert_same_step,
    compared_with_reference,
    running,
    some_values,
)

SIZES = [0, 1, 127, 128, 129, 255, 257, 4095, 4096, 4097, 16383, 16385, 40_001]


def _compare(case: Case, options: dict[str, Any], ways: list[tuple[str, int]], scale: float = 1.0) -> None:
    with running("reference"):
        reference, expected, expected_copies = run_kinds(case, options, [], scale=scale)
    for isa, threads in ways:
        guards: list[Guarded] = []
        with running("native", isa, threads):
            ours, params, copies = run_kinds(case, options, guards, scale=scale)
        assert_same_step(ours, params, reference, expected)
        for i, (copy, wanted) in enumerate(zip(copies, expected_copies, strict=True)):
            assert_same_bits(copy, wanted, f"copy {i}")
        for param, wanted in zip(params, expected, strict=True):
            assert_same_bits(param.grad, wanted.grad, "a gradient")
        for guard in guards:
            guard.check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_equals_reference(case: Case, dtype: torch.dtype) -> None:
    """Around blocks, chunks and tiles, with a penalty and clipping."""

    def run() -> tuple[torch.optim.Optimizer, list[Tensor]]:
        params = [some_values(n, dtype, n).requires_grad_() for n in SIZES]
        optimizer = case.make(params, l1=1e-3, max_grad_norm=5.0)
        for step in range(3):
            for param in params:
                param.grad = some_values(param.shape, dtype, 100 * step + param.numel(), 1e-4, 1e2)
            optimizer.step()
        return optimizer, params

    for threads in (1, 2):
        with running(threads=threads):
            compared_with_reference(run)


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_storage_equals_reference(case: Case, option: str) -> None:
    _compare(case, OPTIONS[option], [(isa, 1 + i % 2) for i, isa in enumerate(ISAS)])


@pytest.mark.parametrize("case", [case for case in CASES if case.ours.__name__ in ("AdamW", "Lion")], ids=ids)
def test_grad_scaler(case: Case) -> None:
    """The pass that counts does not unscale the gradients in memory, and the other does it once."""
    _compare(case, OPTIONS["plain"], [(isa, 2) for isa in ISAS], scale=4.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_special_values_equal_reference(case: Case, dtype: torch.dtype) -> None:
    """Zeros of both signs, subnormals, the largest numbers, inf and NaN, in every pair."""
    info = torch.finfo(dtype)
    values = [0.0, -0.0, info.smallest_normal / 8, -info.tiny, 1.0, -1.0, info.max, info.min, 1e-4]
    special = torch.tensor([*values, torch.inf, -torch.inf, torch.nan], dtype=dtype)
    grid = torch.cartesian_prod(special, special)

    def run() -> tuple[torch.optim.Optimizer, list[Tensor]]:
        params = [grid[:, 0].contiguous().requires_grad_()]
        optimizer = case.make(params)
        for shift in (0, 5, 11):
            params[0].grad = grid[:, 1].roll(shift).contiguous()
            optimizer.step()
        return optimizer, params

    compared_with_reference(run)
