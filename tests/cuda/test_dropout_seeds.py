"""The source of CUDA tensors' masks: a number from the CPU's generator, or one that only the device knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import fastopt.nn.functional as F
from dropout_cases import FAMILY, Family
from fastopt import _runtime, nn
from fastopt.nn._dropout import mask
from fastopt.nn._dropout.call import Call
from gpu import DEVICE, REAL, gpu
from support import assert_same_bits, some_values

EVERY_FAMILY = pytest.mark.parametrize("family", FAMILY, ids=str)
ON_A_GPU = pytest.mark.skipif(not REAL, reason="needs a GPU")


def on_device(family: Family) -> list[Tensor]:
    return [x.to(DEVICE) for x in family.inputs(torch.float32)]


@EVERY_FAMILY
def test_the_cpus_generator_governs(family: Family) -> None:
    """With the same generator, CUDA tensors get the masks of CPU tensors."""
    inputs = family.inputs(torch.float32)
    torch.manual_seed(1)
    expected = [family(*inputs, seed=None) for _ in range(2)]
    own = family(*inputs, seed=None, generator=torch.Generator().manual_seed(7))
    torch.manual_seed(1)
    with gpu():
        ours = [family(*on_device(family), seed=None) for _ in range(2)]
        assert_same_bits(family(*on_device(family), seed=None, generator=torch.Generator().manual_seed(7)).cpu(), own)
    for one, other in zip(ours, expected, strict=True):
        assert_same_bits(one.cpu(), other)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Call]]:
    """Pretends that a graph is being captured; yields the calls made meanwhile."""
    calls: list[Call] = []

    class Noted(Call):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)  # type: ignore[arg-type]
            calls.append(self)

    monkeypatch.setattr(_runtime, "capturing", lambda: True)
    monkeypatch.setattr("fastopt.nn._dropout.dispatch.Call", Noted)
    with gpu():
        yield calls


@EVERY_FAMILY
def test_a_graph_draws_on_the_device(family: Family, captured: list[Call]) -> None:
    """Each call draws its own seed, and the backward pass has the mask of its forward pass."""
    leaves = [x.requires_grad_() for x in on_device(family)]
    for _ in range(2):
        y = family(*leaves, seed=None)
        seed = captured[-1].seed
        assert isinstance(seed, Tensor)
        assert (seed.dtype, seed.shape, seed.device) == (torch.int64, (), leaves[0].device)
        known = family(*leaves, seed=int(seed))
        assert_same_bits(y.cpu(), known.cpu())
        direction = some_values(y.shape, y.dtype, 9).to(DEVICE)
        grads, expected = (torch.autograd.grad(result, leaves, direction) for result in (y, known))
        for ours, theirs in zip(grads, expected, strict=True):
            assert_same_bits(ours.cpu(), theirs.cpu())
    drawn = [call.seed for call in captured if isinstance(call.seed, Tensor)]
    assert len(drawn) == 2
    assert drawn[0] != drawn[1]


def test_double_backward_in_a_graph(captured: list[Call]) -> None:
    x = torch.ones(100, device=DEVICE, requires_grad=True)
    y = F.dropout(x, 0.5)
    (grad,) = torch.autograd.grad(y.pow(2).sum(), x, create_graph=True)
    (again,) = torch.autograd.grad(grad.sum(), x)
    assert_same_bits(again.cpu(), (8 * (y != 0)).float().cpu())
    assert isinstance(captured[0].seed, Tensor)


def test_what_is_given_is_taken_in_a_graph(captured: list[Call]) -> None:
    x = torch.ones(100, device=DEVICE)
    F.dropout(x, 0.5, seed=3)
    assert captured[-1].seed == 3
    F.dropout(x, 1.0)
    assert captured[-1].seed == 0
    with pytest.raises(RuntimeError, match="a CUDA graph would repeat what a generator of the CPU draws now"):
        F.dropout(x, 0.5, generator=torch.Generator())


def test_a_graph_of_a_module(captured: list[Call]) -> None:
    x = torch.ones(4, 8, device=DEVICE)
    torch.nn.Sequential(nn.Dropout(0.5), nn.AlphaDropout(0.2), nn.Dropout1d(0.1))(x)
    assert len(captured) == 3
    assert all(isinstance(call.seed, Tensor) for call in captured)


def test_refused_seeds() -> None:
    """A seed that is a tensor is for CUDA; the CPU's kernels take numbers."""
    x = torch.ones(8)
    with pytest.raises(TypeError, match="a seed that is a tensor has to be on the CUDA device of the input"):
        Call("dropout", 0.5, 1, torch.tensor(3), 0).run(x)


def replays(graph: torch.cuda.CUDAGraph, result: Tensor, count: int) -> list[Tensor]:
    found = []
    for _ in range(count):
        graph.replay()
        found.append(result.clone())
    return found


def capture(run: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """Captures after a warm-up on another stream."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph, result


@ON_A_GPU
@EVERY_FAMILY
def test_replays_draw_anew(family: Family) -> None:
    inputs = [x.repeat(20, *[1] * (x.dim() - 1)) if x.dim() > 1 else x for x in on_device(family)]
    found = replays(*capture(lambda: family(*inputs, seed=None)), 4)
    for i, one in enumerate(found):
        assert not any(torch.equal(one, other) for other in found[:i])


@ON_A_GPU
def test_replays_have_the_bits_of_their_seeds() -> None:
    x = torch.ones(5000, device=DEVICE)
    seeds: list[Tensor] = []

    def run() -> Tensor:
        seeds.append(mask.draw_seed_on(x.device))
        return Call("dropout", 0.5, 1, seeds[-1], 0).run(x)

    graph, result = capture(run)
    for _ in range(3):
        graph.replay()
        assert_same_bits(result, F.dropout(x, 0.5, seed=int(seeds[-1])))


@ON_A_GPU
def test_the_devices_generator_governs_replays() -> None:
    x = torch.ones(5000, device=DEVICE)
    graph, result = capture(lambda: F.dropout(x, 0.5))
    torch.cuda.manual_seed(3)
    first = replays(graph, result, 3)
    torch.cuda.manual_seed(3)
    for one, other in zip(replays(graph, result, 3), first, strict=True):
        assert_same_bits(one.cpu(), other.cpu())


@ON_A_GPU
def test_a_seed_is_frozen_where_it_is_given() -> None:
    x = torch.ones(5000, device=DEVICE)
    for replay in replays(*capture(lambda: F.dropout(x, 0.5, seed=4)), 2):
        assert_same_bits(replay.cpu(), F.dropout(x.cpu(), 0.5, seed=4))


@ON_A_GPU
def test_a_captured_training_step() -> None:
    """Forward and backward pass are in one graph: each replay has another mask, and both passes share it."""
    x = torch.ones(3000, device=DEVICE, requires_grad=True)

    def step() -> Tensor:
        y = F.dropout(x * 2, 0.5)
        (grad,) = torch.autograd.grad(y.sum(), x)
        return torch.stack([y.detach(), grad])

    found = replays(*capture(step), 3)
    for y, grad in found:
        assert torch.equal(y != 0, grad != 0)
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


@ON_A_GPU
@pytest.mark.filterwarnings("ignore:.*AccumulateGrad.*:UserWarning")
def test_graphed_callables() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), nn.Dropout(0.5), torch.nn.Linear(64, 64)).to(DEVICE)
    x = torch.ones(32, 64, device=DEVICE, requires_grad=True)
    graphed = torch.cuda.make_graphed_callables(model, (x,))
    first = graphed(x).clone()
    second = graphed(x).clone()
    assert not torch.equal(first, second)
    graphed(x).sum().backward()
    assert x.grad is not None


@ON_A_GPU
def test_a_registered_generator() -> None:
    x = torch.ones(5000, device=DEVICE)
    own = torch.Generator(DEVICE).manual_seed(5)
    warm = F.dropout(x, 0.5, generator=own)
    assert_same_bits(F.dropout(x, 0.5, generator=torch.Generator(DEVICE).manual_seed(5)).cpu(), warm.cpu())
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(own)
    with torch.cuda.graph(graph):
        y = F.dropout(x, 0.5, generator=own)
    first, second = replays(graph, y, 2)
    assert not torch.equal(first, second)


@ON_A_GPU
def test_refused_generators() -> None:
    with pytest.raises(RuntimeError, match="Expected a 'cpu' device type for generator but found 'cuda'"):
        F.dropout(torch.ones(5), 0.5, generator=torch.Generator(DEVICE))
