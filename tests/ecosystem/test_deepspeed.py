"""fastopt's optimizers as client optimizers of DeepSpeed's ZeRO-1, 2 and 3 with offload, on its CPU accelerator.

The first run compiles DeepSpeed's operator for communication on the CPU, which takes a minute.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from processes import assert_none_failed

pytestmark = pytest.mark.ecosystem


@pytest.mark.parametrize("processes", [1, 2])
def test_zero(tmp_path: Path, processes: int) -> None:
    script = Path(__file__).parents[1] / "distributed" / "zero_offload.py"
    assert_none_failed(script, processes, tmp_path)
