"""SparseAdam: torch's, for the rows that a sparse gradient touches."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import fastopt
from support import ISAS, assert_same_step, called, named, running, some_values

BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")

OPTIONS = [{}, {"lr": 0.1}, {"betas": (0.5, 0.9), "eps": 1e-3}, {"lr": 0.1, "maximize": True}]
TOUCHED = 6


def _grad(seed: int, dtype: torch.dtype, coalesced: bool = False, shape: tuple[int, ...] = (50, 7)) -> Tensor:
    """Random rows, one of them twice."""
    rows = torch.randint(0, shape[0], (1, TOUCHED), generator=torch.Generator().manual_seed(seed))
    rows[:, 1] = rows[:, 0]
    grad = torch.sparse_coo_tensor(rows, some_values((TOUCHED, *shape[1:]), dtype, seed), shape)
    return grad.coalesce() if coalesced else grad


def _param(dtype: torch.dtype) -> Tensor:
    return some_values((50, 7), dtype, seed=0).requires_grad_()


def _train(optimizer: torch.optim.Optimizer, steps: range, coalesced: bool = False) -> None:
    (param,) = optimizer.param_groups[0]["params"]
    for step in steps:
        param.grad = _grad(step, param.dtype, coalesced)
        optimizer.step()


@BACKENDS
@pytest.mark.parametrize("coalesced", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_follows_torch(options: dict[str, Any], coalesced: bool, backend: str) -> None:
    """In float64 to rounding, over 100 steps; ``eps`` belongs to the root before it is corrected."""
    p, q = _param(torch.float64), _param(torch.float64)
    ours, theirs = fastopt.SparseAdam([p], **options), torch.optim.SparseAdam([q], **options)
    with running(backend):
        _train(ours, range(100), coalesced)
    _train(theirs, range(100), coalesced)
    torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)
    assert ours.state[p]["step"] == theirs.state[q]["step"] == 100
    for key in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(ours.state[p][key], theirs.state[q][key], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_equals_reference(dtype: torch.dtype, isa: str, threads: int) -> None:
    p, q = _param(dtype), _param(dtype)
    ours, reference = fastopt.SparseAdam([p], lr=0.1), fastopt.SparseAdam([q], lr=0.1)
    with running("native", isa, threads):
        _train(ours, range(5))
    with running("reference"):
        _train(reference, range(5))
    assert_same_step(ours, [p], reference, [q])


def test_other_rows_keep_their_bits() -> None:
    """Adam would move them by its averages."""
    param = torch.full((9, 3), torch.nan)
    param[4] = 1.0
    param.requires_grad_()
    optimizer = fastopt.SparseAdam([param], lr=0.1)
    for _ in range(3):
        param.grad = torch.sparse_coo_tensor([[4]], torch.ones(1, 3), (9, 3))
        optimizer.step()
        assert (param[4] < 1.0).all()
        assert param.isnan().sum() == 8 * 3
        assert (optimizer.state[param]["exp_avg"] != 0).sum() == 3


def test_goes_to_torch_and_back() -> None:
    p, q = _param(torch.float64), _param(torch.float64)
    optimizers: list[Any] = [fastopt.SparseAdam([p]), torch.optim.SparseAdam([q])]
    for begin in range(0, 15, 5):
        for optimizer in optimizers:
            _train(optimizer, range(begin, begin + 5))
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)
        optimizers = [
            optimizer.to_torch() if isinstance(optimizer, fastopt.SparseAdam) else fastopt.from_torch(optimizer)
            for optimizer in optimizers
        ]
        assert {type(optimizer) for optimizer in optimizers} == {fastopt.SparseAdam, torch.optim.SparseAdam}


def test_resumes_from_a_checkpoint() -> None:
    """Its own, and torch's, which counts in Python's integers."""
    for make in (fastopt.SparseAdam, torch.optim.SparseAdam):
        p = _param(torch.float32)
        first = make([p])
        _train(first, range(5))
        q = p.detach().clone().requires_grad_()
        twin = fastopt.SparseAdam([q])
        twin.load_state_dict(copy.deepcopy(first.state_dict()))
        ours = fastopt.from_torch(first) if make is torch.optim.SparseAdam else first
        _train(ours, range(5, 8))
        _train(twin, range(5, 8))
        assert_same_step(ours, [p], twin, [q])


@BACKENDS
def test_dense_gradients_are_refused(backend: str) -> None:
    """Also later, when the parameter has states; nothing is written."""
    weight, table = torch.ones(3, requires_grad=True), torch.ones(50, 7, requires_grad=True)
    optimizer = fastopt.SparseAdam(named(table=table, weight=weight))
    for _ in range(2):
        table.grad, weight.grad = _grad(1, torch.float32), torch.ones(3)
        message = f"SparseAdam does not support dense gradients, please consider Adam instead .{called('weight')}"
        before = table.detach().clone()
        with running(backend), pytest.raises(RuntimeError, match=message):
            optimizer.step()
        assert torch.equal(table, before)
        weight.grad = None
        optimizer.step()
        assert not torch.equal(table, before)


def test_wrong_parameters() -> None:
    with pytest.raises(ValueError, match="SparseAdam requires dense parameter tensors"):
        fastopt.SparseAdam([_grad(1, torch.float32)])
    with pytest.raises(ValueError, match="SparseAdam does not support complex parameters"):
        fastopt.SparseAdam([torch.ones(3, dtype=torch.complex64, requires_grad=True)])


@pytest.mark.parametrize("options", [{"ema": 0.9}, {"state_dtype": "int8"}, {"l1": 0.1}], ids=str)
def test_options_for_whole_parameters(options: dict[str, Any]) -> None:
    param = torch.ones(50, 7, requires_grad=True)
    optimizer = fastopt.SparseAdam([param], **options)
    param.grad = _grad(1, torch.float32)
    with pytest.raises(RuntimeError, match="sparse gradient"):
        optimizer.step()
    assert (param == 1).all()


def test_clipping_and_grad_scaler() -> None:
    p, q = _param(torch.float32), _param(torch.float32)
    ours, theirs = fastopt.SparseAdam([p], max_grad_norm=0.1), torch.optim.SparseAdam([q])
    p.grad, q.grad = _grad(3, torch.float32), _grad(3, torch.float32)
    q.grad = q.grad * (0.1 / q.grad.coalesce().values().norm())  # torch clips no sparse gradients
    ours.step()
    theirs.step()
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    embedding = torch.nn.Embedding(20, 4, sparse=True)
    start = embedding.weight.detach().clone()
    optimizer = fastopt.SparseAdam(embedding.parameters(), lr=0.1)
    scaler.scale(embedding(torch.tensor([3, 5, 3])).sum()).backward()
    scaler.step(optimizer)
    assert (embedding.weight != start).any(1).nonzero().flatten().tolist() == [3, 5]
