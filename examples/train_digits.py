"""Trains a small convolutional network on 1797 real handwritten digits, with torch.optim.AdamW and with
fastopt.AdamW from the same seed, and compares accuracy and the time spent inside ``step()``.

    python examples/train_digits.py [--epochs 40] [--out loss.png]

The digits (8x8 pixels) come with scikit-learn; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import fastopt

Split = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass
class Run:
    """The result of one training: losses and accuracies by epoch, and the seconds of every step."""

    name: str
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)


def digits() -> Split:
    """Training and test images (N, 1, 8, 8) in [0, 1], and their labels."""
    data = load_digits()
    images = torch.from_numpy(data.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(data.target)
    order = range(len(labels))
    train, test = train_test_split(list(order), test_size=0.25, random_state=0, stratify=data.target)
    return images[train], labels[train], images[test], labels[test]


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


class Training:
    """A network, its optimizer and the order of its data; trains an epoch at a time."""

    def __init__(self, name: str, optimizer: type[torch.optim.Optimizer], data: Split, seed: int) -> None:
        torch.manual_seed(seed)
        self.run = Run(name)
        self.model = network()
        self.optimizer = optimizer(self.model.parameters(), lr=1e-3, weight_decay=1e-2)
        self.data = data
        self.order = torch.Generator().manual_seed(seed)

    def epoch(self, batch: int = 64) -> None:
        images, labels, test_images, test_labels = self.data
        total = 0.0
        for chosen in torch.randperm(len(labels), generator=self.order).split(batch):
            loss = nn.functional.cross_entropy(self.model(images[chosen]), labels[chosen])
            self.optimizer.zero_grad()
            loss.backward()
            start = time.perf_counter()
            self.optimizer.step()
            self.run.step_seconds.append(time.perf_counter() - start)
            total += loss.item() * len(chosen)
        self.run.losses.append(total / len(labels))
        with torch.no_grad():
            right = self.model(test_images).argmax(1) == test_labels
        self.run.accuracies.append(right.double().mean().item())


def train(epochs: int, seed: int, console: Console) -> tuple[Run, Run]:
    """Runs both trainings, one epoch of each in turn, so that the machine's speed affects both alike."""
    data = digits()
    theirs = Training("torch.optim.AdamW", torch.optim.AdamW, data, seed)
    ours = Training("fastopt.AdamW", fastopt.AdamW, data, seed)
    with Progress(console=console) as progress:
        task = progress.add_task("training", total=2 * epochs)
        for _ in range(epochs):
            for training in (theirs, ours):
                training.epoch()
                progress.update(task, advance=1, description=f"{training.run.name}, loss {training.run.losses[-1]:.4f}")
    return theirs.run, ours.run


def report(theirs: Run, ours: Run, console: Console) -> None:
    table = Table(title="digits: 1347 images to train, 450 to test")
    table.add_column("", no_wrap=True)
    for column in ("accuracy", "final loss", "ms in step()", "us per step"):
        table.add_column(column, justify="right", no_wrap=True)
    for run in (theirs, ours):
        table.add_row(
            run.name,
            f"{100 * run.accuracies[-1]:.2f} %",
            f"{run.losses[-1]:.5f}",
            f"{1e3 * sum(run.step_seconds):.1f}",
            f"{1e6 * statistics.median(run.step_seconds):.0f}",
        )
    console.print(table)
    ratio = statistics.median(theirs.step_seconds) / statistics.median(ours.step_seconds)
    total = sum(theirs.step_seconds) / sum(ours.step_seconds)
    console.print(f"step() is {ratio:.1f} times faster (median), {total:.1f} times in total")


def plot(theirs: Run, ours: Run, file: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for run, style in ((theirs, "-"), (ours, "--")):
        epochs = range(1, len(run.losses) + 1)
        left.semilogy(epochs, run.losses, style, label=run.name)
        right.plot(epochs, [100 * a for a in run.accuracies], style, label=run.name)
    left.set(xlabel="epoch", ylabel="training loss", title="the same curve")
    right.set(xlabel="epoch", ylabel="test accuracy, %", title="handwritten digits")
    left.legend()
    right.legend()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> tuple[Run, Run]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("digits_loss.png"), help="the loss-curve picture")
    options = parser.parse_args(arguments)
    console = Console()
    theirs, ours = train(options.epochs, options.seed, console)
    report(theirs, ours, console)
    plot(theirs, ours, options.out)
    console.print(f"loss curves: {options.out}")
    return theirs, ours


if __name__ == "__main__":
    main()
