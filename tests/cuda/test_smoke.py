"""scripts/gpu_smoke.py, which compute-sanitizer watches on a GPU, runs and reaches the kernels."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from gpu import DEVICE, gpu


def _smoke() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "gpu_smoke.py"
    spec = importlib.util.spec_from_file_location("gpu_smoke", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SMOKE = _smoke()


@pytest.mark.parametrize("family", SMOKE.FAMILIES)
def test_equals_the_cpu(family: str) -> None:
    with gpu():
        ours = list(SMOKE.FAMILIES[family](DEVICE))
    assert ours
    assert SMOKE.differences(ours, list(SMOKE.FAMILIES[family](torch.device("cpu")))) == []
