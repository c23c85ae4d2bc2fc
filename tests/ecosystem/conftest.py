"""Trainers of other packages: make test-ecosystem. Nothing may be fetched."""

import os
from collections.abc import Iterator

import pytest

os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    ACCELERATE_USE_CPU="true",  # the CPU's bits, also where there is a GPU
)


def pytest_configure(config: pytest.Config) -> None:
    """Lightning's own uses of what torch has deprecated, and its advice on loading data."""
    for warning in ("`isinstance.treespec, LeafSpec.` is deprecated", ".*does not have many workers"):
        config.addinivalue_line("filterwarnings", f"ignore:{warning}")


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Accelerators of a process, the Hugging Face Trainer's among them, share their state."""
    yield
    from accelerate.state import AcceleratorState, GradientState  # not before the environment is set

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
