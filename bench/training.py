"""Whole training steps of real models, forward to update, on inputs so small that a step takes less than 0.3 s."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from . import zoo
from .models import GPT, VAE, ResNet20, bags, encoder, policy
from .operation import Case, Input, Tensors
from .task import Task


def _elbo(output: tuple[Tensor, Tensor, Tensor], targets: Tensor) -> Tensor:
    pixels, mean, log_var = output
    entropy = nn.functional.binary_cross_entropy_with_logits(pixels, targets, reduction="sum")
    return (entropy - 0.5 * (1 + log_var - mean**2 - log_var.exp()).sum()) / len(targets)


def _images(input: Input) -> Tensors:
    (shape,) = input.shapes
    return [torch.randn(shape), torch.randint(zoo.CLASSES, shape[:1])]


def _tokens(input: Input) -> Tensors:
    (shape,) = input.shapes
    text = torch.randint(zoo.WORDS, (shape[0], shape[1] + 1))
    return [text[:, :-1].contiguous(), text[:, 1:].contiguous()]


def pairs(input: Input) -> Tensors:
    """Inputs, and targets that have their own shape."""
    return [torch.randn(shape) for shape in input.shapes]


def _pixels(input: Input) -> Tensors:
    """Images that are their own targets."""
    (shape,) = input.shapes
    return [torch.rand(shape)] * 2


def _bags(input: Input) -> Tensors:
    (shape,) = input.shapes
    return [torch.randint(100_000, shape), torch.randint(zoo.CLASSES, shape[:1])]


CLIPPED: dict[str, Any] = {"options": {"lr": 1e-3, "weight_decay": 0.1}, "max_norm": 1.0}
RESNET = Task("a ResNet-20", ResNet20, _images, **CLIPPED).operation()
GPT_SMALL = Task("a GPT of 4 layers", GPT, _tokens, **CLIPPED).operation()

PHOTOS = Input("4 images", ((4, 3, 64, 64),))
TEXTS = Input("4 texts of 64", ((4, 64),))
SERIES = Input("8 series of 64", ((8, 64, 128), (8, 64, 128)))
TORCHVISION: dict[str, Any] = {
    "package": "torchvision",
    "optimizer": "SGD",
    "options": {"lr": 0.01, "momentum": 0.9},
}
DROPS = {"drop_rate": 0.1, "proj_drop_rate": 0.1}
SLOW: dict[str, Any] = {"package": "timm", "options": {"lr": 1e-4}}  # a higher lr lets the masks decide 3 steps
MODELS: tuple[tuple[Task, Input], ...] = (
    (Task("torchvision's resnet18", partial(zoo.torchvision, "resnet18"), _images, **TORCHVISION), PHOTOS),
    (
        Task(
            "torchvision's mobilenet_v3_small", partial(zoo.torchvision, "mobilenet_v3_small"), _images, **TORCHVISION
        ),
        PHOTOS,
    ),
    (
        Task("timm's efficientnet_b0", partial(zoo.timm, "efficientnet_b0", drop_rate=0.2), _images, package="timm"),
        PHOTOS,
    ),
    (
        Task("timm's vit_tiny", partial(zoo.timm, "vit_tiny_patch16_224", img_size=64, **DROPS), _images, **SLOW),
        PHOTOS,
    ),
    (Task("transformers' GPT-2, tiny", zoo.gpt2, _tokens, package=zoo.GPT2), TEXTS),
    (Task("transformers' BERT, tiny", zoo.bert, _tokens, package=zoo.BERT), TEXTS),
    (Task("nn.TransformerEncoder", encoder, pairs, nn.functional.mse_loss), SERIES),
    (Task("a VAE", VAE, _pixels, _elbo, "Adam"), Input("128 images", ((128, 784),))),
    (
        Task("a policy of 3 layers", policy, pairs, nn.functional.mse_loss, "Adam"),
        Input("64 observations", ((64, 8), (64, 4))),
    ),
    (  # torch's fused SGD takes no sparse gradients
        Task("EmbeddingBag, sparse", bags, _bags, optimizer="SGD", options={"lr": 0.1}, ways=("default",)),
        Input("128 bags of 20", ((128, 20),)),
    ),
)


def on_cpu() -> list[Case]:
    return [
        Case(RESNET, Input("32 images", ((32, 3, 32, 32),)), quick=True),
        Case(GPT_SMALL, TEXTS, quick=True),
        *[Case(task.operation(), input) for task, input in MODELS],
    ]


def on_cuda() -> list[Case]:
    return [
        Case(RESNET, Input("512 images", ((512, 3, 32, 32),)), quick=True),
        Case(GPT_SMALL, Input("64 texts of 64", ((64, 64),))),
    ]
