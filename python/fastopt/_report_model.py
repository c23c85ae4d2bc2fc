"""``python -m fastopt --model module:factory``: what ``convert`` makes of a model."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from .nn import convert


def load(place: str) -> torch.nn.Module:
    """The model that ``module:factory`` names: a class or function to call without arguments, or a module.

    Raises:
        ValueError: it cannot be found, or is not a model.
    """
    name, colon, path = place.partition(":")
    if not (name and colon and path):
        raise ValueError(f"--model has to be module:factory, as torchvision.models:resnet18, but got {place!r}")
    try:
        found: Any = importlib.import_module(name)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--model {place}: {error}") from error
    model = found if isinstance(found, torch.nn.Module) else found() if callable(found) else found
    if not isinstance(model, torch.nn.Module):
        raise ValueError(f"--model {place}: this is a {type(model).__name__}, not a torch.nn.Module")
    return model


def print_report(place: str, shape: str | None) -> None:
    """With ``shape``, as "8,3,224,224", also what ``fuse="trace"`` finds on a random input of it."""
    model = load(place)
    if shape is None:
        convert(model, report=True)
        return
    try:
        sizes = [int(size) for size in shape.split(",")]
    except ValueError:
        raise ValueError(f"--input has to be sizes with commas, as 8,3,224,224, but got {shape!r}") from None
    convert(model, fuse="trace", example=torch.randn(sizes), report=True)
