"""The ways to store parameters and states: the kernels equal the NumPy reference to the bit."""

from typing import Any

import pytest
import torch
from torch import Tensor

from optimizer_cases import ALL_CASES, PLAIN_CASES, Case, ids
from precision_cases import OPTIONS, Result, run_kinds, set_grad, takes
from support import ISAS, Guarded, assert_same_bits, assert_same_step, compared_with_reference, running, some_values

pytestmark = pytest.mark.slow

F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32

EVERY_OPTION = pytest.mark.parametrize("option", OPTIONS)


def _compare(case: Case, options: dict[str, Any], ways: list[tuple[str, int]]) -> None:
    with running("reference"):
        reference, expected, expected_copies = run_kinds(case, options, [])
    for isa, threads in ways:
        guards: list[Guarded] = []
        with running("native", isa, threads):
            ours, params, copies = run_kinds(case, options, guards)
            assert_same_step(ours, params, reference, expected)
            for i, (copy, wanted) in enumerate(zip(copies, expected_copies, strict=True)):
                assert_same_bits(copy, wanted, f"copy {i}")
        for guard in guards:
            guard.check()


@EVERY_OPTION
@pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
def test_equals_reference(case: Case, option: str) -> None:
    """Every kernel, alternately with one and two threads."""
    _compare(case, OPTIONS[option], [(isa, 1 + (i + len(option)) % 2) for i, isa in enumerate(ISAS)])


@pytest.mark.slow
@EVERY_OPTION
@pytest.mark.parametrize("case", [case for case in ALL_CASES if case not in PLAIN_CASES], ids=ids)
def test_flags_equal_reference(case: Case, option: str) -> None:
    _compare(case, OPTIONS[option], [(isa, threads) for isa in ISAS for threads in (1, 2)])


def _strided(seed: int, dtype: torch.dtype) -> list[Tensor]:
    """A channels-last and a transposed tensor, which are dense, and two with gaps."""
    values = [some_values((8, 16, 6, 7), dtype, seed), some_values((66, 65), dtype, seed + 1)]
    gaps = [some_values((70, 130), dtype, seed + 2), some_values((33, 150), dtype, seed + 3)]
    last = torch.channels_last
    return [values[0].contiguous(memory_format=last), values[1].t(), gaps[0][:, ::2], gaps[1][1:, 10:140].t()]


@EVERY_OPTION
@pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
def test_layouts_equal_reference(case: Case, option: str) -> None:
    """The elements are counted as they lie in memory. Gradients and copies lie otherwise than their parameters."""

    def run() -> Result:
        params = [param.requires_grad_() for param in _strided(0, BF16)]
        copies = [torch.zeros(param.shape, dtype=F16) for param in params]
        optimizer = case.make([{"params": params, "copies": copies}], **OPTIONS[option])
        for step in range(2):
            for i, (param, grad) in enumerate(zip(params, _strided(100 * step + 10, F32), strict=True)):
                set_grad(param, grad if (i + step) % 2 else grad.contiguous())
            optimizer.step()
        return optimizer, params, copies

    with running("reference"):
        reference, expected, expected_copies = run()
    with running("native"):
        ours, params, copies = run()
    assert_same_step(ours, params, reference, expected)
    for i, (copy, wanted) in enumerate(zip(copies, expected_copies, strict=True)):
        assert_same_bits(copy, wanted, f"copy {i}")
    for param in params[:2]:
        for key, state in ours.state[param].items():
            if state.shape == param.shape and not case.row.factored:
                assert state.stride() == param.stride(), key


@EVERY_OPTION
@pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
def test_special_values_equal_reference(case: Case, option: str) -> None:
    """Zeros of both signs, subnormals, the largest numbers, inf and NaN, in every pair, in blocks of numbers."""
    options = OPTIONS[option]

    def run() -> tuple[torch.optim.Optimizer, list[Tensor]]:
        params: list[Tensor] = []
        for dtype in (BF16, F16, F32):
            if takes(options, dtype):
                info = torch.finfo(dtype)
                tiny = info.smallest_normal / 8
                values = [0.0, -0.0, tiny, -tiny, info.tiny, 1.0, -1.0, info.max, info.min, torch.inf, -torch.inf]
                special = torch.tensor([*values, torch.nan, 1e-4], dtype=F32)
                pairs = torch.cartesian_prod(special, special).repeat(25, 1)
                params.append(pairs[:, 0].to(dtype).clone().requires_grad_())
        # Blocks without inf and NaN are among the others.
        grads = torch.where(torch.arange(len(pairs)) // 32 % 3 == 0, pairs[:, 1], 0.125)
        optimizer = case.make(params, **options)
        for shift in (0, 5, 11):
            for param in params:
                set_grad(param, grads.roll(shift))
            optimizer.step()
        return optimizer, params

    compared_with_reference(run)
