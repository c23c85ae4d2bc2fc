"""Every optimizer's step on a device equals the NumPy reference to the bit: types, sizes, alignments, orders."""

import pytest
import torch

from cases import ALL_CASES, Case, ids
from gpu import DEVICE, assert_same, gpu
from support import DTYPES, SIZES, Guarded, running, some_values

STEPS = 3


def _train(case: Case, params: list[torch.Tensor], low: float, high: float, misalign: int = 0) -> torch.optim.Optimizer:
    optimizer = case.make(params)
    for step in range(STEPS):
        for i, param in enumerate(params):
            grad = torch.empty(param.numel() + misalign, dtype=param.dtype, device=param.device)[misalign:]
            param.grad = grad.copy_(some_values(param.shape, param.dtype, 100 * step + i, low, high))
        optimizer.step()
    return optimizer


def _guarded(dtype: torch.dtype, device: torch.device | str) -> tuple[list[Guarded], list[torch.Tensor]]:
    """Parameters of every size, at every misalignment, each between guards."""
    guards = [Guarded(size, dtype, misalign=i % 16, device=device) for i, size in enumerate(SIZES)]
    for i, guard in enumerate(guards):
        guard.inside.copy_(some_values(guard.inside.shape, dtype, seed=i))
    return guards, [guard.inside.requires_grad_() for guard in guards]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ALL_CASES, ids=ids)
def test_equals_reference(case: Case, dtype: torch.dtype) -> None:
    """Gradients from 1e-8 to 1e2, all sizes in one step, aligned and misaligned storage."""
    low, high = (1e-4, 1e2) if dtype == torch.float16 else (1e-8, 1e2)
    with running("reference"):
        _, expected = _guarded(dtype, "cpu")
        reference = _train(case, expected, low, high)
    for misalign in (0, 1):
        with gpu():
            guards, params = _guarded(dtype, DEVICE)
            ours = _train(case, params, low, high, misalign)
            assert_same(ours, params, reference, expected)
        for guard in guards:
            guard.check()
