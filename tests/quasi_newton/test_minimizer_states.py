"""Checkpoints, both ways with torch's LBFGS, to the bit where they are ours; copies; the size of the history."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from closures import METHODS, closure_of, quadratic, rosenbrock
from torch import Tensor

import fastopt
from support import assert_same_bits

methods = pytest.mark.parametrize("name", METHODS)
searches = pytest.mark.parametrize("search", [None, "strong_wolfe"])
LBFGS = {"ours": fastopt.LBFGS, "torch's": torch.optim.LBFGS}


def start(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, generator=generator, dtype=dtype).requires_grad_() for n in (40, 1, 7)]


def loss_of(params: list[Tensor]) -> Tensor:
    x = torch.cat([param.double() for param in params])
    return rosenbrock(x) * 0.1 + (x**4).sum()


def options_of(name: str, search: str | None) -> dict[str, Any]:
    return {"lr": 0.05 if search is None else 1, "max_iter": 4, "line_search_fn": search}


def steps(optimizer: Any, params: list[Tensor], count: int) -> None:
    for _ in range(count):
        optimizer.step(closure_of(params, lambda: loss_of(params)))


def saved(state_dict: Any) -> Any:
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@methods
@searches
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_resumes_to_the_bit(name: str, search: str | None, dtype: torch.dtype) -> None:
    params = start(dtype)
    optimizer = METHODS[name](params, **options_of(name, search))
    steps(optimizer, params, 3)
    others = [param.detach().clone().requires_grad_() for param in params]
    other = METHODS[name](others)
    other.load_state_dict(saved(optimizer.state_dict()))
    assert other.param_groups[0]["max_iter"] == 4
    steps(optimizer, params, 3)
    steps(other, others, 3)
    for p, q in zip(params, others, strict=True):
        assert_same_bits(p, q)
    assert optimizer.last_report == other.last_report


@pytest.mark.parametrize("way", ["torch's to ours", "ours to torch's"])
@searches
def test_checkpoints_go_both_ways(way: str, search: str | None) -> None:
    one, two = way.split(" to ")
    params = start()
    optimizer = LBFGS[one](params, **options_of("LBFGS", search))
    steps(optimizer, params, 3)
    others = [param.detach().clone().requires_grad_() for param in params]
    other = LBFGS[two](others)
    other.load_state_dict(saved(optimizer.state_dict()))
    before = [param.detach().clone() for param in params]
    steps(optimizer, params, 2)
    steps(other, others, 2)
    assert optimizer.state[params[0]]["n_iter"] == other.state[others[0]]["n_iter"] == 20
    for p, q, was in zip(params, others, before, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)
        assert (p != was).all()


def test_state_keys_are_torchs() -> None:
    keys = []
    for cls in LBFGS.values():
        params = start()
        optimizer = cls(params)
        steps(optimizer, params, 1)
        assert list(optimizer.state) == [params[0]]
        keys.append(set(optimizer.state[params[0]]))
    assert keys[1] - keys[0] == {"al"}  # torch's scratch memory
    assert keys[0] <= keys[1]


def test_vectors_of_mixed_types_are_loaded_exactly() -> None:
    """torch would cast them to the first parameter's type."""
    params = [torch.randn(4).requires_grad_(), torch.randn(5, dtype=torch.float64).requires_grad_()]
    optimizer = fastopt.LBFGS(params, line_search_fn="strong_wolfe", max_iter=5)
    steps(optimizer, params, 1)
    others = [param.detach().clone().requires_grad_() for param in params]
    other = fastopt.LBFGS(others)
    other.load_state_dict(optimizer.state_dict())
    ours, theirs = optimizer.state[params[0]], other.state[others[0]]
    assert torch.equal(ours["d"], theirs["d"])
    assert theirs["d"].dtype == torch.float64
    assert all(torch.equal(p, q) for p, q in zip(ours["old_dirs"], theirs["old_dirs"], strict=True))
    assert ours["old_dirs"][0] is not theirs["old_dirs"][0]


@methods
def test_a_checkpoint_of_other_parameters(name: str) -> None:
    params = start()
    optimizer = METHODS[name](params)
    steps(optimizer, params, 1)
    other = METHODS[name]([torch.zeros(3, requires_grad=True)] * 1 + [torch.zeros(1, requires_grad=True) for _ in "ab"])
    with pytest.raises(ValueError, match="the checkpoint's d is no vector of the 5 parameters' elements"):
        other.load_state_dict(optimizer.state_dict())
    assert not other.state


def test_a_checkpoint_of_another_class() -> None:
    params = start()
    lbfgs, cg = fastopt.LBFGS(params), fastopt.NonlinearCG(params)
    steps(lbfgs, params, 1)
    with pytest.raises(ValueError, match=r"none of NonlinearCG: its state has no since_restart"):
        cg.load_state_dict(lbfgs.state_dict())
    assert not cg.state
    adam = fastopt.Adam(params)
    adam.step()
    with pytest.raises(ValueError, match=r"none of LBFGS: its state has no func_evals"):
        fastopt.LBFGS(params).load_state_dict(adam.state_dict())


@methods
def test_a_checkpoint_before_the_first_iteration(name: str) -> None:
    params = start()
    optimizer, other = METHODS[name](params), METHODS[name](params)
    other.load_state_dict(optimizer.state_dict())
    optimizer.step(closure_of(params, lambda: loss_of(params) * 0))  # ends at once
    other.load_state_dict(optimizer.state_dict())
    before = loss_of(params)
    steps(other, params, 1)
    assert loss_of(params) < before


def test_torchs_vectors_of_half_types_are_widened() -> None:
    x = torch.linspace(-1, 1, 9, dtype=torch.bfloat16).requires_grad_()
    theirs = torch.optim.LBFGS([x], lr=0.1, max_iter=2)
    closure = closure_of([x], lambda: ((x.float() - 0.3) ** 4).sum())
    theirs.step(closure)
    ours = fastopt.from_torch(theirs)
    ours.step(closure)
    assert ours.state[x]["d"].dtype == torch.float32
    assert theirs.state[x]["d"].dtype == torch.bfloat16
    assert ours.to_torch().state[x]["d"].dtype == torch.bfloat16


@methods
@pytest.mark.parametrize("way", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["copy", "pickle"])
def test_copies_go_on_alike(name: str, way: Any) -> None:
    params = start()
    optimizer = METHODS[name](params, **options_of(name, "strong_wolfe"))
    steps(optimizer, params, 3)
    other = way(optimizer)
    others = other.param_groups[0]["params"]
    assert others[0] is not params[0]
    steps(optimizer, params, 2)
    steps(other, others, 2)
    for p, q in zip(params, others, strict=True):
        assert_same_bits(p, q)


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 17])
def test_history_of_any_size(size: int) -> None:
    """Trajectories are torch's while matrices grow and go round."""
    points = []
    for cls in LBFGS.values():
        params = start()
        optimizer = cls(params, lr=0.02, max_iter=30, max_eval=100, history_size=size, tolerance_change=0.0)
        steps(optimizer, params, 1)
        points.append(torch.cat([param.detach() for param in params]))
        assert len(optimizer.state[params[0]]["old_dirs"]) == size
    torch.testing.assert_close(*points, rtol=1e-8, atol=1e-8)


def test_a_history_of_hundreds() -> None:
    x = torch.linspace(-1, 1, 600, dtype=torch.float64).requires_grad_()
    optimizer = fastopt.LBFGS(
        [x], lr=0.01, max_iter=400, max_eval=1000, history_size=300, tolerance_change=0.0, tolerance_grad=0.0
    )
    optimizer.step(closure_of([x], lambda: quadratic([x]) + rosenbrock(x) * 1e-3))
    assert len(optimizer.state[x]["old_dirs"]) > 100
    assert x.isfinite().all()


def test_a_history_that_is_made_smaller() -> None:
    params = start()
    optimizer = fastopt.LBFGS(params, lr=0.02, max_iter=12, history_size=10, tolerance_change=0.0)
    steps(optimizer, params, 1)
    optimizer.param_groups[0]["history_size"] = 3
    before = loss_of(params)
    steps(optimizer, params, 1)
    assert len(optimizer.state[params[0]]["old_dirs"]) == 3
    assert loss_of(params) < before


def test_memory_is_two_vectors_a_pair() -> None:
    x = torch.randn(1000, dtype=torch.float64).requires_grad_()
    optimizer = fastopt.LBFGS([x], lr=0.01, max_iter=40, max_eval=100, history_size=5, tolerance_change=0.0)
    optimizer.step(closure_of([x], lambda: rosenbrock(x)))
    assert optimizer._history is not None
    assert optimizer._vectors is not None
    assert len(optimizer._history.steps) == len(optimizer._history.changes) == 5
    assert len({vector.data_ptr() for vector in optimizer._history.steps + optimizer._history.changes}) == 10
    assert len(optimizer._vectors._pool) <= 7


def test_from_and_to_torch() -> None:
    params = start()
    theirs = torch.optim.LBFGS(params, lr=0.5, max_iter=4, history_size=7, line_search_fn="strong_wolfe")
    steps(theirs, params, 2)
    ours = fastopt.from_torch(theirs)
    assert type(ours) is fastopt.LBFGS
    assert isinstance(ours, torch.optim.LBFGS)
    assert ours.param_groups[0]["history_size"] == 7
    before = loss_of(params)
    steps(ours, params, 1)
    assert loss_of(params) < before
    again = ours.to_torch()
    assert type(again) is torch.optim.LBFGS
    assert set(again.param_groups[0]) == set(theirs.param_groups[0])
    steps(again, params, 1)
    ours.param_groups[0]["maximize"] = True
    with pytest.raises(ValueError, match="maximize"):
        ours.to_torch()


def test_what_goes_around_other_optimizers_refuses_these() -> None:
    params = start()
    for wrap in (
        lambda: fastopt.offload(fastopt.LBFGS(params)),
        lambda: fastopt.monitor(fastopt.LBFGS(params)),
        lambda: fastopt.step_in_backward(torch.nn.Linear(2, 2), fastopt.LBFGS(params)),
        lambda: fastopt.Lookahead(fastopt.LBFGS(params)),
        lambda: fastopt.switch(fastopt.LBFGS(params), fastopt.Adam, lr=1.0),
    ):
        with pytest.raises(TypeError, match="LBFGS"):
            wrap()
