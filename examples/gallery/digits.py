"""The gallery's data, 1797 real handwritten digits from scikit-learn, and a training loop."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class Split(NamedTuple):
    """Images (N, 64) with a mean of about 0, and labels."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


class Scores(NamedTuple):
    """Mean cross-entropies, and the share of test images classified correctly, from 0 to 1."""

    loss: float
    test_loss: float
    accuracy: float


def split(train: int = 1297, seed: int = 0) -> Split:
    """Shuffles the digits; some are for training, the last 500 for testing."""
    data = load_digits()
    images, labels = torch.from_numpy(data.data).float() / 8 - 0.6, torch.from_numpy(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    chosen, rest = order[:train], order[-500:]
    return Split(images[chosen], labels[chosen], images[rest], labels[rest])


def mlp(*widths: int, seed: int = 0) -> nn.Sequential:
    """Linear layers with ReLU in between, with torch's initialisation."""
    torch.manual_seed(seed)
    layers = [layer for wide, narrow in pairwise(widths) for layer in (nn.Linear(wide, narrow), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def scores(model: nn.Module, data: Split) -> Scores:
    model.eval()
    outputs, test_outputs = model(data.images), model(data.test_images)
    model.train()
    losses = cross_entropy(outputs, data.labels), cross_entropy(test_outputs, data.test_labels)
    right = (test_outputs.argmax(1) == data.test_labels).double().mean()
    return Scores(*(loss.item() for loss in losses), right.item())


def steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: Split, count: int, batch: int = 64, seed: int = 0
) -> Iterator[float]:
    """Trains, and yields the loss of each step. Between steps, the caller may step a scheduler."""
    order = torch.Generator().manual_seed(seed)
    left: list[Tensor] = []
    for _ in range(count):
        left = left or list(torch.randperm(len(data.labels), generator=order).split(batch))
        chosen = left.pop()
        optimizer.zero_grad()
        loss = cross_entropy(model(data.images[chosen]), data.labels[chosen])
        loss.backward()
        optimizer.step()
        yield loss.item()
