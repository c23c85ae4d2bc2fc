"""Batch normalization under compilers, transforms, modes and subclasses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastopt.nn
import fastopt.nn.functional as F
from support import assert_same_bits, running, some_values

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning",
    "ignore::FutureWarning",
    "ignore:At pre-dispatch tracing:UserWarning",
    "ignore:There is a performance drop:UserWarning",
    "ignore:.*isinstance.*LeafSpec:DeprecationWarning",
)


def operands(shape: tuple[int, ...] = (6, 4, 5, 7)) -> list[Tensor]:
    seeds = enumerate([shape, shape[1:2], shape[1:2], shape])
    return [some_values(s, torch.float32, seed).requires_grad_() for seed, s in seeds]


def block(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    return F.batch_norm(x, mean, var, weight, bias, True, activation="silu", residual=residual)


def with_gradients(function: Any, tensors: list[Tensor]) -> list[Tensor]:
    mean, var = torch.zeros(4), torch.ones(4)
    y = function(*tensors, mean, var)
    grads = torch.autograd.grad(y, tensors, some_values(y.shape, y.dtype, 9))
    return [y, mean, var, *grads]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Any:
    yield
    torch.compiler.reset()


def assert_rounded_alike(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


# Inductor fuses the kernel's operations with the ones around it, and rounds in another order.
BACKENDS = {"aot_eager": assert_same_bits, "inductor": assert_rounded_alike}


@pytest.mark.slow
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_in_one_graph(backend: str, channels_last: bool) -> None:
    compiled = torch.compile(block, fullgraph=True, backend=backend)
    for shape in ((6, 4, 5, 7), (3, 4, 9, 5)):  # the second makes sizes dynamic
        tensors = operands(shape)
        if channels_last:
            tensors = [
                t.detach().contiguous(memory_format=torch.channels_last).requires_grad_() if t.ndim == 4 else t
                for t in tensors
            ]
        for ours, expected in zip(with_gradients(compiled, tensors), with_gradients(block, tensors), strict=True):
            BACKENDS[backend](ours, expected)
            assert ours.stride() == expected.stride()


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_module(backend: str) -> None:
    """Training steps and evaluation give eager mode's outputs and buffers."""
    torch.manual_seed(0)
    model = fastopt.nn.convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()))
    x = some_values((5, 3, 6, 6), torch.float32, 1)
    results = []
    for compiled in (False, True):
        own: Any = torch.compile(model, fullgraph=True, backend=backend) if compiled else model
        model[1].reset_parameters()
        model.train()
        for _ in range(3):
            y = own(x)
        (grad,) = torch.autograd.grad(y.square().sum(), [model[0].weight])
        model.eval()
        results.append([y, grad, own(x), *(buffer.clone() for buffer in model.buffers())])
    for ours, expected in zip(results[1], results[0], strict=True):
        assert_rounded_alike(ours, expected)
    assert results[1][-1] == 3


def test_traced_operators_are_correct() -> None:
    tensors = operands()
    checks = ("test_schema", "test_faketensor")
    options = (True, 0.1, 1e-5, "relu", 0.01, "")
    inputs = (tensors[0], tensors[3], tensors[1], tensors[2], torch.zeros(4), torch.ones(4))
    torch.library.opcheck(torch.ops.fastopt.batch_norm.default, (*inputs, *options), test_utils=checks)
    statistics = torch.ones(2, 4, dtype=torch.float64)
    for wants in ([True] * 4, [False, True, False, True]):
        args = (wants, tensors[3].detach(), *inputs[:4], statistics, *options)
        torch.library.opcheck(torch.ops.fastopt.batch_norm_backward.default, args, test_utils=checks)


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_traced_operators_of_any_layout(layout: torch.memory_format, batch: bool) -> None:
    """The gradient of the residual is right too; without an activation, it is the incoming gradient itself."""
    checks = ("test_schema", "test_faketensor")
    x, weight, bias, residual = (t.detach() for t in operands())
    x = x.contiguous(memory_format=layout)
    statistics = torch.ones(2, 4, dtype=torch.float64)
    for activation in ("identity", "relu"):
        options = (batch, 0.1, 1e-5, activation, 0.01, "")
        inputs = (x, residual, weight, bias, torch.zeros(4), torch.ones(4))
        torch.library.opcheck(torch.ops.fastopt.batch_norm.default, (*inputs, *options), test_utils=checks)
        args = ([True] * 4, residual, *inputs[:4], statistics, *options)
        torch.library.opcheck(torch.ops.fastopt.batch_norm_backward.default, args, test_utils=checks)


def test_export() -> None:
    model = fastopt.nn.BatchNorm2d(4, activation="relu").eval()
    model.running_mean.uniform_(-1, 1)
    x = some_values((3, 4, 5, 5), torch.float32, 1)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))  # export uses torch's operators
    assert "fastopt" not in exported.code


def test_torch_func() -> None:
    x, weight, bias, residual = operands()

    def loss(x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, weight, bias, True, activation="silu", residual=residual).square().sum()

    assert_same_bits(torch.func.grad(loss)(x), torch.autograd.grad(loss(x), x)[0])
    leaf = x.detach().requires_grad_()
    first = torch.autograd.grad(loss(leaf), leaf, create_graph=True)[0]
    twice = torch.func.grad(lambda x: torch.func.grad(loss)(x).square().sum())(x)
    torch.testing.assert_close(twice, torch.autograd.grad(first.square().sum(), leaf)[0], rtol=1e-3, atol=1e-4)


def test_vmap() -> None:
    """Samples are normalized one by one. As in torch, running statistics cannot be shared by them."""
    x, weight, bias, _ = operands()
    batch = torch.stack([x.detach(), 2 * x.detach() + 1])
    found = torch.vmap(lambda x: F.batch_norm(x, None, None, weight, bias, True))(batch)
    for sample, result in zip(batch, found, strict=True):
        assert_same_bits(result, F.batch_norm(sample, None, None, weight, bias, True))
    grads = torch.vmap(torch.func.grad(lambda x: F.batch_norm(x, None, None, weight, bias, True).pow(3).sum()))(batch)
    leaf = batch[1].clone().requires_grad_()
    F.batch_norm(leaf, None, None, weight, bias, True).pow(3).sum().backward()
    assert_same_bits(grads[1], leaf.grad)
    with pytest.raises(RuntimeError, match="vmap"):
        torch.vmap(lambda x: F.batch_norm(x, torch.zeros(4), torch.ones(4), training=True))(batch)


def test_functional_call() -> None:
    model = fastopt.nn.BatchNorm1d(4)
    x = some_values((6, 4), torch.float32, 1)
    found = torch.func.functional_call(model, {"weight": torch.full((4,), 2.0)}, (x,))
    torch.testing.assert_close(found, 2 * torch.nn.functional.batch_norm(x, None, None, training=True))


def test_fake_tensors_and_modes() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode

    with FakeTensorMode():
        y = fastopt.nn.BatchNorm2d(4)(torch.empty(3, 4, 5, 5))
        assert y.shape == (3, 4, 5, 5)
    seen = []

    class Log(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    x = some_values((3, 4), torch.float32, 1)
    mean, var = torch.zeros(4), torch.ones(4)
    with Log():
        y = F.batch_norm(x, mean, var, training=True)
    assert any("fastopt.batch_norm" in name for name in seen)
    plain = torch.zeros(4), torch.ones(4)
    assert_same_bits(y, F.batch_norm(x, *plain, training=True))
    assert_same_bits(mean, plain[0])
    assert_same_bits(var, plain[1])


class Tagged(Tensor):
    """A subclass that is kept by operations."""


def test_subclass() -> None:
    x = some_values((6, 4), torch.float32, 1)
    y = F.batch_norm(x.as_subclass(Tagged), None, None, training=True)
    assert type(y) is Tagged
    assert_same_bits(y.as_subclass(Tensor), F.batch_norm(x, None, None, training=True))


def test_overrides_get_every_argument() -> None:
    got: dict[str, Any] = {}

    class Mine:
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> str:
            got.update(kwargs or {}, args=args, func=func)
            return "mine"

    x = torch.zeros(2, 3)
    for where in ("input", "weight", "residual"):
        arguments: dict[str, Any] = {"input": x, "running_mean": None, "running_var": None, where: Mine()}
        options = {"training": True, "momentum": 0.3, "eps": 1e-3, "activation": "relu", "negative_slope": 0.2}
        assert F.batch_norm(**arguments, **options) == "mine"
        assert got["func"] is F.batch_norm
        assert {key: got[key] for key in options} == options
        assert {key: got[key] for key in ("weight", "residual")} == {
            key: arguments.get(key) for key in ("weight", "residual")
        }


def test_jit_trace() -> None:
    model = fastopt.nn.BatchNorm1d(4).eval()
    x = some_values((6, 4), torch.float32, 1)
    traced = torch.jit.trace(model, (x,))
    assert_same_bits(traced(x + 1), model(x + 1))


def test_autocast() -> None:
    """As in torch, the output has the type of the input."""
    model = fastopt.nn.BatchNorm1d(4)
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            assert model(some_values((6, 4), dtype, 1)).dtype == dtype


@pytest.mark.parametrize("backend", BACKENDS)
def test_reference_backend(backend: str) -> None:
    """The NumPy fallback works in all these programs."""
    with running("reference"):
        tensors = operands()
        expected = with_gradients(block, tensors)
        compiled = torch.compile(block, fullgraph=True, backend=backend)
        for ours, value in zip(with_gradients(compiled, tensors), expected, strict=True):
            BACKENDS[backend](ours, value)


def test_meta_tensors_and_other_devices() -> None:
    assert F.batch_norm(torch.empty(3, 4, device="meta"), None, None, training=True).device.type == "meta"
    x = torch.ones(3, 4)
    with pytest.raises(RuntimeError, match="weight is on meta, input on cpu"):
        F.batch_norm(x, None, None, torch.ones(4, device="meta"), training=True)


def test_jvp_of_operators() -> None:
    x, weight, bias, _ = (t.detach() for t in operands())
    tangent = some_values(x.shape, x.dtype, 7)
    _, ours = torch.func.jvp(
        lambda x: F.batch_norm(x, None, None, weight, bias, True, activation="gelu"), (x,), (tangent,)
    )
    composed = lambda x: nn.functional.gelu(nn.functional.batch_norm(x, None, None, weight, bias, True))  # noqa: E731
    _, expected = torch.func.jvp(composed, (x,), (tangent,))
    torch.testing.assert_close(ours, expected)
