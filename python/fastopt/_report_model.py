"""``python -m fastopt --model module:factory`` shows what ``convert`` makes of a model."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import torch

from .nn import convert


def load(place: str) -> torch.nn.Module:
    """Returns the model that ``module:factory`` names: a class or function to call without arguments, or a module.

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
    model = found
    if callable(found) and not isinstance(found, torch.nn.Module):
        _needs_nothing(place, found)
        model = found()
    if not isinstance(model, torch.nn.Module):
        raise ValueError(f"--model {place}: this is a {type(model).__name__}, not a torch.nn.Module")
    return model


def _needs_nothing(place: str, factory: Any) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # a builtin may not tell its arguments
        return
    try:
        signature.bind()
    except TypeError as error:
        raise ValueError(f"--model {place}: it is called without arguments, but {error}") from None


def print_report(place: str, shape: str | None) -> None:
    """Prints what ``convert`` makes of a model; with ``shape``, as "8,3,224,224", also what ``fuse="trace"`` finds on a
    random input."""
    model = load(place)
    if shape is None:
        convert(model, report=True)
        return
    try:
        sizes = [int(size) for size in shape.split(",")]
        example = torch.randn(sizes)
    except (ValueError, RuntimeError):
        raise ValueError(f"--input has to be sizes with commas, as 8,3,224,224, but got {shape!r}") from None
    try:
        convert(model, fuse="trace", example=example, report=True)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:  # from the model's own forward
        raise ValueError(f"--input {shape}: the model cannot take it: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
