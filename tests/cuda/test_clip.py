"""Norms and clipping on a device have the CPU's bits, and the host does not wait for them."""

import math

import pytest
import torch

import fastopt
from gpu import DEVICE, REAL, Trained, assert_equals_reference, emulator, gpu
from support import DTYPES, assert_same_bits, running, some_values

# Sizes around a lane, a chunk, and the shares of a warp and of a block.
SIZES = [0, 1, 31, 32, 33, 255, 257, 4095, 4096, 4097, 32_768, 32_769, 70_001]
NORMS = [2.0, 1.0, 0.0, 3.0, 0.5, -1.0, math.inf, -math.inf]


def _grads(dtype: torch.dtype, device: torch.device | str, misalign: int = 0) -> list[torch.Tensor]:
    grads = []
    for i, n in enumerate(SIZES):
        memory = torch.empty(n + misalign, dtype=dtype, device=device)
        grads.append(memory[misalign:].copy_(some_values(n, dtype, seed=i)))
    return grads


@pytest.mark.parametrize("norm_type", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norms_equal_the_references(dtype: torch.dtype, norm_type: float, order: str) -> None:
    with running("reference"):
        expected = fastopt.get_total_norm(_grads(dtype, "cpu"), norm_type)
    with gpu():
        ours = fastopt.get_total_norm(_grads(dtype, DEVICE, misalign=1), norm_type)
        assert ours.device.type == DEVICE.type
    assert_same_bits(ours.cpu(), expected)


@pytest.mark.parametrize("chunks", [1, 31, 33, 4096, 4097])
def test_many_chunks(chunks: int) -> None:
    """The sums of chunks go through lanes again, staged in shared memory. Here each tensor is one chunk."""
    tensors = [some_values(1, torch.float32, seed=i) for i in range(chunks)]
    with running("reference"):
        expected = fastopt.get_total_norm(tensors)
    with gpu():
        ours = fastopt.get_total_norm([t.to(DEVICE) for t in tensors])
    assert_same_bits(ours.cpu(), expected)


@pytest.mark.parametrize("value", [math.inf, math.nan, 1e30, 0.0])
def test_special_values(value: float) -> None:
    grads = _grads(torch.float32, "cpu")
    grads[5][7] = value
    if value == 0:
        grads = [torch.zeros_like(g) for g in grads]
    for norm_type in NORMS:
        with running("reference"):
            expected = fastopt.get_total_norm(grads, norm_type)
        with gpu():
            ours = fastopt.get_total_norm([g.to(DEVICE) for g in grads], norm_type)
        assert_same_bits(ours.cpu(), expected, str(norm_type))


@pytest.mark.parametrize("max_norm", [0.5, 1e9])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_clip_grad_norm(dtype: torch.dtype, max_norm: float) -> None:
    def run(device: torch.device | str) -> tuple[torch.Tensor, list[torch.Tensor]]:
        params = [torch.zeros_like(g, requires_grad=True) for g in _grads(dtype, device)]
        for param, grad in zip(params, _grads(dtype, device), strict=True):
            param.grad = grad
        return fastopt.clip_grad_norm_(params, max_norm), [p.grad for p in params]

    with running("reference"):
        norm, expected = run("cpu")
    with gpu():
        ours, grads = run(DEVICE)
    assert_same_bits(ours.cpu(), norm)
    for grad, other in zip(grads, expected, strict=True):
        assert_same_bits(grad.cpu(), other)


def test_clip_grad_value() -> None:
    grads = _grads(torch.float32, DEVICE)
    params = [torch.zeros_like(g, requires_grad=True) for g in grads]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad.clone()
    with gpu():
        fastopt.clip_grad_value_(params, 1.0)
    for param, grad in zip(params, grads, strict=True):
        assert torch.equal(param.grad, grad.clamp(-1, 1))


def test_a_norm_that_is_not_finite_is_an_error_where_asked_for() -> None:
    grad = torch.tensor([1.0, math.inf], device=DEVICE)
    with gpu(), pytest.raises(RuntimeError, match=r"The total norm of order 2\.0 for gradients .* is non-finite"):
        fastopt.get_total_norm([grad], error_if_nonfinite=True)


def test_max_grad_norm_equals_the_reference(order: str) -> None:
    """Groups of several types, one of which is not clipped."""

    def run(device: torch.device | str) -> Trained:
        params = [g.requires_grad_() for dtype in DTYPES for g in _grads(dtype, device)[-4:]]
        groups = [{"params": params[:6]}, {"params": params[6:12], "max_grad_norm": None}, {"params": params[12:]}]
        optimizer = fastopt.AdamW(groups, lr=0.01, max_grad_norm=0.7)
        for step in range(2):
            for i, param in enumerate(params):
                param.grad = some_values(param.shape, param.dtype, seed=step * 50 + i).to(device)
            optimizer.step()
        norms.append(optimizer.grad_norm.cpu())
        return optimizer, params

    norms: list[torch.Tensor] = []
    assert_equals_reference(run)
    assert_same_bits(norms[1], norms[0])


@pytest.mark.skipif(emulator is None, reason="a GPU is not broken for a test")
def test_without_barriers_norms_are_wrong() -> None:
    """Without barriers, a warp adds up values that others have not loaded yet."""
    tensors = [some_values(4096, torch.float32, seed=i).to(DEVICE) for i in range(40)]
    with gpu():
        right = fastopt.get_total_norm(tensors)
        emulator.skip_barriers(of_block=True)
        wrong = []
        for chosen in ("forward", "reverse", "shuffled"):
            emulator.set_order(chosen, 3)
            wrong.append(fastopt.get_total_norm(tensors))
    assert any(not torch.equal(norm, right) for norm in wrong)


@pytest.mark.skipif(REAL, reason="a GPU shows it better: the next test")
def test_the_host_does_not_read_the_count_of_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The norm of type 0 counts the tensors that are not zero."""
    tensors = [torch.ones(3), torch.zeros(3), torch.tensor([math.nan, 0.0])]
    with gpu(), monkeypatch.context() as patched:
        for name in ("__bool__", "__float__", "item"):
            patched.setattr(torch.Tensor, name, None)
        norm = fastopt.get_total_norm(tensors, 0.0)
    assert norm == 2


@pytest.mark.skipif(not REAL, reason="needs a GPU")
@pytest.mark.parametrize("norm_type", NORMS)
def test_the_host_does_not_wait_for_a_norm(norm_type: float) -> None:
    params = [torch.zeros(100, device=DEVICE, requires_grad=True) for _ in range(3)]
    for param in params:
        param.grad = torch.ones_like(param)
    fastopt.clip_grad_norm_(params, 1.0, norm_type)
    torch.cuda.set_sync_debug_mode("error")
    try:
        fastopt.clip_grad_norm_(params, 1.0, norm_type)
    finally:
        torch.cuda.set_sync_debug_mode("default")
