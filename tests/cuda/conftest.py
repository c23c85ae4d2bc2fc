"""Set-up of the tests on a GPU or its emulation."""

from collections.abc import Iterator

import pytest

from gpu import emulator


@pytest.fixture(autouse=True)
def one_emulator_a_test() -> Iterator[None]:
    """What a test has set of the emulator is over with it."""
    yield
    if emulator is not None:
        emulator.reset()


# The order in which blocks and threads run: on a GPU it is what it is.
ORDERS = ["forward", "reverse", "shuffled"] if emulator is not None else ["hardware"]


@pytest.fixture(params=ORDERS)
def order(request: pytest.FixtureRequest) -> str:
    if emulator is not None:
        emulator.set_order(request.param, 7)
    return request.param
