"""The norms of single samples under compilers, transforms, modes and subclasses."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastopt.nn
import fastopt.nn.functional as F
from fastopt.nn._norm.autocast import widened
from norm_cases import GROUP, INSTANCE, KINDS, LAYER, RMS, Kind, Problem, small
from support import assert_same_bits, running, some_values

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning",
    "ignore::FutureWarning",
    "ignore:At pre-dispatch tracing:UserWarning",
    "ignore:There is a performance drop:UserWarning",
    "ignore:.*isinstance.*LeafSpec:DeprecationWarning",
)

kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
MODULES = {
    RMS: ("RMSNorm", (5,)),
    LAYER: ("LayerNorm", (5,)),
    GROUP: ("GroupNorm", (2, 4)),
    INSTANCE: ("InstanceNorm2d", (4,)),
}


def module_of(kind: Kind, **options: Any) -> Any:
    name, args = MODULES[kind]
    return getattr(fastopt.nn, name)(*args, **options)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Any:
    yield
    torch.compiler.reset()


def assert_rounded_alike(ours: Tensor, expected: Tensor, _: str = "") -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


# Inductor fuses the kernel's operations with the ones around it, and rounds in another order.
BACKENDS = {"aot_eager": assert_same_bits, "inductor": assert_rounded_alike}


# One kind of rows and one of groups go through inductor's compiler, which is slow.
COMPILED = [*[(kind, "aot_eager") for kind in KINDS], (RMS, "inductor"), (GROUP, "inductor")]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "backend"), COMPILED, ids=lambda v: getattr(v, "name", v))
def test_compiled_in_one_graph(kind: Kind, backend: str) -> None:
    problem = Problem(kind, (6, 4, 5, 7), 2, residual=True, activation="silu")
    compiled = torch.compile(problem.call, fullgraph=True, backend=backend)
    second = ((3, 4, 9, 7), False)  # makes sizes dynamic
    shapes = [((6, 4, 5, 7), False), *([second] if backend == "aot_eager" else []), ((6, 4, 5, 7), True)]
    for shape, channels_last in shapes:
        again = replace(problem, shape=shape, channels_last=channels_last)
        found, expected = again.run(compiled), again.run()
        for name, value in expected.items():
            BACKENDS[backend](found[name], value, name)
            assert backend == "inductor" or found[name].stride() == value.stride()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "backend"),
    [*[(kind, "aot_eager") for kind in KINDS], (LAYER, "inductor"), (INSTANCE, "inductor")],
    ids=lambda v: getattr(v, "name", v),
)
def test_compiled_module(kind: Kind, backend: str) -> None:
    options = {"affine": True, "track_running_stats": True} if kind is INSTANCE else {}
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), module_of(kind, **options), nn.ReLU(), nn.Flatten())
    x = some_values((5, 3, 6, 5), torch.float32, 1)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    results = []
    for compiled in (False, True):
        own: Any = torch.compile(model, fullgraph=True, backend=backend) if compiled else model
        model.load_state_dict(start)
        model.train()
        for _ in range(2):
            y = own(x)
        grads = torch.autograd.grad(y.square().sum(), list(model.parameters()))
        model.eval()
        results.append([y, *grads, own(x), *(buffer.clone() for buffer in model.buffers())])
    for ours, expected in zip(results[1], results[0], strict=True):
        assert_rounded_alike(ours, expected)


@kinds
def test_traced_operators_are_correct(kind: Kind) -> None:
    checks = ("test_schema", "test_faketensor")
    x = some_values((6, 4, 5, 7), torch.float32, 1)
    residual = some_values((6, 4, 5, 7), torch.float32, 2)
    name, size = {"rms_norm": ("rms_rounded", 7), "layer_norm": ("layer", 7)}.get(kind.name, ("group", 2))
    weight = torch.ones(4 if name == "group" else 7)
    bias = None if kind.name == "rms_norm" else weight
    statistics = torch.ones(2, 12 if name == "group" else 120, dtype=torch.float64)
    options = (name, size, 1e-5, "silu", 0.01)
    last = x.contiguous(memory_format=torch.channels_last)
    for given in (x, last, x.transpose(2, 3).contiguous().transpose(2, 3)):
        for other in (None, residual):
            args = (given, other, weight, None, *options)
            torch.library.opcheck(torch.ops.fastopt.norm.default, args, test_utils=checks)
            for wants in ([True] * 3, [True, False, True]):
                backward = (wants, residual, other, given, weight, bias, statistics, *options)
                torch.library.opcheck(torch.ops.fastopt.norm_backward.default, backward, test_utils=checks)


@kinds
def test_export(kind: Kind) -> None:
    """An exported program has torch's operators only, since it may go where fastopt is not."""
    x = some_values((3, 4, 6, 5), torch.float32, 1)
    model = module_of(kind, activation="relu").eval()
    for inputs in ((x,), (x, 2 * x)):
        exported = torch.export.export(model, inputs).module()
        torch.testing.assert_close(exported(*inputs), model(*inputs))
        assert "fastopt" not in exported.code
        assert kind.name in exported.code
    half = x.bfloat16()  # torch has no such kernel for some of them
    exported = torch.export.export(model, (half,)).module()
    torch.testing.assert_close(exported(half), model(half), rtol=2e-2, atol=2e-2)
    assert "fastopt" not in exported.code


@kinds
def test_torch_func(kind: Kind) -> None:
    problem = small(kind, residual=True, activation="silu")
    leaves = {k: v.requires_grad_() for k, v in problem.leaves().items()}

    def loss(x: Tensor) -> Tensor:
        return sum(y.square().sum() for y in problem.call({**leaves, "input": x}))  # type: ignore[return-value]

    x = leaves["input"]
    assert_same_bits(torch.func.grad(loss)(x), torch.autograd.grad(loss(x), x)[0])
    first = torch.autograd.grad(loss(x), x, create_graph=True)[0]
    twice = torch.func.grad(lambda x: torch.func.grad(loss)(x).square().sum())(x)
    torch.testing.assert_close(twice, torch.autograd.grad(first.square().sum(), x)[0], rtol=1e-3, atol=1e-3)


@kinds
def test_vmap(kind: Kind) -> None:
    """Samples are normalized one by one, with the bits that they have alone."""
    problem = small(kind)
    leaves = problem.leaves()

    def call(x: Tensor) -> Any:
        return problem.call({**leaves, "input": x})

    batch = torch.stack([leaves["input"], 2 * leaves["input"] + 1])
    for sample, result in zip(batch, torch.vmap(call)(batch), strict=True):
        assert_same_bits(result, call(sample))
    grads = torch.vmap(torch.func.grad(lambda x: call(x).pow(3).sum()))(batch)
    leaf = batch[1].clone().requires_grad_()
    call(leaf).pow(3).sum().backward()
    assert_same_bits(grads[1], leaf.grad)


@kinds
def test_functional_call_and_fx(kind: Kind) -> None:
    options = {"affine": True} if kind is INSTANCE else {}
    model, x = module_of(kind, **options), some_values((3, 4, 6, 5), torch.float32, 1)
    twice = {"weight": torch.full_like(model.weight, 2.0)}
    torch.testing.assert_close(torch.func.functional_call(model, twice, (x,)), 2 * model(x))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = model

        def forward(self, x: Tensor) -> Any:
            y, h = self.norm(x, x, return_sum=True)
            return self.norm(y) + h

    traced = torch.fx.symbolic_trace(Block())
    assert [node.op for node in traced.graph.nodes].count("call_module") == 2
    torch.testing.assert_close(traced(x), Block()(x))


@kinds
def test_fake_tensors_and_modes(kind: Kind) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode

    problem = small(kind, residual=True)
    with FakeTensorMode():
        y, total = problem.call({k: torch.empty(v.shape) for k, v in problem.leaves().items()})
        assert y.shape == total.shape == problem.shape
    seen = []

    class Log(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Log():
        found = problem.call(problem.leaves())
    assert any("fastopt.norm" in name for name in seen)
    for ours, expected in zip(found, problem.call(problem.leaves()), strict=True):
        assert_same_bits(ours, expected)
    assert kind.ours(torch.empty(3, 4, 5, device="meta"), *kind.argument((3, 4, 5), 2)).device.type == "meta"


class Tagged(Tensor):
    """A subclass that is kept by operations."""


@kinds
def test_subclass(kind: Kind) -> None:
    problem = small(kind)
    leaves = problem.leaves()
    y = problem.call({**leaves, "input": leaves["input"].as_subclass(Tagged)})
    assert type(y) is Tagged
    assert_same_bits(y.as_subclass(Tensor), problem.call(leaves))


@kinds
def test_overrides_get_every_argument(kind: Kind) -> None:
    got: dict[str, Any] = {}

    class Mine:
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> str:
            got.update(kwargs or {}, args=args, func=func)
            return "mine"

    options = {"eps": 1e-3, "activation": "relu", "negative_slope": 0.2, "return_sum": True}
    for where in ("input", "weight", "residual"):
        arguments: dict[str, Any] = {"input": torch.zeros(2, 4, 3), where: Mine()}
        argument = (
            {} if kind is INSTANCE else dict([("num_groups", 2) if kind is GROUP else ("normalized_shape", (3,))])
        )
        assert kind.ours(**arguments, **argument, **options) == "mine"
        assert got["func"] is kind.ours
        assert {key: got[key] for key in options} == options
        assert {key: got[key] for key in ("weight", "residual")} == {
            key: arguments.get(key) for key in ("weight", "residual")
        }


@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python boolean")  # by InstanceNorm, torch's as well
@kinds
def test_jit_trace(kind: Kind) -> None:
    model, x = module_of(kind).eval(), some_values((6, 4, 3, 5), torch.float32, 1)
    traced = torch.jit.trace(model, (x,))
    torch.testing.assert_close(traced(x + 1), model(x + 1))


@kinds
def test_autocast(kind: Kind) -> None:
    """As in torch, the result on the CPU has the type of the input."""
    model = module_of(kind)
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            assert model(some_values((6, 4, 3, 5), dtype, 1)).dtype == dtype


def test_autocast_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """There, torch's own norms widen halves, and leave float64 alone."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
    tensors = [some_values(3, dtype, 1) for dtype in (torch.float16, torch.float64, torch.bfloat16)]
    on_cuda = SimpleNamespace(is_cuda=True, dtype=torch.float16, float=lambda: tensors[0].float())
    found: Any = widened((on_cuda, None, *tensors))  # type: ignore[arg-type]
    kinds_of = [None if t is None else t.dtype for t in found]
    assert kinds_of == [torch.float32, None, torch.float32, torch.float64, torch.float32]
    assert widened((tensors[0], None)) == (tensors[0], None)


@kinds
def test_reference_backend(kind: Kind) -> None:
    """The NumPy fallback works in compiled programs."""
    with running("reference"):
        problem = small(kind, residual=True)
        found = problem.run(torch.compile(problem.call, fullgraph=True, backend="aot_eager"))
        for name, value in problem.run().items():
            assert_same_bits(found[name], value, name)


def test_compiled_running_statistics() -> None:
    x = some_values((3, 4, 5), torch.float32, 1)
    results = []
    for compile in (False, True):
        mean, var = torch.zeros(4), torch.ones(4)
        function = torch.compile(F.instance_norm, fullgraph=True, backend="aot_eager") if compile else F.instance_norm
        results.append((function(x, mean, var), mean, var))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)
