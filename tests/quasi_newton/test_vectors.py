"""Kernels of vectors: the reference's bits on every ISA, with any number of threads, and results alone are written."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fastopt import _core, reference
from fastopt.optim._minimize.history import History as Pairs
from fastopt.optim._minimize.vectors import Vectors
from support import ISAS, Guarded, assert_same_bits, running, some_values

# Around lanes, blocks and chunks, of short vectors and of long ones.
NUMELS = [1, 31, 32, 33, 1023, 1025, 2047, 2048, 2049, 8191, 65535, 65536, 65537, 73728, 73729]
ROWS = [1, 2, 3, 4, 8, 9, 16, 17, 40]
TYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.complex128]
vector_types = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


class Parts(NamedTuple):
    """Tensors that are a vector of ``numel`` elements together, of many types and sizes."""

    tensors: list[Tensor | None]
    weights: list[float]
    numels: list[int]


def parts(numel: int, seed: int) -> Parts:
    rng = random.Random(seed)
    found = Parts([], [], [])
    left = numel
    k = 0
    while left > 0 or k < 4:
        kind = rng.choice(TYPES)
        size = min(left, rng.choice([0, 1, 7, 31, 33, 100, 1025, 5000]) if k < 40 else left)
        if kind.is_complex:
            size -= size % 2
        tensor = some_values(size // 2 if kind.is_complex else size, kind, seed + k)
        found.tensors.append(None if rng.random() < 0.1 else tensor)
        found.weights.append(rng.choice([1.0, -1.0, 0.3]))
        found.numels.append(size)
        left -= size
        k += 1
    return found


def vectors(count: int, numel: int, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    return list(torch.randn(count, numel, generator=torch.Generator().manual_seed(seed), dtype=dtype))


def numbers(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


def assert_same_everywhere(run: Any, isas: list[str] = ISAS, threads: tuple[int, ...] = (1, 2, 3)) -> None:
    expected = run(reference, 1)
    for isa in isas:
        for count in threads:
            with running("native", isa=isa, threads=count):
                ours = run(_core, count)
            for i, (one, other) in enumerate(zip(ours, expected, strict=True)):
                assert_same_bits(one, other, f"result {i} on {isa}, {count} threads")


def result_of(guarded: Guarded) -> Tensor:
    """What was written, after a look at the memory around it."""
    written = guarded.inside.clone()
    guarded.check()
    return torch.view_as_real(written) if written.is_complex() else written


@vector_types
@pytest.mark.parametrize("numel", NUMELS)
def test_gather(numel: int, dtype: torch.dtype) -> None:
    tensors, weights, numels = parts(numel, seed=numel)
    direction, previous = vectors(2, numel, dtype)

    def run(kernels: Any, threads: int) -> list[Tensor]:
        results = []
        for d, p in ((direction, previous), (None, None)):
            out, sums = Guarded(numel, dtype), numbers(7)
            assert kernels.gather_vector(out.inside, tensors, weights, numels, d, p, sums, threads) == -1
            results += [result_of(out), sums]
        return results

    assert_same_everywhere(run)


@vector_types
@pytest.mark.parametrize("numel", NUMELS)
def test_scatter(numel: int, dtype: torch.dtype) -> None:
    tensors, weights, numels = parts(numel, seed=numel)
    base, direction = vectors(2, numel, dtype)

    def run(kernels: Any, threads: int) -> list[Tensor]:
        results = []
        for d in (direction, None):
            to = [
                Guarded(n // 2, t.dtype)
                if t is not None and t.is_complex()
                else Guarded(n, t.dtype if t is not None else dtype)
                for t, n in zip(tensors, numels, strict=True)
            ]
            assert kernels.scatter_vector([t.inside for t in to], weights, numels, base, d, 0.37, threads) == -1
            results += [result_of(t) for t in to]
        return results

    assert_same_everywhere(run)


class History(NamedTuple):
    steps: list[Tensor]
    changes: list[Tensor]
    grad: Tensor
    previous: Tensor
    direction: Tensor
    matrices: Tensor
    first: int

    def run(self, kernels: Any, threads: int) -> list[Tensor]:
        """Products with and without a change of the gradient, coefficients, and the direction made of them."""
        s, y = [t.clone() for t in self.steps], [t.clone() for t in self.changes]
        rows = len(s)
        products, again = numbers(4 * rows), numbers(4 * rows)
        kernels.history_products(products, s, y, self.grad, self.previous, self.direction, 0.7, threads)
        kernels.history_products(again, s, y, self.grad, None, None, 0.0, threads)
        sy, yy = self.matrices.clone()
        coefficients = numbers(1 + 2 * rows)
        kernels.history_coefficients(coefficients, sy, yy, products, rows, self.first, True)
        out, sums = Guarded(len(self.grad), self.grad.dtype), numbers(3)
        kernels.combine_vectors(out.inside, sums, self.grad, s + y, coefficients, threads)
        return [*s, *y, products, again, sy, yy, coefficients, result_of(out), sums]


@vector_types
@pytest.mark.parametrize("rows", ROWS)
def test_history(rows: int, dtype: torch.dtype) -> None:
    """The matrices of pairs go round."""
    for numel in (33, 2049, 8193) if rows > 4 else (1, 33, 2049, 65537):
        steps, changes = vectors(rows, numel, dtype, 1), vectors(rows, numel, dtype, 2)
        for capacity, first in ((rows, rows // 2), (rows + 3, 0)):
            matrices = torch.rand(
                2, capacity, capacity, dtype=torch.float64, generator=torch.Generator().manual_seed(4)
            )
            symmetric = matrices + matrices.transpose(1, 2)
            history = History(steps, changes, *vectors(3, numel, dtype, 3), symmetric, first)
            assert_same_everywhere(history.run, threads=(1, 2))


def test_coefficients_are_the_two_loops() -> None:
    """Against the recursion on vectors (Nocedal and Wright, algorithm 7.4)."""
    rows, numel = 9, 40
    steps = vectors(rows, numel, torch.float64, 1)
    curvature = torch.linspace(0.5, 4, numel, dtype=torch.float64)
    changes = [s * curvature for s in steps]
    grad = vectors(1, numel, torch.float64, 3)[0]
    q, alphas = -grad.clone(), []
    for s, y in zip(reversed(steps), reversed(changes), strict=True):
        alphas.append(s.dot(q) / s.dot(y))
        q -= alphas[-1] * y
    r = q * steps[-1].dot(changes[-1]) / changes[-1].dot(changes[-1])
    for s, y, alpha in zip(steps, changes, reversed(alphas), strict=True):
        r += (alpha - y.dot(r) / s.dot(y)) * s
    space = Vectors([{"params": [torch.zeros(numel, dtype=torch.float64, requires_grad=True)], "lr": 1.0}], str)
    out = torch.empty_like(grad)
    longest, squares, slope = Pairs(space, steps, changes).direct(out, grad, None)
    torch.testing.assert_close(out, r, rtol=1e-12, atol=1e-12)
    assert longest == out.abs().max()
    assert squares == pytest.approx(out.dot(out).item(), rel=1e-14)
    assert slope == pytest.approx(out.dot(grad).item(), rel=1e-14)


def test_what_kernels_refuse_is_not_written() -> None:
    out, strided = torch.full((6,), 7.0), torch.ones(3, 4)[:, :2]
    for kernels in (_core, reference):
        for wrong in (strided, torch.ones(5), torch.ones(6, dtype=torch.int32)):
            assert kernels.gather_vector(out, [wrong], [1.0], [6], None, None, None, 1) == 0
            assert kernels.scatter_vector([wrong], [1.0], [6], out, None, 0.0, 1) == 0
    assert (out == 7).all()
    assert (strided == 1).all()
    for call in (
        lambda: _core.gather_vector(torch.ones(6).half(), [torch.ones(6)], [1.0], [6], None, None, None, 1),
        lambda: _core.gather_vector(out, [torch.ones(5)], [1.0], [5], None, None, None, 1),
        lambda: _core.gather_vector(out, [torch.ones(6)], [1.0], [6], out, None, None, 1),
        lambda: _core.combine_vectors(out, numbers(2), out, [], numbers(1), 1),
        lambda: _core.combine_vectors(out, numbers(3), out, [torch.ones(5)], numbers(2), 1),
    ):
        with pytest.raises(RuntimeError):
            call()
