"""Compiled models with our modules have eager mode's results, in one graph."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import fastopt
import fastopt.nn as fnn
from support import TORCH, assert_same_bits, some_values

# Inductor and the exporter raise these warnings about themselves.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:.*torch.jit:DeprecationWarning",
        "ignore::FutureWarning",
        "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
        "ignore:At pre-dispatch tracing:UserWarning",
        "ignore:.*isinstance.*LeafSpec:DeprecationWarning",
    ),
    pytest.mark.skipif(TORCH < (2, 6), reason="torch's compiler did not know functional_call on modules"),
]


class Net(nn.Module):
    """All of our modules for networks: converted, fused, with addition; dropout of channels, weights and elements."""

    def __init__(self) -> None:
        super().__init__()
        plain = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2))
        self.stem = fnn.convert(plain)
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.norm = fnn.BatchNorm2d(6, activation="silu")
        self.drop = fnn.Dropout2d(0.2)
        self.flat = nn.Sequential(nn.Flatten(), fnn.DropConnect(nn.Linear(96, 8), 0.3), fnn.BatchNorm1d(8))
        self.head = nn.Sequential(fnn.AlphaDropout(0.1), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.drop(self.norm(self.conv(x), x))
        return self.head(self.flat(x))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def images(batch: int) -> Tensor:
    return some_values((batch, 3, 4, 4), torch.float32, batch)


class Results(NamedTuple):
    """The results of a training step with a given seed, and of an evaluation after it."""

    outputs: list[Tensor]  # and running statistics
    gradients: list[Tensor]


def results(model: nn.Module, batch: int) -> Results:
    torch.manual_seed(batch)
    x = images(batch).requires_grad_()
    y = model.train()(x)
    gradients = torch.autograd.grad(y.square().sum(), [x, *model.parameters()])
    with torch.no_grad():
        return Results([y, model.eval()(x), *(b.double() for b in model.buffers())], [*gradients])


def assert_same(ours: Results, eager: Results, exactly: bool = True) -> None:
    for found, expected in zip(ours.outputs, eager.outputs, strict=True):
        if exactly:
            assert_same_bits(found, expected)
        else:
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for found, expected in zip(ours.gradients, eager.gradients, strict=True):
        if exactly:
            assert_same_bits(found, expected)
        else:
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


class Compiled(NamedTuple):
    model: Any
    eager: Net
    graphs: Callable[[], int]


def compiled(backend: str, **options: Any) -> Compiled:
    """The compiled model, its eager twin, and a count of the graphs since then."""
    counters = torch._dynamo.utils.counters["stats"]
    before = counters["unique_graphs"]
    model = net()
    twin = copy.deepcopy(model)
    own = torch.compile(model, fullgraph=True, backend=backend, **options)
    return Compiled(own, twin, lambda: counters["unique_graphs"] - before)


@pytest.fixture(scope="module", params=["aot_eager", "inductor"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def pair(backend: str) -> Iterator[Compiled]:
    torch._dynamo.reset()
    yield compiled(backend)
    torch._dynamo.reset()


@pytest.mark.parametrize("batch", [5, 3, 8])
def test_model(pair: Compiled, backend: str, batch: int) -> None:
    """At any batch size, results are equal to the bit, except for inductor's own batch norms, convolutions and sums."""
    assert_same(results(pair.model, batch), results(pair.eager, batch), exactly=backend == "aot_eager")
    assert pair.graphs() <= 4  # in training and in evaluation: one for the first size, one for any


def test_model_of_any_batch_size() -> None:
    torch._dynamo.reset()
    pair = compiled("aot_eager", dynamic=True)
    for batch in (5, 3, 8):
        assert_same(results(pair.model, batch), results(pair.eager, batch))
        assert pair.graphs() == 2


def test_compiled_in_place() -> None:
    torch._dynamo.reset()
    model = net()
    model.compile(fullgraph=True, backend="aot_eager")
    assert_same(results(model, 5), results(net(), 5))


def test_converted_after_it_was_compiled() -> None:
    """Its modules are examined again."""
    torch._dynamo.reset()
    model = torch.compile(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU()), backend="aot_eager")
    x = some_values((5, 4), torch.float32, 1)
    model(x)
    fnn.convert(model)
    twin = copy.deepcopy(model._orig_mod)
    assert isinstance(twin[1], fnn.BatchNorm1d)
    assert_same_bits(model(x), twin(x))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_a_compiled_model(copied: Callable[[Any], Any]) -> None:
    """Copies have separate parameters, compile separately, and can load each other's state."""
    torch._dynamo.reset()
    pair = compiled("aot_eager")
    results(pair.model, 3)
    other = copied(pair.model)
    assert type(other) is type(pair.model)
    pair.eager.load_state_dict(other._orig_mod.state_dict())
    before = copy.deepcopy(pair.model.state_dict())
    assert_same(results(other, 5), results(pair.eager, 5))
    for key, value in pair.model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_exported(training: bool, strict: bool) -> None:
    """An exported model works for any batch size, and from a file."""
    model = net().train(training)
    sizes = {"x": {0: torch.export.Dim("batch", min=2)}}
    exported = torch.export.export(model, (images(5),), dynamic_shapes=sizes, strict=strict)
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    for program in (exported.module(), torch.export.load(file).module()):
        twin = net().train(training)
        for batch in (5, 7):
            torch.manual_seed(batch)
            y = program(images(batch))
            torch.manual_seed(batch)
            expected = twin(images(batch))
            assert_same_bits(y, expected) if training else torch.testing.assert_close(
                y, expected
            )  # in evaluation torch's operators


def test_reduce_overhead() -> None:
    """This mode is for GPUs; on the CPU it equals the default."""
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(8, 4), fnn.BatchNorm1d(4, activation="relu"), fnn.Dropout(0.5))
    twin = copy.deepcopy(model)
    own = torch.compile(model, fullgraph=True, mode="reduce-overhead")
    x = some_values((6, 8), torch.float32, 1)
    for seed in range(3):
        found = []
        for one in (own, twin):
            torch.manual_seed(seed)
            y = one(x)
            found.append([y, *torch.autograd.grad(y.square().sum(), list(one.parameters()))])
        torch.testing.assert_close(*found)
        assert torch.equal(found[0][0] == 0, found[1][0] == 0)


def test_compiled_backward() -> None:
    """With compiled autograd, the backward pass is a graph by itself."""
    torch._dynamo.reset()
    own, twin = net(), net()
    optimizers = [fastopt.AdamW(model.parameters(), lr=0.01) for model in (own, twin)]

    def train_once(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> Tensor:
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    captures = torch._dynamo.utils.counters["compiled_autograd"]
    captures.clear()
    with torch._dynamo.config.patch(compiled_autograd=True):
        function = torch.compile(train_once, backend="aot_eager")
        for seed in range(3):
            torch.manual_seed(seed)
            loss = function(own, optimizers[0], images(5))
            torch.manual_seed(seed)
            assert_same_bits(loss, train_once(twin, optimizers[1], images(5)))
    assert captures["captures"] == 1
    for ours, eager in zip(own.parameters(), twin.parameters(), strict=True):
        assert_same_bits(ours, eager)
