"""The scripts that tools watch on a GPU run and reach the kernels: gpu_smoke.py and gpu_kernels.py."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from gpu import DEVICE, emulator, gpu

ROOT = Path(__file__).parents[2]


def _script(name: str) -> ModuleType:
    path = ROOT / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SMOKE, KERNELS = _script("gpu_smoke"), _script("gpu_kernels")


@pytest.mark.parametrize("family", SMOKE.FAMILIES)
def test_equals_the_cpu(family: str) -> None:
    with gpu():
        ours = list(SMOKE.FAMILIES[family](DEVICE))
    assert ours
    assert SMOKE.differences(ours, list(SMOKE.FAMILIES[family](torch.device("cpu")))) == []


@pytest.mark.skipif(emulator is None, reason="the emulator knows what was launched")
@pytest.mark.parametrize("name", KERNELS.NAMES)
def test_the_kernels_that_ncu_looks_for_are_launched(name: str) -> None:
    """The emulator may know only the types of a kernel's parameters."""
    sources = "".join(path.read_text() for path in (ROOT / "csrc" / "cuda").rglob("*") if path.is_file())
    (first,) = re.findall(rf"__global__[^;{{]*\b{name}\(const __grid_constant__ (\w+)", sources)
    with gpu():
        KERNELS.operations(DEVICE, elements=1 << 14)[name]()
    assert any(f"::{first}" in launch.kernel for launch in emulator.launches())
