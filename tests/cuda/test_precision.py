"""Every way to store parameters and states, on a device: equal to the NumPy reference to the bit."""

from typing import Any

import pytest
import torch
from torch import Tensor

import fastopt
from fastopt.optim import _storage
from gpu import DEVICE, Trained, assert_equals_reference, assert_same, gpu
from optimizer_cases import ALL_CASES, PLAIN_CASES, Case, ids
from precision_cases import BF16, OPTIONS, run_kinds, set_grad, takes
from support import Guarded, assert_same_bits, running, some_values

EVERY_OPTION = pytest.mark.parametrize("option", OPTIONS)
FLAGGED = [case for case in ALL_CASES if case not in PLAIN_CASES]


def _compare(case: Case, options: dict[str, Any], scale: float = 1.0) -> None:
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


@EVERY_OPTION
@pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
def test_equals_reference(case: Case, option: str) -> None:
    _compare(case, OPTIONS[option])


@pytest.mark.parametrize("option", ["split-int8-ema", "random-int8-ema", "master-narrow"])
@pytest.mark.parametrize("case", FLAGGED, ids=ids)
def test_flags_equal_reference(case: Case, option: str) -> None:
    _compare(case, OPTIONS[option])


@EVERY_OPTION
@pytest.mark.parametrize("kind", [fastopt.AdamW, fastopt.LAMB, fastopt.Adafactor])
def test_grad_scaler(kind: type, option: str) -> None:
    """The unscaled gradients are written back in their own types."""
    case = next(case for case in PLAIN_CASES if case.ours is kind)
    _compare(case, OPTIONS[option], scale=4.0)


@pytest.mark.parametrize("option", ["split", "random", "narrow", "random-int8-ema"])
@pytest.mark.parametrize("kind", [fastopt.AdamW, fastopt.LAMB, fastopt.Adafactor])
def test_matrices(kind: type, option: str) -> None:
    """Of a single row and column, and around the tiles of Adafactor's kernels."""
    case = next(case for case in PLAIN_CASES if case.ours is kind)
    shapes = [(1, 70), (70, 1), (3, 5), (2, 33, 65), (130, 257)]

    def run(device: torch.device | str) -> Trained:
        params: list[Tensor] = []
        for dtype in (BF16, torch.float32):
            if takes(OPTIONS[option], dtype):
                params += [some_values(s, dtype, i).to(device).requires_grad_() for i, s in enumerate(shapes)]
        optimizer = case.make(params, **OPTIONS[option])
        for step in range(3):
            for i, param in enumerate(params):
                set_grad(param, some_values(param.shape, torch.float32, 100 * step + i).to(device))
            optimizer.step()
        return optimizer, params

    assert_equals_reference(run)


@pytest.mark.parametrize("first", [1, 5, 8, 2**33 + 3])
def test_random_rounding_of_a_part(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a parameter whose other elements are elsewhere: Philox's blocks begin anywhere in a warp."""
    monkeypatch.setattr(_storage, "_firsts", lambda optimizer, group, indices: [first] * len(indices))

    def run(device: torch.device | str) -> Trained:
        params = [some_values(n, BF16, n).to(device).requires_grad_() for n in (1, 31, 1029, 9000)]
        optimizer = fastopt.AdamW(params, rounding="stochastic", rounding_seed=3, state_dtype=BF16, ema=0.9)
        for step in range(2):
            for i, param in enumerate(params):
                param.grad = some_values(param.shape, BF16, 100 * step + i).to(device)
            optimizer.step()
        return optimizer, params

    assert_equals_reference(run)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_bad_gradients_stay_in_their_blocks(bad: float) -> None:
    def run(device: torch.device | str) -> Trained:
        params = [torch.ones(5000, device=device, requires_grad=True)]
        optimizer = fastopt.AdamW(params, state_dtype="int8")
        grad = some_values(5000, torch.float32, 1).to(device)
        grad[4999] = bad
        params[0].grad = grad
        optimizer.step()
        return optimizer, params

    _, (param,) = assert_equals_reference(run)
    assert torch.isfinite(param[:4992]).all()


@pytest.mark.parametrize("master", ["float32", "split"])
def test_changed_parameters_are_respected(master: str) -> None:
    def run(device: torch.device | str) -> Trained:
        params = [some_values(300, BF16, 1).to(device).requires_grad_()]
        optimizer = fastopt.SGD(params, lr=0.1, master=master)
        for step in range(3):
            params[0].grad = some_values(300, BF16, 2 + step).to(device)
            optimizer.step()
            with torch.no_grad():
                params[0][::2].mul_(0.5)
                params[0][7:9] = 0.0
        return optimizer, params

    assert_equals_reference(run)
