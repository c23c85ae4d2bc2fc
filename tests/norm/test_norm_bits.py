"""The norms of single samples: kernels equal the NumPy reference to the bit, on every ISA, with any number of
threads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_norm_cases import ACTIVATIONS
from fastopt import _core
from norm_cases import GROUP, KINDS, LAYER, RMS, Kind, Problem, problems, small
from support import DTYPES, HALF, ISAS, Guarded, assert_same_bits, running, some_values

kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def assert_same_everywhere(problem: Problem, isas: list[str] = ISAS, threads: tuple[int, ...] = (1, 2)) -> None:
    with running("reference"):
        expected = problem.run()
    for isa in isas:
        for count in threads:
            with running("native", isa=isa, threads=count):
                ours = problem.run()
            for name, value in expected.items():
                assert_same_bits(ours[name], value, f"{name} of {problem} on {isa}, {count} threads")


@pytest.mark.parametrize("problem", problems([RMS, LAYER, GROUP]), ids=lambda p: f"{p.kind.name}-{p.shape}-{p.groups}")
def test_shapes(problem: Problem) -> None:
    assert_same_everywhere(replace(problem, residual=True, activation="relu"))
    for dtype in (torch.float64, *HALF):
        assert_same_everywhere(replace(problem, dtype=dtype), isas=ISAS[-1:], threads=(2,))


@kinds
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_activations(kind: Kind, dtype: torch.dtype) -> None:
    for activation in ACTIVATIONS:
        for channels_last in (False, True):
            problem = small(kind, dtype=dtype, channels_last=channels_last, activation=activation, residual=True)
            assert_same_everywhere(problem, threads=(2,))
    assert_same_everywhere(small(kind, dtype=dtype, affine=False))
    assert_same_everywhere(small(kind, dtype=dtype, half_parameters=True))


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_rounding_before_the_weight(dtype: torch.dtype) -> None:
    for residual in (False, True):
        options: dict[str, Any] = {"round_before_weight": True}
        assert_same_everywhere(small(RMS, dtype=dtype, residual=residual, options=options), threads=(2,))


@pytest.mark.slow
def test_results_past_the_caches() -> None:
    """Results are written past the caches from 8 MiB on backward and 20 MiB on forward, whole cache lines only."""
    for kind, shape in ((LAYER, (2100, 2503)), (RMS, (2100, 2503)), (GROUP, (4, 30, 211, 213))):
        assert_same_everywhere(Problem(kind, shape, 3, residual=True), ISAS[-1:], threads=(2,))


VALUES = [0.0, -0.0, 1.0, -2.5, 1e-30, -1e-42, 3e38, float("inf"), float("-inf"), float("nan")]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(VALUES), min_size=40, max_size=40),
    st.sampled_from(ACTIVATIONS),
    st.sampled_from([(RMS, (2, 20)), (LAYER, (4, 10)), (GROUP, (2, 4, 5)), (GROUP, (1, 2, 20))]),
)
def test_special_values(values: list[float], activation: str | None, case: tuple[Kind, tuple[int, ...]]) -> None:
    kind, shape = case
    problem = Problem(kind, shape, 2, affine=False, activation=activation)
    results = []
    for backend in ("native", "reference"):
        with running(backend):
            leaf = torch.tensor(values).reshape(shape).requires_grad_()
            y = problem.call({"input": leaf})
            y.backward(torch.arange(40.0).reshape(shape))
            results.append((y, leaf.grad))
    for ours, expected in zip(*results, strict=True):
        assert_same_bits(ours, expected)


CALLS = [("rms", (5, 33), 33), ("layer", (3, 1030), 1030), ("group", (3, 4, 7, 7), 2), ("group", (70, 6), 3)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("misalign", [0, 1, 3])
@pytest.mark.parametrize(("kind", "shape", "size"), CALLS, ids=str)
def test_nothing_is_written_outside(
    kind: str, shape: tuple[int, ...], size: int, dtype: torch.dtype, misalign: int
) -> None:
    """Every element of a result is written, and nothing next to them."""
    elements = torch.Size(shape).numel()
    count = shape[1] if kind == "group" else size
    sets = shape[0] * size if kind == "group" else elements // size
    results = {name: Guarded(elements, dtype, misalign) for name in ("out", "sum", "grad_input")}
    parameters = 1 if kind == "rms" else 2
    of_parameters = [Guarded(count, torch.float32 if dtype in HALF else dtype, misalign) for _ in range(parameters)]
    pairs = Guarded(2 * sets, torch.float64, misalign)
    out, total, grad_input = (guarded.inside.view(shape) for guarded in results.values())
    wide = of_parameters[0].inside.dtype
    weight, bias = some_values(count, wide, 1), some_values(count, wide, 2) if parameters == 2 else None
    x, residual, grad, grad_sum = (some_values(shape, dtype, seed) for seed in (3, 4, 5, 6))
    statistics = pairs.inside.view(2, sets)
    how = ("silu", 0.01, 2)
    assert _core.norm(out, total, x, residual, weight, bias, statistics, kind, size, 1e-5, *how)
    assert torch.equal(total, x + residual)
    gradients = (grad_input, *(guarded.inside for guarded in of_parameters))
    wanted = (*gradients, None)[:3]
    assert _core.norm_backward(*wanted, grad, grad_sum, total, weight, bias, statistics, kind, size, *how)
    assert all((tensor != 777).all() for tensor in (out, total, *gradients, statistics))
    for guarded in (*results.values(), *of_parameters, pairs):
        guarded.check()


@kinds
def test_sums_do_not_depend_on_what_is_asked_for(kind: Kind) -> None:
    problem = small(kind, residual=True, activation="silu")
    everything = problem.run()
    leaves = problem.leaves()
    for name in leaves:
        own = {k: v.requires_grad_() if k == name else v for k, v in problem.leaves().items()}
        results = problem.call(own)
        wanted = [r for r in results if r.requires_grad]
        grads = [problem.values(seed) for seed, r in zip((7, 8), results, strict=True) if r.requires_grad]
        (found,) = torch.autograd.grad(wanted, own[name], grads, allow_unused=True)
        assert_same_bits(found, everything[f"gradient of {name}"], name)
