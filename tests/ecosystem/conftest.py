"""Set-up of tests with other packages' trainers (make test-ecosystem). Nothing may be downloaded."""

import os
from collections.abc import Iterator

import pytest

os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    ACCELERATE_USE_CPU="true",  # gives the CPU's bits also on machines with a GPU
)


def pytest_configure(config: pytest.Config) -> None:
    """Ignores Lightning's own uses of deprecated torch functions, and its advice on loading data."""
    for warning in ("`isinstance.treespec, LeafSpec.` is deprecated", ".*does not have many workers"):
        config.addinivalue_line("filterwarnings", f"ignore:{warning}")


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Resets the state that all accelerators of a process share, the Hugging Face Trainer's included."""
    yield
    from accelerate.state import AcceleratorState, GradientState  # after the environment is set

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
