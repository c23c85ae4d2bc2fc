"""Overfitting: 200 handwritten digits, 40 of them with a label drawn at random, and what holds against it: dropout,
weight decay, and early stopping, which keeps the weights of the best validation loss and ends after 8 epochs without a
better one. Means of three seeds. Srivastava et al. 2014, "Dropout"; Prechelt 1998, "Early stopping - but when?".
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import digits
import fastopt
import style

IMAGES, WRONG, BATCH, EPOCHS, PATIENCE, SEEDS = 200, 40, 50, 80, 8, 3
METHODS = {  # dropout's p, weight decay, colour
    "nothing": (0.0, 0.0, style.VERMILION),
    "dropout 0.5": (0.5, 0.0, style.BLUE),
    "weight decay 3": (0.0, 3.0, style.GREEN),
}


def train(name: str, seed: int) -> Tensor:
    """Training loss, validation loss, test loss and test accuracy after each epoch: (EPOCHS, 4)."""
    p, weight_decay, _ = METHODS[name]
    torch.manual_seed(seed)
    data = digits.split(IMAGES, seed)
    data.labels[:WRONG] = torch.randint(10, (WRONG,))
    validation = data._replace(test_images=data.test_images[:200], test_labels=data.test_labels[:200])
    test = data._replace(test_images=data.test_images[200:], test_labels=data.test_labels[200:])
    hidden = [(nn.Linear(width, 256), nn.ReLU(), fastopt.nn.Dropout(p)) for width in (64, 256)]
    model = nn.Sequential(*hidden[0], *hidden[1], nn.Linear(256, 10))
    optimizer = fastopt.AdamW(fastopt.param_groups(model, weight_decay), lr=1e-3)
    epochs = []
    for step, _ in enumerate(digits.steps(model, optimizer, data, EPOCHS * IMAGES // BATCH, BATCH, seed), 1):
        if step % (IMAGES // BATCH) == 0:
            epochs.append((digits.scores(model, validation).test_loss, *digits.scores(model, test)))
    return torch.tensor(epochs)[:, [1, 0, 2, 3]]


def stop(validation: Tensor) -> int:
    """The epoch, counted from 1, whose weights early stopping keeps."""
    best = 0
    for epoch, loss in enumerate(validation):
        if loss < validation[best]:
            best = epoch
        elif epoch - best >= PATIENCE:
            break
    return best + 1


def measure() -> dict[str, Tensor]:
    return {name: torch.stack([train(name, seed) for seed in range(SEEDS)]) for name in METHODS}


def draw(measured: dict[str, Tensor]) -> Figure:
    figure, (losses, accuracies) = plt.subplots(1, 2)
    for name, runs in measured.items():
        colour, epochs = METHODS[name][2], range(1, EPOCHS + 1)
        training, _, test, accuracy = runs.mean(0).T
        losses.plot(epochs, training, ":", color=colour)
        losses.plot(epochs, test, color=colour)
        accuracies.plot(epochs, 100 * accuracy, color=colour, label=f"{name}: {100 * accuracy[-1]:.0f} % at the end")
    stops = [stop(run[:, 1]) for run in measured["nothing"]]
    kept = torch.stack([run[end - 1] for run, end in zip(measured["nothing"], stops, strict=True)]).mean(0)
    early, label = sum(stops) / SEEDS, f"early stopping: {100 * kept[3]:.0f} %"
    losses.plot(early, kept[2], "*", ms=12, color=style.BLACK, zorder=3)
    accuracies.plot(early, 100 * kept[3], "*", ms=12, color=style.BLACK, zorder=3, label=label)
    losses.set(xlabel="epoch", ylabel="cross-entropy", ylim=(0, 1.6), title="loss: lines test, dots training")
    accuracies.set(xlabel="epoch", ylabel="accuracy, %", ylim=(60, 92), title="test accuracy")
    accuracies.legend(loc="lower right")
    figure.suptitle("Trained on, a network learns its wrong labels by heart; each remedy keeps test accuracy up")
    return figure


if __name__ == "__main__":
    measured = style.main(__file__, __doc__, measure, draw)
