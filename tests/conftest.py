"""Fixtures and options of the whole suite."""

import os
import tempfile
from collections.abc import Callable, Iterator

import pytest

# Set before torch loads OpenMP: waiting threads sleep, so that tests can run at the same time on few cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from things import THINGS, thing, things_of

# Code that inductor compiled in an earlier run would hide a change of ours.
_compiled = tempfile.TemporaryDirectory(prefix="fastopt-inductor-", ignore_cleanup_errors=True)
os.environ["TORCHINDUCTOR_CACHE_DIR"] = _compiled.name

# The tests in cuda run on a GPU or on its emulator, which needs a separate process: make test.
collect_ignore = [] if os.environ.get("FASTOPT_TEST_CUDA") else ["cuda"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thing", metavar="NAME", help="only tests about this optimizer, dropout or norm (tests/things.py)"
    )


def pytest_configure(config: pytest.Config) -> None:
    for name in THINGS.values():
        config.addinivalue_line("markers", f"{name}: is about it (tests/things.py)")
    if name := config.option.thing:
        try:
            others = f"({config.option.markexpr}) and " if config.option.markexpr else ""
            config.option.markexpr = others + thing(name)
        except ValueError as error:
            raise pytest.UsageError(f"--thing: {error}") from None


@pytest.hookimpl(tryfirst=True)  # runs before pytest's own hook, which selects tests by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for name in things_of(item.nodeid):
            item.add_marker(name)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Each test starts with one thread; tests that need more ask for them."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def numbers_in() -> Iterator[Callable[[torch.dtype], None]]:
    """Lets torch keep the numbers among an optimizer's states (mu_product, eta) in float64 if a test compares in it."""
    before = torch.get_default_dtype()
    yield lambda dtype: torch.set_default_dtype(torch.float64 if dtype == torch.float64 else before)
    torch.set_default_dtype(before)
