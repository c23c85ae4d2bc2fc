"""Native kernels equal the NumPy reference to the bit, on every ISA, type, size, alignment and thread count."""

import pytest
import torch

import fastopt
from optimizer_cases import ALL_CASES, PLAIN_CASES, Case, ids
from support import (
    DTYPES,
    HALF,
    ISAS,
    SIZES,
    Guarded,
    assert_same_step,
    compared_with_reference,
    running,
    some_values,
)

STEPS = 4


def _guarded(dtype: torch.dtype) -> tuple[list[Guarded], list[torch.Tensor]]:
    """Parameters of every size at every misalignment, each between guards."""
    guards = [Guarded(size, dtype, misalign=i % 16) for i, size in enumerate(SIZES)]
    for i, guard in enumerate(guards):
        guard.inside.copy_(some_values(guard.inside.shape, dtype, seed=i))
    return guards, [guard.inside.requires_grad_() for guard in guards]


def _run(case: Case, params: list[torch.Tensor], low: float, high: float, misalign: int = 0):
    optimizer = case.make(params)
    for step in range(STEPS):
        for i, param in enumerate(params):
            grad = torch.empty(param.numel() + misalign, dtype=param.dtype)[misalign:]
            param.grad = grad.copy_(some_values(param.shape, param.dtype, 100 * step + i, low, high))
        optimizer.step()
    return optimizer


# The short suite takes every case in float32, and one case of each optimizer in the other types.
_ALL = [
    pytest.param(case, dtype, id=f"{ids(case)}-{dtype}", marks=() if quick else pytest.mark.slow)
    for case in ALL_CASES
    for dtype in DTYPES
    for quick in [dtype == torch.float32 or case in PLAIN_CASES]
]


@pytest.mark.parametrize(("case", "dtype"), _ALL)
def test_equals_reference(case: Case, dtype: torch.dtype) -> None:
    """Gradients range from 1e-8 to 1e2. All sizes are in one step, misaligned."""
    low, high = (1e-4, 1e2) if dtype == torch.float16 else (1e-8, 1e2)
    with running("reference"):
        _, expected = _guarded(dtype)
        reference = _run(case, expected, low, high)
    for isa in ISAS:
        for threads in (1, 2):
            with running("native", isa, threads):
                guards, params = _guarded(dtype)
                ours = _run(case, params, low, high, misalign=threads)
                assert_same_step(ours, params, reference, expected)
            for guard in guards:
                guard.check()


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
def test_large_equals_reference(case: Case, dtype: torch.dtype, isa: str, threads: int) -> None:
    """Several tiles, shared by threads, with a tail."""

    def run() -> tuple[torch.optim.Optimizer, list[torch.Tensor]]:
        guard = Guarded(1_000_003, dtype, misalign=1)
        guard.inside.copy_(some_values(1_000_003, dtype, seed=1))
        params = [guard.inside.requires_grad_(), some_values(50_001, dtype, seed=2).requires_grad_()]
        before = [p.detach().clone() for p in params]
        optimizer = case.make(params)
        for step in range(case.row.moved_after):
            for param in params:
                param.grad = some_values(param.shape, dtype, seed=3) * (1 + step)
            optimizer.step()
        for param, old in zip(params, before, strict=True):
            assert (param != old).all(), "an element was not updated"
        guard_copy = params[0].detach().clone()
        guard.check()
        guard.inside.data.copy_(guard_copy)
        return optimizer, params

    with running("reference"):
        reference, expected = run()
    with running("native", isa, threads):
        ours, params = run()
    assert_same_step(ours, params, reference, expected)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [case for case in ALL_CASES if "max_grad_norm" not in case.extra], ids=ids)
def test_every_element_changes(case: Case, dtype: torch.dtype, isa: str) -> None:
    """Each element of each size changes; a fused kernel of torch once skipped whole vectors."""
    with running("native", isa):
        guards, params = _guarded(dtype)
        before = [p.detach().clone() for p in params]
        optimizer = case.make(params)
        for step in range(case.row.moved_after):
            for i, param in enumerate(params):
                param.grad = some_values(param.shape, dtype, seed=50 + i) * (1 + step)
            optimizer.step()
        for param, old in zip(params, before, strict=True):
            assert (param != old).all()
            for key, state in optimizer.state[param].items():
                assert (state != 0).all(), key
        for guard in guards:
            guard.check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ALL_CASES, ids=ids)
def test_special_values_equal_reference(case: Case, dtype: torch.dtype) -> None:
    """Zeros of both signs, subnormals, the largest numbers, inf and NaN, in every pair."""
    info = torch.finfo(dtype)
    subnormal = info.smallest_normal / 8
    values = [0.0, -0.0, subnormal, -subnormal, info.tiny, 1.0, -1.0, info.max, info.min, 1e-4, 0.1]
    values += [float("inf"), float("-inf"), float("nan")]
    special = torch.tensor(values, dtype=dtype)
    grid = torch.cartesian_prod(special, special)

    def run() -> tuple[torch.optim.Optimizer, list[torch.Tensor]]:
        params = [grid[:, 0].contiguous().requires_grad_()]
        optimizer = case.make(params)
        for shift in (0, 5, 11):
            params[0].grad = grid[:, 1].roll(shift).contiguous()
            optimizer.step()
        return optimizer, params

    compared_with_reference(run)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("isa", ISAS)
def test_float32_states_of_half_parameters(dtype: torch.dtype, isa: str) -> None:
    """The engine takes wide states of narrow parameters, and equals the reference."""

    def run() -> tuple[torch.optim.Optimizer, list[torch.Tensor]]:
        params = [some_values(1025, dtype, seed=0).requires_grad_()]
        optimizer = fastopt.AdamW(params, lr=0.01)
        for step in range(3):
            params[0].grad = some_values(1025, dtype, seed=step)
            optimizer.step()
            if step == 0:
                state = optimizer.state[params[0]]
                state.update({key: state[key].float() for key in ("exp_avg", "exp_avg_sq")})
        assert optimizer.state[params[0]]["exp_avg"].dtype == torch.float32
        return optimizer, params

    with running("reference"):
        reference, expected = run()
    with running("native", isa):
        ours, params = run()
    assert_same_step(ours, params, reference, expected)
