"""Vectors that run through all parameters: on a device their kernels equal the NumPy reference to the bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from fastopt import _runtime, reference
from gpu import DEVICE, REAL, emulator, gpu
from support import DTYPES, Guarded, assert_same_bits, some_values

VECTORS = [torch.float32, torch.float64]
TENSORS = [*DTYPES, torch.complex64, torch.complex128]

# Around lanes, a block's pieces, chunks and the length from which chunks are longer.
LENGTHS = [1, 31, 32, 33, 1025, 2047, 2048, 2049, 65_535, 65_536, 65_537]
PAIRS = [1, 2, 3, 8, 17, 40]
MULTIPROCESSORS = 16  # cudaDevAttrMultiProcessorCount


@pytest.fixture(params=["small GPU", "large GPU"] if emulator is not None else ["hardware"])
def size_of_gpu(request: pytest.FixtureRequest) -> str:
    """All work is much for a GPU without multiprocessors, and little for one with a thousand: that decides how it is
    shared out."""
    if emulator is not None:
        emulator.set_attribute(MULTIPROCESSORS, 0 if request.param == "small GPU" else 1000)
    return request.param


@dataclass
class Place:
    """Where a call runs, and the memory that it was given: between guards, and misaligned by so many elements."""

    kernels: Any = reference
    device: Any = "cpu"
    misaligned: int = 0
    guards: list[Guarded] = field(default_factory=list)

    def put(self, values: Tensor) -> Tensor:
        """A flat copy of the values."""
        guard = Guarded(values.numel(), values.dtype, self.misaligned, self.device)
        guard.inside.copy_(values)
        self.guards.append(guard)
        return guard.inside

    def new(self, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return self.put(torch.full((n,), 7, dtype=dtype))

    def values(self, n: int, dtype: torch.dtype, seed: int) -> Tensor:
        return self.put(some(n, dtype, seed))


def some(n: int, dtype: torch.dtype, seed: int) -> Tensor:
    if not dtype.is_complex:
        return some_values(n, dtype, seed)
    return torch.complex(some_values(n, torch.float64, seed), some_values(n, torch.float64, seed + 1)).to(dtype)


def compare(run: Callable[..., dict[str, Tensor]], misaligned: int = 0, **how: Any) -> None:
    """Calls kernels on the device and the reference."""
    expected = run(Place(misaligned=misaligned), **how)
    with gpu():
        place = Place(_runtime.kernels, DEVICE, misaligned)
        found = run(place, **how)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert_same_bits(found[name].cpu(), values, name)
    for guard in place.guards:
        guard.check()


@dataclass
class Tensors:
    """The tensors of all parameters; every `missing`-th has no gradient."""

    sizes: list[int]
    dtypes: list[torch.dtype]
    missing: int = 5

    def __post_init__(self) -> None:
        self.types = [self.dtypes[i % len(self.dtypes)] for i in range(len(self.sizes))]
        self.numels = [n * (1 + t.is_complex) for n, t in zip(self.sizes, self.types, strict=True)]
        self.weights = [(1.0, -1.0, 0.3)[i % 3] for i in range(len(self.sizes))]

    def grads(self, place: Place) -> list[Tensor | None]:
        return [
            None if i % self.missing == self.missing - 1 else place.values(n, dtype, 2 * i)
            for i, (n, dtype) in enumerate(zip(self.sizes, self.types, strict=True))
        ]

    def gather(self, place: Place, dtype: torch.dtype, *, compares: bool, measures: bool = True) -> dict[str, Tensor]:
        n = sum(self.numels)
        out, sums = place.new(n, dtype), place.new(7) if measures else None
        before = [place.values(n, dtype, seed) if compares else None for seed in (5, 6)]
        assert place.kernels.gather_vector(out, self.grads(place), self.weights, self.numels, *before, sums, 1) == -1
        return {"vector": out} if sums is None else {"vector": out, "sums": sums}

    def scatter(self, place: Place, dtype: torch.dtype, *, moves: bool) -> dict[str, Tensor]:
        n = sum(self.numels)
        tensors = [place.new(n, dtype) for n, dtype in zip(self.sizes, self.types, strict=True)]
        base, direction = place.values(n, dtype, 5), place.values(n, dtype, 6) if moves else None
        taken = place.kernels.scatter_vector(tensors, self.weights, self.numels, base, direction, 0.37, 1)
        assert taken == -1
        return {f"tensor {i}": tensor for i, tensor in enumerate(tensors)}

    def check(self, dtype: torch.dtype, misaligned: int = 0) -> None:
        for flag in (False, True):
            compare(self.gather, misaligned, dtype=dtype, compares=flag)
            compare(self.scatter, misaligned, dtype=dtype, moves=flag)


@dataclass
class History:
    n: int
    dtype: torch.dtype
    pairs: int

    def rows(self, place: Place, seed: int) -> list[Tensor]:
        return [place.values(self.n, self.dtype, seed + i) for i in range(self.pairs)]

    def multiply(self, place: Place, *, adds: bool, t: float = 0.7) -> dict[str, Tensor]:
        steps, changes = self.rows(place, 100), self.rows(place, 300)
        grad, previous, direction = (place.values(self.n, self.dtype, seed) for seed in (1, 2, 3))
        products = place.new(4 * self.pairs)
        new = (previous, direction) if adds else (None, None)
        place.kernels.history_products(products, steps, changes, grad, *new, t, 1)
        return {"products": products, "step": steps[-1], "change": changes[-1]}

    def combine(self, place: Place) -> dict[str, Tensor]:
        rows = [*self.rows(place, 100), *self.rows(place, 300)]
        out, sums, grad = place.new(self.n, self.dtype), place.new(3), place.values(self.n, self.dtype, 1)
        coefficients = place.values(1 + len(rows), torch.float64, 2)
        place.kernels.combine_vectors(out, sums, grad, rows, coefficients, 1)
        return {"direction": out, "sums": sums}

    def check(self, misaligned: int = 0) -> None:
        for adds in (False, True):
            compare(self.multiply, misaligned, adds=adds)
        compare(self.combine, misaligned)


def coefficients(place: Place, count: int, capacity: int, first: int, *, adds: bool) -> dict[str, Tensor]:
    matrices = []
    for seed in (1, 2):
        half = 0.1 * some_values((capacity, capacity), torch.float64, seed) / capacity
        matrix = place.new(capacity * capacity).view(capacity, capacity)
        matrices.append(matrix.copy_(half + half.T + 3 * torch.eye(capacity)))
    products, found = place.values(4 * count, torch.float64, 3), place.new(1 + 2 * count)
    place.kernels.history_coefficients(found, *matrices, products, count, first, adds)
    return {"coefficients": found, "step_changes": matrices[0], "change_changes": matrices[1]}


@pytest.mark.parametrize("misaligned", [0, 1, 3])
@pytest.mark.parametrize("dtype", VECTORS, ids=str)
def test_tensors_of_all_types(dtype: torch.dtype, misaligned: int) -> None:
    sizes = [3, 0, 31, 32, 33, 255, 256, 257, 1, 700, 0, 2047, 2048, 2049, 16, 5000]
    for types in (TENSORS, TENSORS[1:], TENSORS[3:]):
        Tensors(sizes, types).check(dtype, misaligned)


@pytest.mark.parametrize("dtype", VECTORS, ids=str)
@pytest.mark.parametrize("n", LENGTHS)
def test_lengths(n: int, dtype: torch.dtype) -> None:
    for of_tensor in (dtype, torch.bfloat16):
        Tensors([n], [of_tensor]).check(dtype)
    if n > 33:
        Tensors([31, n - 31], [dtype]).check(dtype)


@pytest.mark.parametrize("dtype", VECTORS, ids=str)
def test_thousands_of_tensors(dtype: torch.dtype) -> None:
    """A table of more segments than a launch has parameters, and many segments in a warp."""
    Tensors([(1, 2, 0, 3, 7, 40)[i % 6] for i in range(3000)], [torch.float32, torch.bfloat16]).check(dtype)


@pytest.mark.parametrize("dtype", VECTORS, ids=str)
def test_only_gathered(dtype: torch.dtype) -> None:
    tensors = Tensors([33, 1, 5000, 70_000], [dtype])
    for compares in (False, True):
        compare(tensors.gather, dtype=dtype, compares=compares, measures=False)


@pytest.mark.parametrize("dtype", VECTORS, ids=str)
@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize("n", [33, 2049])
@pytest.mark.parametrize("misaligned", [0, 1])
def test_histories(size_of_gpu: str, n: int, pairs: int, dtype: torch.dtype, misaligned: int) -> None:
    History(n, dtype, pairs).check(misaligned)


@pytest.mark.parametrize("dtype", VECTORS, ids=str)
@pytest.mark.parametrize("n", LENGTHS)
def test_histories_of_all_lengths(size_of_gpu: str, n: int, dtype: torch.dtype) -> None:
    History(n, dtype, 3).check()


@pytest.mark.parametrize("pairs", [300, 2100])
def test_thousands_of_rows(size_of_gpu: str, pairs: int) -> None:
    """As many pointers as a large table of a launch has, and more."""
    History(5, torch.float32, pairs).check()


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("count", [*PAIRS, 300])
def test_coefficients(count: int, adds: bool) -> None:
    for capacity, first in ((count, 0), (count, count - 1), (count, count // 2), (count + 5, 0), (count + 5, 4)):
        compare(coefficients, count=count, capacity=capacity, first=first, adds=adds)


def test_more_coefficients_than_shared_memory_has_room_for() -> None:
    compare(coefficients, count=2600, capacity=2600, first=7, adds=True)


def test_order_of_blocks_and_threads(order: str) -> None:
    for dtype in VECTORS:
        Tensors([5, 300, 2049, 1, 1, 65_537], [dtype, torch.float16]).check(dtype)
        History(2049, dtype, 8).check()
    for count in (8, 40):
        compare(coefficients, count=count, capacity=40, first=3, adds=True)


@pytest.mark.parametrize("dtype", VECTORS, ids=str)
@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan, 3e38])
def test_infinite_numbers(size_of_gpu: str, bad: float, dtype: torch.dtype) -> None:
    """They are in one lane: what is missing in the others must not meet them."""

    def run(place: Place) -> dict[str, Tensor]:
        n = 40
        rows = [some(n, dtype, seed) for seed in range(4)]
        grad, direction, previous = (some(n, dtype, seed) for seed in (5, 6, 7))
        for k, values in enumerate([*rows, grad]):
            values[k] = bad
        rows, grad = [place.put(row) for row in rows], place.put(grad)
        direction, previous = place.put(direction), place.put(previous)
        vector, sums, products = place.new(n, dtype), place.new(7), place.new(8)
        place.kernels.gather_vector(vector, [grad], [1.0], [n], direction, previous, sums, 1)
        place.kernels.history_products(products, rows[:2], rows[2:], grad, previous, direction, bad, 1)
        out, of_direction = place.new(n, dtype), place.new(3)
        place.kernels.combine_vectors(out, of_direction, grad, rows, place.values(5, torch.float64, 8), 1)
        return {"sums": sums, "products": products, "direction": out, "its sums": of_direction}

    compare(run)


@pytest.mark.parametrize("dtype", VECTORS, ids=str)
def test_an_infinite_step(size_of_gpu: str, dtype: torch.dtype) -> None:
    """What is missing in a chunk of 40 elements is 0, not infinity times 0."""

    def run(place: Place) -> dict[str, Tensor]:
        step, change, grad, direction = (place.put(some(40, dtype, seed).abs()) for seed in range(4))
        products = place.new(4)
        place.kernels.history_products(products, [step], [change], grad, place.put(grad / 2), direction, torch.inf, 1)
        return {"products": products}

    compare(run)
    assert (run(Place())["products"][:2] == torch.inf).all()


@pytest.mark.slow
def test_thousands_of_chunks(order: str) -> None:
    """More partial results than a block joins at a time."""
    n = 2100 * 8192
    compare(Tensors([n - 5, 5], [torch.bfloat16]).gather, dtype=torch.float32, compares=False)


@pytest.mark.parametrize("dtype", VECTORS, ids=str)
def test_nothing(dtype: torch.dtype) -> None:
    """Vectors without elements; a combination of no rows."""
    with gpu():
        place = Place(_runtime.kernels, DEVICE)
        found = Tensors([0, 0], [dtype]).gather(place, dtype, compares=True)
        Tensors([0, 0], [dtype]).scatter(place, dtype, moves=True)
        assert (found["sums"] == 0).all()
        history = History(0, dtype, 3)
        assert (history.multiply(place, adds=True)["products"] == 0).all()
        assert (history.combine(place)["sums"] == 0).all()
    compare(History(33, dtype, 0).combine)


@pytest.mark.skipif(not REAL, reason="takes long where a GPU is emulated")
@pytest.mark.parametrize("dtype", VECTORS, ids=str)
def test_much_work(dtype: torch.dtype) -> None:
    """So much that a real GPU's threads take several rows, and 16 bytes, at a time."""
    for misaligned in (0, 1):
        History(1_000_003, dtype, 50).check(misaligned)
        Tensors([3_000_000, 5, 1_000_000], [dtype, torch.bfloat16]).check(dtype, misaligned)


def test_what_cannot_be_taken() -> None:
    """Its index is returned, and nothing is written."""
    with gpu():
        place = Place(_runtime.kernels, DEVICE)
        vector, across = place.new(12, torch.float32), place.values(12, torch.float32, 1).view(3, 4).T
        tensors = [None, place.new(4, torch.float32), across]
        assert place.kernels.gather_vector(vector, tensors, [1.0] * 3, [0, 0, 12], None, None, None, 1) == 1
        assert place.kernels.gather_vector(vector, tensors, [1.0] * 3, [0, 4, 12], None, None, None, 1) == 2
        tensors[0] = place.new(0, torch.float32)
        assert place.kernels.scatter_vector(tensors, [1.0] * 3, [0, 4, 12], vector, None, 1.0, 1) == 2
    assert (vector == 7).all()
    assert (tensors[1] == 7).all()


@pytest.mark.skipif(emulator is None, reason="needs the emulator's errors")
def test_launches_and_their_errors() -> None:
    """A step's calls are few launches, and each is checked."""
    tensors, history = Tensors([100, 5000], [torch.float32]), History(5000, torch.float32, 8)
    calls: list[tuple[int, Callable[[Place], object]]] = [
        (3, lambda place: tensors.gather(place, torch.float32, compares=True)),
        (2, lambda place: tensors.scatter(place, torch.float32, moves=True)),
        (3, lambda place: history.multiply(place, adds=True)),
        (4, lambda place: history.combine(place)),
        (1, lambda place: coefficients(place, 8, 8, 0, adds=True)),
    ]
    with gpu():
        place = Place(_runtime.kernels, DEVICE)
        for count, call in calls:
            emulator.clear_launches()
            call(place)
            assert len(emulator.launches()) == count
            for after in range(count):
                emulator.fail_launch(1, after=after)
                with pytest.raises(RuntimeError, match="CUDA error in fastopt's"):
                    call(place)
