"""Dropout of CUDA tensors in larger programs: operators, torch.func, torch.compile, streams, several devices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

import fastopt.nn.functional as F
from dropout_cases import FAMILY, ONE_TENSOR, Family
from fastopt import _runtime, nn
from gpu import DEVICE, REAL, gpu
from support import DTYPES, assert_same_bits, running, some_values

EVERY_FAMILY = pytest.mark.parametrize("family", FAMILY, ids=str)
ON_A_GPU = pytest.mark.skipif(not REAL, reason="needs a GPU")

# Inductor raises these warnings about itself.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def on_device(family: Family, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [x.to(DEVICE) for x in family.inputs(dtype)]


class Sub(torch.Tensor):
    """A subclass that changes nothing; its tensors go through the dispatcher."""


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@EVERY_FAMILY
def test_operators(family: Family, dtype: torch.dtype) -> None:
    """Operators have the bits of direct calls, forward and backward, with seeds of 64 bits."""
    inputs, direction = on_device(family, dtype), some_values(family.shape, dtype, 99).to(DEVICE)
    with gpu():
        for seed in (5, 2**64 - 1):
            call = lambda *x, seed=seed: family(*x, seed=seed)  # noqa: E731
            expected = call(*inputs)
            assert_same_bits(call(*[x.as_subclass(Sub) for x in inputs]).as_subclass(Tensor).cpu(), expected.cpu())
            y, pull = torch.func.vjp(call, *inputs)
            assert_same_bits(y.cpu(), expected.cpu())
            leaves = [x.clone().requires_grad_() for x in inputs]
            gradients = torch.autograd.grad(call(*leaves), leaves, direction)
            for ours, eager in zip(pull(direction), gradients, strict=True):
                assert_same_bits(ours.cpu(), eager.cpu())


@EVERY_FAMILY
def test_vmap(family: Family) -> None:
    with gpu():
        samples = [torch.stack([x, x * 2]) for x in on_device(family)]
        for i, result in enumerate(torch.vmap(family)(*samples)):
            assert_same_bits(result.cpu(), family(*[x[i] for x in samples]).cpu())
        different = torch.vmap(lambda x: F.dropout(x, 0.5), randomness="different")(torch.ones(2, 99, device=DEVICE))
        assert not torch.equal(different[0], different[1])
        same = torch.vmap(lambda x: F.dropout(x, 0.5), randomness="same")(torch.ones(2, 99, device=DEVICE))
        assert torch.equal(same[0], same[1])


def test_double_backward_and_forward_mode() -> None:
    x = torch.arange(1.0, 9, device=DEVICE)
    cubes = lambda x: F.dropout(x, 0.5, seed=2).pow(3).sum()  # noqa: E731
    expected = torch.diag(48 * x.cpu() * F.dropout_mask(x.shape, 0.5, seed=2))
    with gpu():
        for transform in (torch.func.hessian, torch.autograd.functional.hessian):
            found = transform(cubes)(x) if transform is torch.func.hessian else transform(cubes, x)
            torch.testing.assert_close(found.cpu(), expected)


@ON_A_GPU
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@EVERY_FAMILY
def test_compiled(family: Family, backend: str) -> None:
    """With a seed, compiled functions have eager mode's bits. Without one, the device's generator draws each time."""
    inputs = [x.requires_grad_() for x in on_device(family)]
    direction = some_values(family.shape, torch.float32, 9).to(DEVICE)
    torch._dynamo.reset()
    compiled = torch.compile(lambda *x: family(*x, seed=2**64 - 1, offset=3), fullgraph=True, backend=backend)
    y, expected = compiled(*inputs), family(*inputs, seed=2**64 - 1, offset=3)
    assert_same_bits(y.cpu(), expected.cpu())
    both = (torch.autograd.grad(result, inputs, direction) for result in (y, expected))
    for ours, eager in zip(*both, strict=True):
        assert_same_bits(ours.cpu(), eager.cpu())
    torch._dynamo.reset()
    drawn = torch.compile(lambda *x: family(*x, seed=None), fullgraph=True, backend=backend)
    torch.manual_seed(1)
    first, second = drawn(*inputs).clone(), drawn(*inputs).clone()
    torch.manual_seed(1)
    assert_same_bits(drawn(*inputs).detach().cpu(), first.detach().cpu())
    assert not torch.equal(first, second)


@ON_A_GPU
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_with_graphs(mode: str) -> None:
    """With inductor's CUDA graphs, each step has another mask, the same forward and backward; two dropouts differ."""
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: F.dropout(x, 0.5) + 4 * F.dropout(x, 0.5), fullgraph=True, mode=mode)
    x = torch.ones(4000, device=DEVICE, requires_grad=True)
    seen = []
    for _ in range(5):
        torch.compiler.cudagraph_mark_step_begin()
        y = compiled(x)
        (grad,) = torch.autograd.grad(y.sum(), x)
        assert_same_bits(grad.cpu(), y.detach().cpu())
        assert set(y.unique().tolist()) == {0.0, 2.0, 8.0, 10.0}
        seen.append(y.detach().clone())
    for i, one in enumerate(seen):
        assert not any(torch.equal(one, other) for other in seen[:i])


@ON_A_GPU
def test_opcheck() -> None:
    """torch's own checks of schemas, fakes and gradients pass, with seeds on either device."""
    x = some_values((4, 5), torch.float64, 1).to(DEVICE).requires_grad_()
    residual, bias = x.detach() * 2, x.detach()[0].clone().requires_grad_()
    for seed in (torch.tensor(5), torch.tensor(5, device=DEVICE)):
        for rest in (("dropout", 0.3, 0, 2, None, None), ("bias_dropout_add", 0.3, 0, 2, residual, bias)):
            torch.library.opcheck(torch.ops.fastopt.dropout.default, (x, seed, *rest))
        torch.library.opcheck(torch.ops.fastopt.dropout_gradients.default, (x, seed, "dropout", 0.3, 0))
        torch.library.opcheck(torch.ops.fastopt.dropout_mask.default, ([4, 5], seed, 0.3, 0, False))


@ON_A_GPU
@EVERY_FAMILY
def test_the_host_does_not_wait(family: Family) -> None:
    """The host does not wait, forward or backward, whether seeds are drawn, given, or only on the device."""
    inputs = [x.requires_grad_() for x in on_device(family)]
    direction = some_values(family.shape, torch.float32, 9).to(DEVICE)
    subs = [x.detach().as_subclass(Sub) for x in inputs]
    own = torch.Generator(DEVICE)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for y in (family(*inputs, seed=None), family(*inputs, seed=1), family(*inputs, seed=None, generator=own)):
            torch.autograd.grad(y, inputs, direction)
        family(*subs, seed=None)
        family(*subs, seed=3)
        F.dropout_mask(family.shape, 0.5, seed=1, device=DEVICE)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@ON_A_GPU
def test_the_callers_stream() -> None:
    """A launch waits for the work that its stream already has, and for nothing else."""
    x = torch.zeros(1 << 22, device=DEVICE)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        y = F.dropout(x, 0.5, seed=1)  # loads the kernel and allocates memory
        stream.synchronize()
        torch.cuda._sleep(50_000_000)
        x.fill_(1)
        y = F.dropout(x, 0.5, seed=1)
        assert not stream.query()
    stream.synchronize()
    assert_same_bits(y.cpu(), F.dropout(torch.ones(1 << 22), 0.5, seed=1))


@ON_A_GPU
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_second_device() -> None:
    """Tensors of the second device work while the first is current."""
    x = torch.ones(5000)
    second = x.to("cuda:1")
    assert_same_bits(F.dropout(second, 0.5, seed=1).cpu(), F.dropout(x, 0.5, seed=1))
    assert F.dropout_mask(5, 0.5, seed=1, device="cuda:1").device == second.device
    with pytest.raises(RuntimeError, match="residual is on cuda:0, but the input on cuda:1"):
        F.dropout_add(second, x.to("cuda:0"), 0.5)
    with pytest.raises(RuntimeError, match="generator is on cuda:0, but the input on cuda:1"):
        F.dropout(second, 0.5, generator=torch.Generator("cuda:0"))


@ON_A_GPU
def test_two_devices_in_a_call() -> None:
    x = torch.ones(5, device=DEVICE)
    with pytest.raises(RuntimeError, match="residual is on cpu, but the input on cuda:0"):
        F.dropout_add(x, torch.ones(5), 0.5)
    with pytest.raises(RuntimeError, match="bias is on cpu, but the input on cuda:0"):
        F.bias_dropout_add(x, torch.ones(5), x, 0.5)


@ON_A_GPU
def test_backends_without_kernels() -> None:
    x = torch.ones(5, device=DEVICE)
    with running("reference"):
        for call in (F.dropout, nn.Dropout()):
            with pytest.raises(RuntimeError, match="input is on device 'cuda:0'; the NumPy reference, which is in use"):
                call(x)
        with pytest.raises(RuntimeError, match="cannot make a mask on device 'cuda'; the NumPy reference"):
            F.dropout_mask(5, 0.5, seed=1, device="cuda")


@ON_A_GPU
def test_large() -> None:
    """More elements than 32 bits can count, with 16-byte accesses and without, along memory and across it."""
    n = 2**32 + 4096 + 3
    x = torch.ones(n, dtype=torch.float16, device=DEVICE)
    kept = F.dropout_mask(n, 0.25, seed=1, device=DEVICE)
    for view in (x[:-3], x[1:]):
        y = F.dropout(view, 0.25, seed=1)
        assert torch.equal(y != 0, kept[: len(view)])
        del y
    turned = x[: 2**32 + 4096].view(-1, 64).t()
    y = F.dropout(turned, 0.25, seed=1)
    assert torch.equal(y[:, -4096:] != 0, kept[: turned.numel()].view(turned.shape)[:, -4096:])


@ON_A_GPU
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype: torch.dtype) -> None:
    linear, x = torch.nn.Linear(16, 16).to(DEVICE), torch.ones(5, 16, device=DEVICE)
    with torch.autocast("cuda", dtype):
        h = linear(x)
        assert F.dropout(h, 0.5).dtype == dtype
        assert F.bias_dropout_add(h, linear.bias, x, 0.5).dtype == torch.float32


def test_tensors_without_memory() -> None:
    with FakeTensorMode():
        for family in ONE_TENSOR:
            x = torch.empty(family.shape, device="cuda")
            assert family(x).device == x.device
            assert family(x, seed=None).shape == family.shape
        assert F.dropout_mask((5, 3), 0.5, seed=1, device="cuda").device.type == "cuda"


def test_what_has_no_kernels_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that this build has no kernels for raises an error."""
    refused: Callable[[torch.device], str] = lambda device: "no kernels"  # noqa: E731
    monkeypatch.setattr(_runtime, "unsupported_reason", refused)
    with pytest.raises(RuntimeError, match="dropout_mask: cannot make a mask on device 'cpu'; no kernels"):
        F.dropout_mask(5, 0.5, seed=1)
    with pytest.raises(RuntimeError, match="dropout: input is on device 'cpu'; no kernels"):
        F.dropout(torch.ones(10)[::2], 0.5)
