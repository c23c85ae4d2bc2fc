"""fastopt under Lightning's Fabric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import nn

import fastopt
from support import assert_same_bits, some_values

pytestmark = pytest.mark.ecosystem


def test_clips_saves_and_resumes(tmp_path: Path) -> None:
    """Fabric's wrapper is an instance of our class; it clips, saves, and resumes to the bit."""
    fabric = lightning.Fabric(accelerator="cpu", precision="bf16-mixed")

    def setup() -> dict[str, Any]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))
        model, optimizer = fabric.setup(network, fastopt.AdamW(network.parameters(), lr=0.05, max_grad_norm=10.0))
        return {"model": model, "optimizer": optimizer}

    def go(model: Any, optimizer: Any, steps: range) -> None:
        for seed in steps:
            optimizer.zero_grad()
            fabric.backward((model(some_values((4, 6), torch.float32, seed)) - 1).square().mean())
            fabric.clip_gradients(model, optimizer, max_norm=0.5)
            optimizer.step()
            assert 0 < optimizer.grad_norm <= 0.5 + 1e-6

    whole, first, second = setup(), setup(), setup()
    assert isinstance(first["optimizer"], fastopt.AdamW)
    go(**whole, steps=range(6))
    go(**first, steps=range(3))
    fabric.save(tmp_path / "half.ckpt", first)
    fabric.load(tmp_path / "half.ckpt", second)
    go(**second, steps=range(3, 6))
    for a, b in zip(second["model"].parameters(), whole["model"].parameters(), strict=True):
        assert_same_bits(a, b)
