"""Trains a small network on 1797 real handwritten digits with Accelerate: accumulated gradients, a norm clipped inside
the step, a schedule, a checkpoint after every epoch, and resuming from it.

    python examples/train_accelerate.py [--epochs 12] [--folder checkpoints]

Started again, it goes on where it was stopped. The digits (8x8 pixels) come with scikit-learn; nothing is downloaded.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import accelerate
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fastopt


class Epoch:
    """The next epoch. Accelerate saves any object that has these two methods."""

    def __init__(self) -> None:
        self.next = 0

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]


def main(arguments: list[str] | None = None) -> float:
    """Returns the accuracy on 450 digits that training did not use."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--stop", type=int, help="stop after this epoch, as an interruption would")
    parser.add_argument("--folder", type=Path, default=Path("checkpoints"))
    options = parser.parse_args(arguments)
    accelerate.utils.set_seed(0)
    data = load_digits()
    images, labels = torch.from_numpy(data.data).float() / 16, torch.from_numpy(data.target)
    order = torch.randperm(len(labels))
    test, training = order[:450], order[450:]
    loader = DataLoader(TensorDataset(images[training], labels[training]), batch_size=32, shuffle=True)
    network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), fastopt.nn.Dropout(0.2), nn.Linear(128, 10))
    optimizer = fastopt.AdamW(fastopt.param_groups(network, weight_decay=0.05), lr=1e-2, max_grad_norm=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=options.epochs * len(loader) // 2)

    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    network, optimizer, loader, schedule = accelerator.prepare(network, optimizer, loader, schedule)
    epoch = Epoch()
    accelerator.register_for_checkpointing(epoch)
    if options.folder.exists():
        accelerator.load_state(str(options.folder))
    while epoch.next < (options.stop or options.epochs):
        for inputs, targets in loader:
            with accelerator.accumulate(network):
                loss = nn.functional.cross_entropy(network(inputs), targets)
                accelerator.backward(loss)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        epoch.next += 1
        accelerator.save_state(str(options.folder))
        accelerator.print(f"epoch {epoch.next}: loss {loss.item():.4f}, norm {optimizer.optimizer.grad_norm:.3f}")
    with torch.no_grad():
        accuracy = (network.eval()(images[test]).argmax(1) == labels[test]).double().mean().item()
    accelerator.print(f"accuracy: {100 * accuracy:.1f} %")
    return accuracy


if __name__ == "__main__":
    main()
