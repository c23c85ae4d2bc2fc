"""Batch normalization on a device equals the NumPy reference to the bit: shapes, layouts, types, activations."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

import fastopt.nn.functional as F
from batch_norm_cases import ACTIVATIONS, COLUMNS, PLANES, Problem
from fastopt import _runtime, nn
from gpu import BACKEND, DEVICE, REAL, emulator, gpu
from support import DTYPES, HALF, Guarded, assert_same_bits, running, some_values


def assert_same(problem: Problem) -> None:
    with running("reference"):
        expected = problem.run()
    with gpu():
        ours = problem.run(DEVICE)
        for name, value in expected.items():
            assert ours[name].stride() == value.stride()
            assert_same_bits(ours[name].cpu(), value, f"{name} of {problem}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", COLUMNS + PLANES, ids=str)
def test_shapes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for channels_last in [False, True] if len(shape) > 3 else [False]:
        assert_same(Problem(shape, dtype, channels_last, residual=True, activation="relu"))
        assert_same(Problem(shape, dtype, channels_last))


@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_activations(activation: str | None, residual: bool, training: bool) -> None:
    for dtype in DTYPES:
        for channels_last in (False, True):
            assert_same(Problem((5, 6, 7, 9), dtype, channels_last, residual, activation, training))


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_parameters(dtype: torch.dtype) -> None:
    class Half(Problem):
        def parameter(self, seed: int) -> torch.Tensor:
            return some_values(self.shape[1], dtype, seed)

    for shape in ((70, 40), (4, 40, 7, 7)):
        assert_same(Half(shape, dtype, activation="relu"))


@pytest.mark.parametrize("shape", [(3, 1, 300, 300), (4001, 2, 7, 7), (20_000, 24), (70_000, 3)], ids=str)
def test_several_chunks(shape: tuple[int, ...], order: str) -> None:
    """Float64 shows the order of chunks: of long segments, of short ones (the last not full), and of rows."""
    assert_same(Problem(shape, torch.float64, activation="relu", residual=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(700, 3, 17), (90, 5, 32), (2, 3, 40, 40), (2, 2, 65, 64)], ids=str)
def test_places_in_planes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """A block of elements with many channels; vectors of one or two channels; sums of whole vectors."""
    assert_same(Problem(shape, dtype, residual=True, activation="relu"))
    assert_same(Problem(shape, dtype))


def test_every_dense_order_of_dimensions() -> None:
    x = some_values((4, 6, 5, 9), torch.float32, 1) + 3
    for dims in ((0, 1, 2, 3), (0, 2, 3, 1), (3, 1, 0, 2), (1, 0, 2, 3), (2, 0, 1, 3)):
        stored = x.permute(dims).contiguous().permute([dims.index(d) for d in range(4)])
        with running("reference"):
            expected = F.batch_norm(stored, None, None, training=True)
        with gpu():
            ours = F.batch_norm(stored.to(DEVICE), None, None, training=True)
        assert ours.stride() == expected.stride()
        assert_same_bits(ours.cpu(), expected, str(dims))


SPECIAL = [0.0, -0.0, 1.0, -2.5, 1e-30, -1e-42, 3e38, float("inf"), float("-inf"), float("nan")]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(2, 20), (5, 8), (2, 1, 20), (1, 2, 20), (4, 5, 2)], ids=str)
def test_special_values(shape: tuple[int, ...], activation: str | None) -> None:
    for seed in range(10):
        chosen = torch.randint(len(SPECIAL), shape, generator=torch.Generator().manual_seed(seed))
        x = torch.tensor(SPECIAL)[chosen]
        results = []
        for backend, device in (("reference", "cpu"), (BACKEND, DEVICE)):
            with running(backend):
                leaf = x.to(device, copy=True).requires_grad_()
                y = F.batch_norm(leaf, None, None, training=True, activation=activation)
                y.backward(torch.arange(40.0, device=device).reshape(shape))
                results.append((y.cpu(), leaf.grad.cpu()))
        for ours, expected in zip(*results, strict=True):
            assert_same_bits(ours, expected)


@pytest.mark.parametrize("shape", [(6, 3, 20, 20), (3000, 5)], ids=str)
def test_means_and_constants(shape: tuple[int, ...]) -> None:
    """Constant channels, and noise around a mean at which float32 has hardly any digits left."""

    class Shifted(Problem):
        def values(self, seed: int, shift: float = 0.0) -> torch.Tensor:
            values = super().values(seed, 1e6 if shift else 0.0)
            values[:, 1] = 1e6 if shift else 1.0
            return values

    for dtype in (torch.float32, torch.float64):
        assert_same(Shifted(shape, dtype))


def test_what_is_wanted() -> None:
    """Whichever gradients are asked for have the bits that they have when all are."""
    problem = Problem((6, 5, 28, 28), torch.float32, activation="silu", residual=True)
    with running("reference"):
        expected = problem.run()
    names = ["input", "weight", "bias", "residual"]
    values = {"input": problem.values(1, 3.0), "weight": problem.parameter(2), "bias": problem.parameter(3)}
    values["residual"] = problem.values(4)
    for chosen in range(1, 16):
        wanted = [name for k, name in enumerate(names) if chosen >> k & 1]
        leaves = {name: value.to(DEVICE, copy=True).requires_grad_(name in wanted) for name, value in values.items()}
        with gpu():
            x, weight, bias, residual = (leaves[name] for name in names)
            y = F.batch_norm(x, None, None, weight, bias, True, activation="silu", residual=residual)
            found = torch.autograd.grad(y, [leaves[name] for name in wanted], problem.values(7).to(DEVICE))
        for name, grad in zip(wanted, found, strict=True):
            assert_same_bits(grad.cpu(), expected[f"gradient of {name}"], f"{name} of {wanted}")


@pytest.mark.parametrize("momentum", [None, 0.3])
def test_modules(momentum: float | None) -> None:
    """Two steps in training and one in evaluation."""
    results = []
    for backend, device in (("reference", "cpu"), (BACKEND, DEVICE)):
        with running(backend):
            module = nn.BatchNorm2d(6, momentum=momentum, activation="gelu", device=device)
            outs = [module(some_values((4, 6, 9, 9), torch.float32, seed).to(device)) for seed in (1, 2)]
            outs.append(module.eval()(some_values((4, 6, 9, 9), torch.float32, 3).to(device)))
            kept = (module.running_mean, module.running_var)
            results.append([tensor.detach().cpu() for tensor in (*outs, *kept)])
    for expected, ours in zip(*results, strict=True):
        assert_same_bits(ours, expected)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4, 4), (2, 3, 0)], ids=str)
def test_empty_batches(shape: tuple[int, ...], training: bool) -> None:
    assert_same(Problem(shape, activation="relu", training=training))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("misalign", [0, 1, 3])
@pytest.mark.parametrize("shape", [(3, 4, 7, 7), (70, 5), (3, 2, 1030), (1, 2)], ids=str)
def test_nothing_is_written_outside(shape: tuple[int, ...], dtype: torch.dtype, misalign: int) -> None:
    """Nothing is written outside, and results are right, however the operands are aligned."""
    problem, size, channels = Problem(shape, dtype), torch.Size(shape).numel(), shape[1]
    parameter = problem.parameter(1).dtype

    def run(kernels: Any, device: torch.device | str, offset: int) -> tuple[list[Guarded], list[torch.Tensor]]:
        def misaligned(values: torch.Tensor) -> torch.Tensor:
            guarded = Guarded(values.numel(), values.dtype, offset, device)
            return guarded.inside.copy_(values.flatten()).view(values.shape)

        elements = [Guarded(size, dtype, offset, device) for _ in range(3)]
        vectors = [Guarded(channels, parameter, offset, device) for _ in range(4)]
        pairs = Guarded(2 * channels, torch.float64, offset, device)
        out, grad_input, grad_residual = (guarded.inside.view(shape) for guarded in elements)
        mean, var, grad_weight, grad_bias = (guarded.inside for guarded in vectors)
        mean.zero_()
        var.fill_(1)
        statistics = pairs.inside.view(2, channels)
        x, residual, grad = (misaligned(problem.values(seed)) for seed in (1, 2, 3))
        weight, bias = misaligned(problem.parameter(4)), misaligned(problem.parameter(5))
        how = ("silu", 0.01, 2)
        assert kernels.batch_norm(out, x, residual, weight, bias, mean, var, statistics, True, 0.1, 1e-5, *how)
        gradients = (grad_input, grad_residual, grad_weight, grad_bias)
        assert kernels.batch_norm_backward(*gradients, grad, x, residual, weight, bias, statistics, True, *how)
        return [*elements, *vectors, pairs], [out, mean, var, statistics, *gradients]

    _, expected = run(_runtime.BACKENDS["reference"], "cpu", 0)
    with gpu():
        guards, ours = run(_runtime.kernels, DEVICE, misalign)
    for a, b in zip(ours, expected, strict=True):
        assert_same_bits(a.cpu(), b)
    for guard in guards:
        guard.check()


@pytest.mark.parametrize("shape", [(6, 5, 28, 28), (900, 40), (70, 24, 15)], ids=str)
def test_parts_between_processes(shape: tuple[int, ...]) -> None:
    """The parts that SyncBatchNorm consists of: four processes, one without elements; counts are on the device."""
    channels, problem = shape[1], Problem(shape)
    how = ("relu", 0.0, 2)
    parts = [0, shape[0] // 3, shape[0] // 3, shape[0] // 2, shape[0]]

    def run(kernels: Any, device: torch.device | str) -> list[torch.Tensor]:
        x, grad, residual = (problem.values(seed).to(device) for seed in (1, 2, 3))
        weight, bias = problem.parameter(4).to(device), problem.parameter(5).to(device)
        mean, var = torch.zeros(channels, device=device), torch.ones(channels, device=device)
        gathered = torch.empty(4, 2 * channels + 1, dtype=torch.float64, device=device)
        shares = [slice(begin, end) for begin, end in pairwise(parts)]
        for own, share in zip(gathered, shares, strict=True):
            own[-1].fill_(x[share].numel() // channels)
            assert kernels.batch_norm_moments(own[:-1].view(2, -1), x[share], 2)
        statistics = torch.empty(3, channels, dtype=torch.float64, device=device)
        assert kernels.batch_norm_gather_stats(statistics, gathered, mean, var, 0.1, 1e-5)
        sums = torch.empty(4, 2, channels, dtype=torch.float64, device=device)
        out, grad_input, grad_residual = (torch.empty_like(x) for _ in range(3))
        operands = [(x[s], residual[s], weight, bias, statistics) for s in shares]
        for share, own, of_share in zip(shares, sums, operands, strict=True):
            assert kernels.batch_norm_apply(out[share], *of_share, *how)
            assert kernels.batch_norm_sums(own, grad[share], *of_share, *how)
        total = sums[0] + sums[1] + sums[2] + sums[3]
        for share, of_share in zip(shares, operands, strict=True):
            results = (grad_input[share], grad_residual[share])
            assert kernels.batch_norm_gradient(*results, grad[share], *of_share, total, *how)
        return [gathered, statistics, mean, var, out, sums, grad_input, grad_residual]

    expected = run(_runtime.BACKENDS["reference"], "cpu")
    native = run(_runtime.BACKENDS["native"], "cpu")
    with gpu():
        ours = [tensor.cpu() for tensor in run(_runtime.kernels, DEVICE)]
    for k, (a, b, c) in enumerate(zip(ours, native, expected, strict=True)):
        assert_same_bits(a, c, str(k))
        assert_same_bits(b, c, str(k))


def test_empty_batches_in_all_processes() -> None:
    """If all processes have empty batches, the running statistics stay."""
    mean, var = torch.zeros(3, device=DEVICE), torch.ones(3, device=DEVICE)
    gathered = torch.zeros(2, 7, dtype=torch.float64, device=DEVICE)
    statistics = torch.full((3, 3), 7.0, dtype=torch.float64, device=DEVICE)
    with gpu():
        assert _runtime.kernels.batch_norm_gather_stats(statistics, gathered, mean, var, 0.1, 1e-5)
    assert (statistics == 0).all()
    assert (mean == 0).all()
    assert (var == 1).all()


def test_refused() -> None:
    x = some_values((4, 3), torch.float32, 1).to(DEVICE)
    with gpu():
        with pytest.raises(RuntimeError, match="weight should contain 3 elements not 4"):
            F.batch_norm(x, None, None, torch.ones(4, device=DEVICE), training=True)
        with pytest.raises(RuntimeError, match="Expected running_mean and running_var"):
            F.batch_norm(x, None, None)


@pytest.mark.skipif(not REAL, reason="needs a GPU")
def test_operands_on_two_devices() -> None:
    x = some_values((4, 3), torch.float32, 1).to(DEVICE)
    with pytest.raises(RuntimeError, match="batch_norm: weight is on cpu, input on cuda:0"):
        F.batch_norm(x, None, None, torch.ones(3), training=True)
    with pytest.raises(RuntimeError, match="residual has to have the device of input"):
        F.batch_norm(x, None, None, training=True, residual=torch.ones(4, 3))
    with running("reference"), pytest.raises(RuntimeError, match="computes on the CPU"):
        F.batch_norm(x, None, None, training=True)


@pytest.mark.skipif(not REAL, reason="needs a GPU")
@pytest.mark.parametrize("shape", [(64, 64, 56, 56), (100_000, 64)], ids=str)
def test_captured_in_a_graph(shape: tuple[int, ...]) -> None:
    x = some_values(shape, torch.float32, 1).to(DEVICE)
    module = nn.BatchNorm2d(64, activation="relu", device=DEVICE) if len(shape) == 4 else nn.BatchNorm1d(64).to(DEVICE)
    expected = module(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = module(x)
    graph.replay()
    torch.cuda.synchronize()
    assert_same_bits(captured.cpu(), expected.cpu())


@pytest.mark.skipif(emulator is None, reason="a GPU does not count its launches")
@pytest.mark.parametrize("channels_last", [False, True])
def test_launches(channels_last: bool) -> None:
    """Three launches forward, three backward, and two each in evaluation."""
    problem = Problem((4, 6, 20, 20), torch.float32, channels_last)
    x = problem.values(1).requires_grad_()
    for training, forward, backward in ((True, 3, 3), (False, 2, 2)):
        weight = problem.parameter(2).requires_grad_(training)
        mean, var = torch.zeros(6), torch.ones(6)
        with gpu():
            emulator.clear_launches()
            y = F.batch_norm(x, mean, var, weight, None, training, activation="relu")
            assert len(emulator.launches()) == forward
            emulator.clear_launches()
            y.sum().backward()
            assert len(emulator.launches()) == backward


@pytest.mark.skipif(emulator is None, reason="a GPU fails when it likes")
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_failed_launch_is_an_error(after: int) -> None:
    x = some_values((4, 3, 5, 5), torch.float32, 1)
    names = ["moments", "join of chunks", "normalization"]
    with gpu():
        emulator.fail_launch(719, after=after)
        with pytest.raises(RuntimeError, match=f"fastopt's {names[after]}: cudaErrorLaunchFailure"):
            F.batch_norm(x, None, None, training=True)
        F.batch_norm(x, None, None, training=True)


@pytest.mark.skipif(emulator is None, reason="a GPU is not broken for a test")
@pytest.mark.parametrize("shape", [(40, 3, 56, 56), (2000, 32)], ids=str)
def test_the_barriers_are_needed(shape: tuple[int, ...]) -> None:
    """Without barriers, sums are joined before all warps have written theirs."""
    x = some_values(shape, torch.float32, 1)
    with gpu():
        expected = F.batch_norm(x, None, None, training=True)
        emulator.skip_barriers(of_block=True)
        assert not torch.equal(F.batch_norm(x, None, None, training=True), expected)
