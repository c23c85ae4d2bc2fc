"""Rules that scale a direction by one number per tensor: when LAMB's trust ratio is 1, and what it depends on."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import fastopt
from support import DTYPES, ISAS, assert_same_step, running, some_values

BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])


def _stepped(param: Tensor, grad: Tensor, backend: str = "native", **kwargs: Any) -> Tensor:
    """The change made by one step, in float64."""
    own = param.clone().requires_grad_()
    own.grad = grad.clone()
    with running(backend):
        fastopt.LAMB([own], **kwargs).step()
    return (own.detach() - param).double()


def _adams(param: Tensor, grad: Tensor, **kwargs: Any) -> Tensor:
    """The change without a trust ratio."""
    return _stepped(param, grad, "reference", weight_decay=0.0, **kwargs)


@BACKENDS
def test_a_parameter_of_zeros_moves(backend: str) -> None:
    """Its norm is 0; a ratio of 0 would keep it there."""
    zeros, grad = torch.zeros(70), some_values(70, torch.float32, seed=1)
    moved = _stepped(zeros, grad, backend, lr=0.1)
    torch.testing.assert_close(moved, _adams(zeros, grad, lr=0.1), rtol=0, atol=0)
    torch.testing.assert_close(moved.abs(), torch.full((70,), 0.1, dtype=torch.float64), rtol=1e-5, atol=0)


@BACKENDS
@pytest.mark.parametrize("options", [{"weight_decay": 0.0, "always_adapt": True}, {"weight_decay": 0.0}], ids=str)
def test_a_direction_of_zeros_moves_nothing(options: dict[str, Any], backend: str) -> None:
    """The step does not divide by the direction's norm of 0."""
    assert not _stepped(torch.ones(70), torch.zeros(70), backend, **options).any()


@BACKENDS
def test_a_gradient_of_zeros_leaves_the_decay(backend: str) -> None:
    """The direction is the decay alone. The ratio makes it as long as the parameter, whatever the decay is."""
    param = some_values(70, torch.float64, seed=0)
    for weight_decay in (1e-6, 0.3):
        moved = _stepped(param, torch.zeros_like(param), backend, lr=0.1, weight_decay=weight_decay)
        torch.testing.assert_close(moved, -0.1 * param)


@BACKENDS
def test_without_decay_the_ratio_is_1_unless_asked_for(backend: str) -> None:
    param, grad = some_values(70, torch.float64, seed=0, low=5.0, high=9.0), some_values(70, torch.float64, seed=1)
    adams = _adams(param, grad, lr=0.1)
    assert torch.equal(_stepped(param, grad, backend, lr=0.1, weight_decay=0.0), adams)
    adapted = _stepped(param, grad, backend, lr=0.1, weight_decay=0.0, always_adapt=True)
    torch.testing.assert_close(adapted, adams * (param.norm() / (adams / 0.1).norm()))
    assert not torch.allclose(adapted, adams)


@BACKENDS
def test_a_step_is_as_long_as_the_parameter_says(backend: str) -> None:
    """That holds for each tensor separately, also if its sums have several chunks."""
    params = [some_values(n, torch.float32, seed=n, high=4.0).requires_grad_() for n in (1, 70, 4097, 140_000)]
    before = [param.detach().clone() for param in params]
    for i, param in enumerate(params):
        param.grad = some_values(param.shape, param.dtype, seed=100 + i)
    with running(backend):
        fastopt.LAMB(params, lr=0.01).step()
    for param, old in zip(params, before, strict=True):
        moved = (param.detach() - old).double().norm()
        torch.testing.assert_close(moved, 0.01 * old.double().norm(), rtol=1e-4, atol=0)


@BACKENDS
@pytest.mark.parametrize("where", ["parameter", "gradient"])
def test_a_nan_spoils_only_its_own_element(where: str, backend: str) -> None:
    """As in timm, a norm that is NaN is not above 0, so that the ratio is 1."""
    param, grad = torch.full((3,), 2.0), torch.ones(3)
    (param if where == "parameter" else grad)[1] = math.nan
    moved = _stepped(param, grad, backend, lr=0.1)
    assert moved.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(moved[0], torch.tensor(-0.1 * 1.02, dtype=torch.float64), rtol=1e-4, atol=0)


def test_no_decay_of_an_infinite_parameter() -> None:
    """A product 0 * inf would be NaN."""
    assert _stepped(torch.tensor([math.inf, 1.0]), torch.ones(2), weight_decay=0.0)[1].isfinite()


@BACKENDS
def test_the_decay_is_not_the_gradients(backend: str) -> None:
    """It is not part of the averages, and does not shrink the parameter before the step."""
    param = torch.full((3,), 2.0, requires_grad=True)
    param.grad = torch.ones(3)
    with running(backend):
        optimizer = fastopt.LAMB([param], lr=0.1, weight_decay=0.5)
        optimizer.step()
    torch.testing.assert_close(optimizer.state[param]["exp_avg"], torch.full((3,), 0.1))
    torch.testing.assert_close(param.detach(), torch.full((3,), 2.0 - 0.1 * 2.0))  # u and p are both 2


@pytest.mark.parametrize("state_dtype", [None, torch.float32], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", [fastopt.LAMB, fastopt.LARS, fastopt.StableAdamW])
def test_equals_reference_where_sums_are_cut(
    kind: Any, isa: str, dtype: torch.dtype, state_dtype: torch.dtype | None
) -> None:
    """Blocks have 128 elements, chunks 4096, tiles 16384; each tensor has its own norm."""

    def train(backend: str, threads: int) -> tuple[torch.optim.Optimizer, list[Tensor]]:
        sizes = (0, 1, 31, 33, 127, 129, 4095, 4096, 4097, 16385, 140_000)
        params = [some_values(n, dtype, seed=n).requires_grad_() for n in sizes]
        with running(backend, isa, threads):
            optimizer = kind(params, lr=0.05, state_dtype=state_dtype, max_grad_value=1.5, l1=1e-3)
            for step in range(2):
                for param in params:
                    param.grad = some_values(param.shape, dtype, seed=step + param.numel()) * 3
                optimizer.grad_scale, optimizer.found_inf = torch.tensor(3.0), torch.zeros(())
                optimizer.step()
        return optimizer, params

    expected = train("reference", 1)
    for threads in (1, 3):
        assert_same_step(*train("native", threads), *expected)
