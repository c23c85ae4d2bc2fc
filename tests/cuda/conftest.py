"""Fixtures of the tests on a GPU or its emulator."""

from collections.abc import Iterator

import pytest

from gpu import emulator


@pytest.fixture(autouse=True)
def one_emulator_a_test() -> Iterator[None]:
    """Resets the emulator after each test."""
    yield
    if emulator is not None:
        emulator.reset()


# Orders in which blocks and threads run: the emulator's can be chosen, a GPU's cannot.
ORDERS = ["forward", "reverse", "shuffled"] if emulator is not None else ["hardware"]


@pytest.fixture(params=ORDERS)
def order(request: pytest.FixtureRequest) -> str:
    if emulator is not None:
        emulator.set_order(request.param, 7)
    return request.param
