"""A scaled rule on a device equals the NumPy reference to the bit, wherever its sums are cut.

LAMB's sums read everything, LARS's no state, StableAdamW's one state and no parameter.
tests/cuda/test_adafactor.py tests a rule with one state.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import fastopt
from gpu import DEVICE, REAL, assert_same, gpu
from support import DTYPES, HALF, Guarded, assert_same_bits, running, some_values

SIZES = [0, 1, 31, 33, 255, 257, 4095, 4096, 4097, 8193, 32769, 140_000]


def _params(dtype: torch.dtype, device: torch.device | str) -> tuple[list[Guarded], list[Tensor]]:
    """Parameters at every misalignment, between guards."""
    guards = [Guarded(n, dtype, i % 16, device) for i, n in enumerate(SIZES)]
    for i, guard in enumerate(guards):
        guard.inside.copy_(some_values(guard.inside.shape, dtype, seed=i))
    return guards, [guard.inside.requires_grad_() for guard in guards]


def _train(
    params: list[Tensor], grad_scale: float = 1.0, kind: Any = fastopt.LAMB, **kwargs: Any
) -> torch.optim.Optimizer:
    optimizer = kind(params, lr=0.05, **kwargs)
    for step in range(2):
        for i, param in enumerate(params):
            param.grad = (grad_scale * some_values(param.shape, param.dtype, 100 * step + i)).to(param.device)
        if grad_scale != 1:
            optimizer.grad_scale = torch.tensor(grad_scale, device=params[0].device)
            optimizer.found_inf = torch.zeros((), device=params[0].device)
        optimizer.step()
    return optimizer


def _compare(dtype: torch.dtype, **kwargs: Any) -> None:
    with running("reference"):
        _, expected = _params(dtype, "cpu")
        reference = _train(expected, **kwargs)
    with gpu():
        guards, params = _params(dtype, DEVICE)
        ours = _train(params, **kwargs)
        assert_same(ours, params, reference, expected)
        for a, b in zip(params, expected, strict=True):
            assert_same_bits(a.grad.cpu(), b.grad, "gradient")
    for guard in guards:
        guard.check()


@pytest.mark.parametrize("grad_scale", [1.0, 3.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [fastopt.LAMB, fastopt.LARS, fastopt.StableAdamW])
def test_equals_reference(kind: Any, dtype: torch.dtype, grad_scale: float) -> None:
    _compare(dtype, grad_scale=grad_scale, kind=kind, l1=1e-3, max_grad_norm=0.5)


@pytest.mark.parametrize("kind", [fastopt.LAMB, fastopt.LARS, fastopt.StableAdamW])
def test_equals_reference_without_penalties(kind: Any) -> None:
    """Then the sums need not read every parameter."""
    _compare(torch.float32, kind=kind)


def test_order_of_blocks_and_threads(order: str) -> None:
    _compare(torch.float32)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_wide_states(dtype: torch.dtype) -> None:
    _compare(dtype, state_dtype=torch.float32)


@pytest.mark.parametrize("mixed", ["exp_avg", "exp_avg_sq"])
def test_states_of_several_types(mixed: str) -> None:
    """One state is float32, the other has the parameter's type."""

    def run(device: torch.device | str) -> tuple[torch.optim.Optimizer, list[Tensor]]:
        _, params = _params(torch.bfloat16, device)
        optimizer = _train(params)
        for param in params:
            optimizer.state[param][mixed] = optimizer.state[param][mixed].float()
            param.grad = some_values(param.shape, param.dtype, seed=7).to(device)
        optimizer.step()
        return optimizer, params

    with running("reference"):
        expected = run("cpu")
    with gpu():
        assert_same(*run(DEVICE), *expected)


@pytest.mark.skipif(REAL, reason="a process group of the CPU's")
def test_shards_of_a_step_that_the_device_counts() -> None:
    """A shard that is updated after the others still gets the device's learning rate and GradScaler's tensors."""
    distributed_tensor = pytest.importorskip("torch.distributed.tensor")
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        mesh = dist.init_device_mesh("cpu", (1,))
        whole = [some_values(n, torch.float32, seed=n).requires_grad_() for n in (70, 5000)]
        shard = [distributed_tensor.Shard(0)]
        parts = [distributed_tensor.distribute_tensor(p.detach().clone(), mesh, shard).requires_grad_() for p in whole]
        with gpu():
            optimizers = [fastopt.LAMB(p, lr=torch.tensor(0.05), capturable=True) for p in (whole, parts)]
            for step, found_inf in enumerate((0.0, 0.0, 1.0)):
                for param, part in zip(whole, parts, strict=True):
                    param.grad = 3 * some_values(param.shape, param.dtype, seed=step)
                    part.grad = distributed_tensor.distribute_tensor(copy.deepcopy(param.grad), mesh, shard)
                before = [p.detach().clone() for p in whole]
                for optimizer in optimizers:
                    optimizer.grad_scale, optimizer.found_inf = torch.tensor(3.0), torch.tensor(found_inf)
                    optimizer.step()
                for param, part, old in zip(whole, parts, before, strict=True):
                    assert_same_bits(part.full_tensor().detach(), param.detach(), str(step))
                    assert torch.equal(old, param) == bool(found_inf)
    finally:
        dist.destroy_process_group()
