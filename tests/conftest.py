"""Set-up of the whole suite."""

import os
from collections.abc import Iterator

import pytest

# Before torch loads OpenMP: waiting threads sleep, so that tests may run side by side on few cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tests that want more ask for them."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)
