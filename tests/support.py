"""Shared by all tests: backends, tensors between guard bytes, comparison to the bit."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastopt
from fastopt import _core, _runtime

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
HALF = [torch.bfloat16, torch.float16]

# Sizes around every boundary of lanes, vectors and blocks (1024), for every ISA.
SIZES = [0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 70, 127, 1023, 1024, 1025, 2055]

ISAS = _core.detected_isas()

# Options that torch lacks; torch before 2.7 also lacks Adam's decoupled_weight_decay.
OWN_OPTIONS = {
    *fastopt.optim.CommonOptions.__annotations__,
    "lr_in_momentum",
    "eps_inside_sqrt",
    "decoupled_weight_decay",
}

# The suite also passes with the oldest torch that we support.
TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
HAS_NAMES = TORCH >= (2, 6)
HAS_FUNCTIONAL_MODE = hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks")
INTAKES = ["exchange", "data_ptr"] if hasattr(torch.Tensor, "__dlpack_c_exchange_api__") else ["data_ptr"]


def named(**params: Tensor) -> list[Any]:
    """Named parameters, if this torch takes them."""
    return list(params.items() if HAS_NAMES else params.values())


def called(name: str) -> str:
    """A pattern for the name that errors give to a parameter."""
    return f"parameter '{name}'" if HAS_NAMES else r"parameter \d+ of group 0 \(shape [^)]*\)+"


@contextlib.contextmanager
def running(
    backend: str = "native", isa: str | None = None, threads: int | None = None, intake: str | None = None
) -> Iterator[None]:
    """Runs optimizers on one backend, ISA, thread count and intake."""
    before = _runtime.backend(), _core.isa_in_use(), torch.get_num_threads(), _core.intake_in_use()
    try:
        _runtime.use_backend(backend)
        _core.use_isa(isa or before[1])
        torch.set_num_threads(threads or before[2])
        _core.use_intake(intake or before[3])
        yield
    finally:
        _runtime.use_backend(before[0])
        _core.use_isa(before[1])
        torch.set_num_threads(before[2])
        _core.use_intake(before[3])


def bits(tensor: Tensor) -> np.ndarray[Any, Any]:
    """The bits of a tensor, with all NaN made equal: their payloads are unspecified."""
    tensor = tensor.detach().clone(memory_format=torch.contiguous_format)
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if tensor.is_floating_point():
        tensor[tensor.isnan()] = torch.nan
    return tensor.reshape(-1).view(torch.uint8).numpy()


def assert_same_bits(ours: Tensor, expected: Tensor, what: str = "") -> None:
    assert ours.dtype == expected.dtype
    assert ours.shape == expected.shape
    same = np.array_equal(bits(ours), bits(expected))
    if not same:
        wrong = (ours != expected) & ~(ours.isnan() & expected.isnan())
        where = wrong.flatten().nonzero().flatten()[:5].tolist()
        raise AssertionError(f"{what}: {int(wrong.sum())} of {ours.numel()} differ, first at {where}")


def state_tensors(optimizer: torch.optim.Optimizer, param: Tensor) -> dict[str, Tensor]:
    return {key: value for key, value in optimizer.state[param].items() if isinstance(value, Tensor)}


def assert_same_step(
    ours: torch.optim.Optimizer, p: Sequence[Tensor], theirs: torch.optim.Optimizer, q: Sequence[Tensor]
) -> None:
    """Compares parameters and all states, to the bit."""
    for i, (a, b) in enumerate(zip(p, q, strict=True)):
        assert_same_bits(a, b, f"parameter {i}")
        one, other = state_tensors(ours, a), state_tensors(theirs, b)
        assert one.keys() == other.keys()
        for key in one:
            assert_same_bits(one[key], other[key], f"{key} of parameter {i}")


def states_of(optimizer: torch.optim.Optimizer) -> dict[Any, Any]:
    """A copy of all states, to be compared later."""
    return copy.deepcopy(optimizer.state_dict()["state"])


def assert_same_states(optimizer: torch.optim.Optimizer, before: dict[Any, Any]) -> None:
    torch.testing.assert_close(optimizer.state_dict()["state"], before, rtol=0, atol=0, equal_nan=True)


def some_values(shape: Any, dtype: torch.dtype, seed: int, low: float = 0.5, high: float = 2.0) -> Tensor:
    """Values of both signs with magnitudes in [low, high], never zero.

    They come from NumPy, as torch's pow depends on the thread count.
    """
    random = np.random.default_rng(seed)
    size = (shape,) if isinstance(shape, int) else tuple(shape)
    magnitude = np.exp(random.uniform(np.log(low), np.log(high), size))
    return torch.from_numpy(np.where(random.random(size) < 0.5, -magnitude, magnitude)).to(dtype)


class Guarded:
    """Flat memory with a pattern around the elements that a test uses."""

    PAD = 32

    def __init__(self, size: int, dtype: torch.dtype, misalign: int = 0, device: torch.device | str = "cpu") -> None:
        self._begin = self.PAD + misalign
        self._whole = torch.full((size + 2 * self.PAD + misalign,), 777.0, dtype=dtype, device=device)
        self.inside = self._whole[self._begin : self._begin + size]

    def check(self) -> None:
        self._whole[self._begin : self._begin + self.inside.numel()] = 777.0
        assert (self._whole == 777.0).all(), "written outside of the tensor"


def train(case: Any, params: list[Tensor], steps: int, seed: int = 0, **kwargs: Any) -> torch.optim.Optimizer:
    """Takes steps with new gradients; equal seeds give equal gradients."""
    optimizer = case.make(params, **kwargs)
    for step in range(steps):
        for i, param in enumerate(params):
            param.grad = some_values(param.shape, param.dtype, seed + 1000 * step + i)
        optimizer.step()
    return optimizer


def some_params(dtype: torch.dtype = torch.float32, seed: int = 0) -> list[torch.Tensor]:
    return [some_values(s, dtype, seed + i).requires_grad_() for i, s in enumerate([(7, 5), (70,), ()])]


Stepped = tuple[Any, list[Tensor]]  # an optimizer that has stepped, and its parameters


def compared_with_reference(run: Callable[[], Stepped]) -> list[tuple[Stepped, Stepped]]:
    """Compares the steps of every ISA with the reference's, to the bit. Returns both for each ISA."""
    with running("reference"):
        theirs = run()
    results = []
    for isa in ISAS:
        with running("native", isa):
            ours = run()
        assert_same_step(*ours, *theirs)
        results.append((ours, theirs))
    return results


def step_on_some_grads(optimizer: torch.optim.Optimizer, params: list[torch.Tensor], seed: int) -> None:
    for i, param in enumerate(params):
        param.grad = some_values(param.shape, param.dtype, 100 * seed + i)
    optimizer.step()


def params_with_grads(dtype: torch.dtype = torch.float32, scale: float = 1.0) -> list[torch.Tensor]:
    params = [torch.zeros(n, dtype=dtype, requires_grad=True) for n in (*SIZES[1:], 50_001)]
    for i, param in enumerate(params):
        param.grad = some_values(param.shape, dtype, seed=i) * scale
    return params
