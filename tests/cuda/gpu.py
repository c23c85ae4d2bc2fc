"""The device of the tests in this folder: a GPU if there is one, otherwise its emulator.

The emulated module has the same engine and kernels, compiled by g++ with AddressSanitizer; the CPU's memory counts as
the memory of the first device. A test moves its tensors with ``.to(DEVICE)``, runs its subject in ``with gpu():``, and
compares with the reference on the CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from fastopt import _core, _runtime
from fastopt._compat import increment_version
from support import assert_same_bits, running, state_tensors

REAL = torch.cuda.is_available() and bool(_core.built()["cuda"])
DEVICE = torch.device("cuda" if REAL else "cpu")
BACKEND = "native" if REAL else "emulated"

if REAL:
    emulator = None
else:
    from emulator.emulator import Emulator
    from fastopt import _emulated  # if this fails: make test builds it, and starts python with libasan.so

    _emulated.set_torch(torch, increment_version, lambda n, _: torch.empty(n, dtype=torch.uint8), lambda _: 0)
    _runtime.BACKENDS["emulated"] = _emulated
    emulator = Emulator(_emulated.__file__)


@contextlib.contextmanager
def gpu() -> Iterator[None]:
    """Runs optimizers and functions on the device."""
    with running(BACKEND):
        yield
        if REAL:
            torch.cuda.synchronize()


def assert_same(ours, params, reference, expected) -> None:
    """Compares parameters and all states with the reference's."""
    for i, (a, b) in enumerate(zip(params, expected, strict=True)):
        assert_same_bits(a.cpu(), b.cpu(), f"parameter {i}")
        one, other = state_tensors(ours, a), state_tensors(reference, b)
        assert one.keys() == other.keys()
        for key in one:
            assert_same_bits(one[key].cpu(), other[key].cpu(), f"{key} of parameter {i}")


Trained = tuple[torch.optim.Optimizer, list[torch.Tensor]]


def assert_equals_reference(run: Callable[[torch.device | str], Trained]) -> Trained:
    """Trains on the device and on the reference, and expects the same parameters and states, to the bit."""
    with running("reference"):
        reference, expected = run("cpu")
    with gpu():
        ours, params = run(DEVICE)
    assert_same(ours, params, reference, expected)
    return ours, params
