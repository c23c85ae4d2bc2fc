"""Trains a small network on 1797 real handwritten digits with Lightning: bfloat16, accumulated gradients, a norm
clipped inside the step, a schedule and averaged weights.

    python examples/train_lightning.py [--epochs 12]

The digits (8x8 pixels) come with scikit-learn; nothing is downloaded.
"""

from __future__ import annotations

import argparse
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import WeightAveraging
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

import fastopt


class Digits(lightning.LightningModule):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.network = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1, bias=False),
            fastopt.nn.BatchNorm2d(32, activation="relu"),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 128),
            nn.ReLU(),
            fastopt.nn.Dropout(0.2),
            nn.Linear(128, 10),
        )

    def configure_optimizers(self) -> Any:
        groups = fastopt.param_groups(self, weight_decay=0.05)
        optimizer = fastopt.AdamW(groups, lr=3e-3, max_grad_norm=1.0)  # instead of the Trainer's gradient_clip_val
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.network(images), labels)

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        images, labels = batch
        self.log("accuracy", (self.network(images).argmax(1) == labels).float().mean(), prog_bar=True)


def main(arguments: list[str] | None = None) -> float:
    """Returns the averaged weights' accuracy on 450 digits that training did not use."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args(arguments)
    lightning.seed_everything(0)
    data = load_digits()
    images, labels = torch.from_numpy(data.images).float().unsqueeze(1) / 16, torch.from_numpy(data.target)
    order = torch.randperm(len(labels))
    training, test = (TensorDataset(images[part], labels[part]) for part in (order[450:], order[:450]))
    loader = DataLoader(training, batch_size=32, shuffle=True, drop_last=True)
    trainer = lightning.Trainer(
        max_epochs=options.epochs,
        accelerator="cpu",
        precision="bf16-mixed",
        accumulate_grad_batches=2,
        callbacks=[WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(0.95))],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    model = Digits(steps=options.epochs * len(loader) // 2)
    trainer.fit(model, loader, DataLoader(test, batch_size=450))
    accuracy = float(trainer.callback_metrics["accuracy"])
    print(f"accuracy of the averaged weights: {100 * accuracy:.1f} %")
    return accuracy


if __name__ == "__main__":
    main()
