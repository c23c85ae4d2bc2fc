"""Cautious updates and decays on a device: equal to the NumPy reference to the bit."""

from typing import Any

import pytest
import torch
from torch import Tensor

import fastopt
from caution_cases import CASES, CAUTIOUS, DECAYED
from gpu import DEVICE, Trained, assert_equals_reference, assert_same, gpu
from optimizer_cases import Case, ids
from precision_cases import OPTIONS, run_kinds
from support import DTYPES, Guarded, assert_same_bits, running, some_values

SIZES = [1, 31, 33, 255, 257, 1025, 4097, 8191, 8192, 8193, 40_001]  # a block has 8192 elements
BOTH = {**CAUTIOUS, **DECAYED}
ONE_EACH = [case for case in CASES if case.kwargs.get("cautious")]


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_equals_reference(case: Case) -> None:
    """Around parts of blocks, with a plain parameter between, in all types."""

    def run(device: torch.device | str) -> Trained:
        params = [some_values(n, dtype, n).to(device).requires_grad_() for n in SIZES for dtype in DTYPES[n % 2 :: 2]]
        bold = [{"params": params[2:3], "cautious": False, "cautious_weight_decay": False}]
        optimizer = case.make([{"params": params[:2] + params[3:]}, *bold], l1=1e-3, max_grad_norm=5.0)
        for step in range(2):
            for i, param in enumerate(params):
                param.grad = some_values(param.shape, param.dtype, 100 * step + i, 1e-4, 1e2).to(device)
            optimizer.step()
        return optimizer, params

    assert_equals_reference(run)


def _compare(case: Case, options: dict[str, Any], scale: float) -> None:
    with running("reference"):
        reference, expected, expected_copies = run_kinds(case, options, [], scale=scale)
    guards: list[Guarded] = []
    with gpu():
        ours, params, copies = run_kinds(case, options, guards, DEVICE, scale)
        assert_same(ours, params, reference, expected)
        for i, (copy, wanted) in enumerate(zip(copies, expected_copies, strict=True)):
            assert_same_bits(copy.cpu(), wanted, f"copy {i}")
        for param, wanted in zip(params, expected, strict=True):
            assert_same_bits(param.grad.cpu(), wanted.grad, "a gradient")
    for guard in guards:
        guard.check()


@pytest.mark.parametrize("option", ["plain", "split-int8-ema", "random-int8-ema", "master-narrow"])
@pytest.mark.parametrize("case", [case for case in ONE_EACH if "weight_decay" in case.kwargs], ids=ids)
def test_storage_and_grad_scaler(case: Case, option: str) -> None:
    _compare(case, OPTIONS[option], scale=4.0)


def test_many_tensors_in_any_order(order: str) -> None:
    """More than a table holds, so that counts and factors take several launches."""

    def run(device: torch.device | str) -> Trained:
        params = [some_values(1 + n % 3, torch.float32, n).to(device).requires_grad_() for n in range(800)]
        optimizer = fastopt.Lion(params, lr=0.1, **BOTH)
        for i, param in enumerate(params):
            param.grad = some_values(param.shape, torch.float32, 1000 + i).to(device)
        optimizer.step()
        return optimizer, params

    assert_equals_reference(run)


@pytest.mark.parametrize("kept", [0, 9, 11, 20_000])
def test_mean_of_the_mask(kept: int) -> None:
    param = torch.zeros(20_000, device=DEVICE, requires_grad=True)
    param.grad = torch.zeros(20_000, device=DEVICE)
    param.grad[:kept] = 1.0
    with gpu():
        fastopt.SGD([param], lr=1.0, cautious=True).step()
    assert (param[:kept].cpu() == torch.tensor(-1 / max(kept / 20_000, 1e-3))).all()
    assert (param[kept:] == 0).all()


def test_found_inf_skips_both_passes() -> None:
    param = torch.ones(9000, device=DEVICE, requires_grad=True)
    param.grad = torch.full_like(param, torch.inf)
    with gpu():
        optimizer = fastopt.AdamW([param], capturable=True, **BOTH)
        optimizer.grad_scale = torch.ones((), device=DEVICE)
        optimizer.found_inf = torch.ones((), device=DEVICE)
        optimizer.step()
        assert (param == 1).all()
        optimizer.found_inf.zero_()
        param.grad = torch.ones_like(param)
        optimizer.step()
        assert (param < 1).all()


def test_capturable_counts_on_the_device() -> None:
    params: list[Tensor] = [some_values(300, torch.float32, 1).to(DEVICE).requires_grad_() for _ in range(2)]
    with gpu():
        optimizers = [fastopt.AdamW([params[0]], capturable=True, **BOTH), fastopt.AdamW([params[1]], **BOTH)]
        for step in range(3):
            for param, optimizer in zip(params, optimizers, strict=True):
                param.grad = some_values(300, torch.float32, 10 + step).to(DEVICE)
                optimizer.step()
    torch.testing.assert_close(params[0], params[1], rtol=1e-6, atol=0)
