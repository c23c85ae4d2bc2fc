"""The examples for trainers, started as a user starts them."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.ecosystem
EXAMPLES = Path(__file__).parents[2] / "examples"


def main_of(name: str) -> Callable[[list[str]], Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


def test_lightning() -> None:
    assert main_of("train_lightning")(["--epochs", "4"]) > 0.9


def test_accelerate(tmp_path: Path) -> None:
    """Interrupted and started again, it ends with the same result as without a pause."""

    def run(folder: str, *options: str) -> float:
        return main_of("train_accelerate")(["--epochs", "4", "--folder", str(tmp_path / folder), *options])

    whole = run("whole")
    assert whole > 0.9
    run("halves", "--stop", "2")
    assert run("halves") == whole
    for name in ("model.safetensors", "optimizer.bin"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "halves" / name).read_bytes()


def test_transformers() -> None:
    losses = main_of("train_transformers")(["--steps", "60"])
    assert losses[-1] < 0.8 * losses[0]
