"""Batch normalization: kernels equal the NumPy reference to the bit, on every ISA, with any number of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastopt.nn.functional as F
from batch_norm_cases import ACTIVATIONS, COLUMNS, PLANES, Problem
from fastopt import _core, reference
from support import DTYPES, ISAS, Guarded, assert_same_bits, bits, running, some_values


def assert_same_everywhere(problem: Problem, isas: list[str] = ISAS, threads: tuple[int, ...] = (1, 2)) -> None:
    with running("reference"):
        expected = problem.run()
    for isa in isas:
        for count in threads:
            with running("native", isa=isa, threads=count):
                ours = problem.run()
            for name, value in expected.items():
                assert_same_bits(ours[name], value, f"{name} of {problem} on {isa}, {count} threads")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", COLUMNS + PLANES, ids=str)
def test_shapes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for channels_last in [False, True] if len(shape) > 3 else [False]:
        assert_same_everywhere(Problem(shape, dtype, channels_last, residual=True, activation="relu"))
        assert_same_everywhere(Problem(shape, dtype, channels_last))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("training", [False, True])
def test_activations(activation: str | None, residual: bool, training: bool) -> None:
    for dtype in DTYPES:
        for channels_last in (False, True):
            problem = Problem((5, 6, 7, 9), dtype, channels_last, residual, activation, training)
            assert_same_everywhere(problem, threads=(2,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_parameters(dtype: torch.dtype) -> None:
    """Running statistics and gradients are rounded only once."""

    class Half(Problem):
        def parameter(self, seed: int) -> torch.Tensor:
            return some_values(self.shape[1], dtype, seed)

    for shape in ((70, 40), (4, 40, 7, 7)):
        assert_same_everywhere(Half(shape, dtype, activation="relu"), threads=(2,))


def test_threads_share_few_channels() -> None:
    """With fewer channels than threads, work is cut at chunks, and the sums are the same."""
    for shape in ((2, 1, 300, 300), (3, 3, 210, 210)):
        assert_same_everywhere(Problem(shape, activation="relu", residual=True), threads=(1, 2, 3, 5))


def test_threads_share_many_rows() -> None:
    assert_same_everywhere(Problem((20_000, 24)), threads=(1, 2, 3))


def test_parts_are_joined_in_order() -> None:
    """Float64 shows the order of sums: chunks of long segments, of short ones (the last not full), and of rows."""
    for shape in ((3, 1, 300, 300), (4001, 2, 7, 7), (20_000, 24)):
        assert_same_everywhere(Problem(shape, torch.float64, activation="relu"), isas=ISAS[-1:], threads=(1, 2, 3))


def test_every_dense_order_of_dimensions() -> None:
    """Whatever lies inside the channels in memory counts as their inner part."""
    x = some_values((4, 6, 5, 9), torch.float32, 1) + 3
    for order in ((0, 1, 2, 3), (0, 2, 3, 1), (3, 1, 0, 2), (1, 0, 2, 3), (2, 0, 1, 3)):
        back = [order.index(d) for d in range(4)]
        stored = x.permute(order).contiguous().permute(back)
        assert torch.equal(stored, x)
        results = []
        for backend in ("native", "reference"):
            with running(backend):
                results.append(F.batch_norm(stored, None, None, training=True))
        assert results[0].stride() == stored.stride()
        assert_same_bits(*results, str(order))
        torch.testing.assert_close(results[0], torch.nn.functional.batch_norm(x, None, None, training=True))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 3, 1000, 1010), (6300, 1000), (600, 3, 57, 57), (460, 240, 7, 7)], ids=str)
def test_results_past_the_caches(shape: tuple[int, ...]) -> None:
    """Results are written past the caches from 8 MiB on backward and 20 MiB on forward, whole cache lines only."""
    assert_same_everywhere(Problem(shape), threads=(2,))
    assert_same_everywhere(Problem(shape, activation="relu", residual=True), ISAS[-1:], threads=(1,))


VALUES = [0.0, -0.0, 1.0, -2.5, 1e-30, -1e-42, 3e38, float("inf"), float("-inf"), float("nan")]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(VALUES), min_size=40, max_size=40),
    st.sampled_from(ACTIVATIONS),
    st.sampled_from([(2, 20), (5, 8), (2, 1, 20), (1, 2, 20), (4, 5, 2)]),
)
def test_special_values(values: list[float], activation: str | None, shape: tuple[int, ...]) -> None:
    x = torch.tensor(values).reshape(shape)
    results = []
    for backend in ("native", "reference"):
        with running(backend):
            leaf = x.clone().requires_grad_()
            y = F.batch_norm(leaf, None, None, training=True, activation=activation)
            y.backward(torch.arange(40.0).reshape(shape))
            results.append((y, leaf.grad))
    for ours, expected in zip(*results, strict=True):
        assert_same_bits(ours, expected)


def statistics_for(channels: int) -> torch.Tensor:
    return torch.stack([some_values(channels, torch.float64, 8), some_values(channels, torch.float64, 9).abs()])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("misalign", [0, 1, 3])
@pytest.mark.parametrize("shape", [(3, 4, 7, 7), (70, 5), (3, 2, 1030)], ids=str)
def test_nothing_is_written_outside(shape: tuple[int, ...], dtype: torch.dtype, misalign: int) -> None:
    problem = Problem(shape, dtype)
    size = torch.Size(shape).numel()
    channels = shape[1]
    parameter = problem.parameter(1).dtype
    results = {name: Guarded(size, dtype, misalign) for name in ("out", "grad_input", "grad_residual")}
    vectors = {name: Guarded(channels, parameter, misalign) for name in ("mean", "var", "grad_weight", "grad_bias")}
    pairs = Guarded(2 * channels, torch.float64, misalign)
    own = {name: guarded.inside.view(shape) for name, guarded in results.items()}
    of_channels = {name: guarded.inside for name, guarded in vectors.items()}
    of_channels["mean"].zero_()
    of_channels["var"].fill_(1)
    x, residual, grad = (problem.values(seed) for seed in (1, 2, 3))
    weight, bias = problem.parameter(4), problem.parameter(5)
    statistics = pairs.inside.view(2, channels)
    how = ("silu", 0.01, 2)
    running_statistics = (of_channels["mean"], of_channels["var"])
    parameters = (weight, bias)
    assert _core.batch_norm(
        own["out"], x, residual, *parameters, *running_statistics, statistics, True, 0.1, 1e-5, *how
    )
    gradients = (own["grad_input"], own["grad_residual"], of_channels["grad_weight"], of_channels["grad_bias"])
    assert _core.batch_norm_backward(*gradients, grad, x, residual, *parameters, statistics, True, *how)
    assert all((tensor != 777).all() for tensor in (*own.values(), *of_channels.values(), statistics))
    for guarded in (*results.values(), *vectors.values(), pairs):
        guarded.check()


@pytest.mark.parametrize("shape", [(6, 5, 28, 28), (900, 40), (70, 24, 15)], ids=str)
def test_parts_between_processes(shape: tuple[int, ...]) -> None:
    """The parts that SyncBatchNorm consists of give the bits of the reference, and of a whole call."""
    channels = shape[1]
    problem = Problem(shape)
    x, grad, residual = (problem.values(seed) for seed in (1, 2, 3))
    weight, bias = problem.parameter(4), problem.parameter(5)
    count = x.numel() // channels
    how = ("relu", 0.0, 2)

    def parts(kernels: Any) -> list[torch.Tensor]:
        moments, sums, statistics = (torch.empty(n, channels, dtype=torch.float64) for n in (2, 2, 3))
        mean, var = torch.zeros(channels), torch.ones(channels)
        out, grad_input, grad_residual = (torch.empty_like(x) for _ in range(3))
        operands = (x, residual, weight, bias, statistics)
        assert kernels.batch_norm_moments(moments, x, 2)
        gathered = torch.cat([moments.flatten(), torch.tensor([count], dtype=torch.float64)])[None]
        assert kernels.batch_norm_gather_stats(statistics, gathered, mean, var, 0.1, 1e-5)
        assert kernels.batch_norm_apply(out, *operands, *how)
        assert kernels.batch_norm_sums(sums, grad, *operands, *how)
        assert kernels.batch_norm_gradient(grad_input, grad_residual, grad, *operands, sums, *how)
        return [out, mean, var, statistics[:2], grad_input, grad_residual, moments, sums]

    def whole(kernels: Any) -> list[torch.Tensor]:
        statistics = torch.empty(2, channels, dtype=torch.float64)
        mean, var = torch.zeros(channels), torch.ones(channels)
        out, grad_input, grad_residual = (torch.empty_like(x) for _ in range(3))
        assert kernels.batch_norm(out, x, residual, weight, bias, mean, var, statistics, True, 0.1, 1e-5, *how)
        gradients = (grad_input, grad_residual, None, None)
        assert kernels.batch_norm_backward(*gradients, grad, x, residual, weight, bias, statistics, True, *how)
        return [out, mean, var, statistics, grad_input, grad_residual]

    ours, expected, at_once = parts(_core), parts(reference), whole(_core)
    for k, (a, b) in enumerate(zip(ours, expected, strict=True)):
        assert_same_bits(a, b, str(k))
    for k, (a, b) in enumerate(zip(ours, at_once, strict=False)):
        assert_same_bits(a, b, str(k))


def test_sums_do_not_depend_on_what_is_asked_for() -> None:
    problem = Problem((6, 5, 28, 28))
    x, grad, weight, bias = problem.values(1), problem.values(2), problem.parameter(3), problem.parameter(4)

    def gradients(*wanted: str) -> dict[str, np.ndarray[Any, Any]]:
        leaves = {"x": x.clone(), "weight": weight.clone(), "bias": bias.clone()}
        for name in wanted:
            leaves[name].requires_grad_()
        y = F.batch_norm(leaves["x"], None, None, leaves["weight"], leaves["bias"], True, activation="silu")
        found = torch.autograd.grad(y, [leaves[name] for name in wanted], grad)
        return {name: bits(g) for name, g in zip(wanted, found, strict=True)}

    everything = gradients("x", "weight", "bias")
    for wanted in (("x",), ("weight",), ("bias",), ("x", "bias")):
        for name, found in gradients(*wanted).items():
            assert np.array_equal(found, everything[name]), name
