"""2 and 4 processes compute what one computes on the whole: sharded tensors, DDP, FSDP2, ZeRO, checkpoints, offload."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from processes import assert_none_failed
from support import TORCH

pytestmark = pytest.mark.slow


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
@pytest.mark.skipif(TORCH < (2, 6), reason="fully_shard and DTensor are public from torch 2.6 on")
@pytest.mark.parametrize(
    ("module", "processes"),
    [
        *((module, processes) for processes in (2, 4) for module in ("sharded_tensors", "kept_tensors", "training")),
        ("offloaded", 2),
    ],
)
def test_as_one_process(tmp_path: Path, module: str, processes: int) -> None:
    """One test runs all scenarios of a module, as starting the processes takes longer than most of them."""
    script = Path(__file__).with_name(f"{module}.py")
    assert_none_failed(script, processes, tmp_path)
