"""Training with states in 8 bits is as good as with float32 states, and needs the codes' finer steps near zero."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import fastopt
from fastopt.reference import storage
from support import running

SEEDS = range(5)


def _digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.from_numpy(data.data).float() / 16, torch.from_numpy(data.target)


def _final_loss(seed: int, epochs: int, **options: Any) -> float:
    """The mean loss over all digits, most of which were trained on, after AdamW's training."""
    images, labels = _digits()
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10))
    optimizer = fastopt.AdamW(model.parameters(), lr=2e-3, **options)
    for _ in range(epochs):
        for batch in torch.randperm(1500).split(125):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    weight = optimizer.state[model[0].weight]["exp_avg"]
    assert weight.dtype == (torch.int8 if options else torch.float32)
    with torch.no_grad():
        return nn.functional.cross_entropy(model(images), labels).item()


@pytest.mark.slow
def test_digits() -> None:
    """Over 5 seeds the mean is within the range of the losses with float32 states."""
    wide = [_final_loss(seed, 15) for seed in SEEDS]
    coded = [_final_loss(seed, 15, state_dtype="int8") for seed in SEEDS]
    assert min(wide) < float(np.mean(coded)) < max(wide), (wide, coded)
    assert max(coded) < 1.1 * max(wide)


def _linear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the codes by 127 or 255 equal steps, with the same scales. A number may become 0."""

    def with_scales(encode: Callable[..., None]) -> Callable[..., None]:
        def linear(values: Any, codes: Any, scales: Any) -> None:
            encode(values, codes, scales)
            scale = np.repeat(np.where(scales > 0, scales, 1), storage.CODE_BLOCK)[: len(values)]
            codes[...] = np.rint(values / scale * np.float32(np.iinfo(codes.dtype).max)).astype(codes.dtype)

        return linear

    def decode(codes: Any, scales: Any) -> Any:
        scale = np.repeat(scales, storage.CODE_BLOCK)[: len(codes)]
        return codes.astype(np.float32) / np.float32(np.iinfo(codes.dtype).max) * scale

    monkeypatch.setattr(storage, "encode", with_scales(storage.encode))
    monkeypatch.setattr(storage, "decode", decode)


@pytest.mark.slow
def test_linear_codes_are_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Second moments far below their block's largest become 0 in a linear code, and updates explode."""
    with running("reference"):
        companded = _final_loss(0, 2, state_dtype="int8")
        _linear(monkeypatch)
        linear = _final_loss(0, 2, state_dtype="int8")
    assert companded == pytest.approx(_final_loss(0, 2), rel=0.1)
    assert not linear < 2 * companded
