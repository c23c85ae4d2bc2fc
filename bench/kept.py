"""Memory that a forward pass keeps until its backward pass."""

from __future__ import annotations

import torch

from .dropout import Function, competitors, tensors_for

FUNCTIONS = ("dropout", "alpha_dropout", "dropout_add", "bias_dropout_add")


def _kept(function: Function, tensors: list[torch.Tensor]) -> float:
    """Bytes per element, in memory that belongs neither to ``tensors`` nor to the result."""
    packed: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        packed.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function(*tensors)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*tensors, result)}
    sizes = {storage.data_ptr(): storage.nbytes() for storage in (tensor.untyped_storage() for tensor in packed)}
    return sum(size for start, size in sizes.items() if start not in own) / result.numel()


def kept_for_backward(only: str) -> dict[str, dict[str, float]]:
    """Bytes per element of float32, for each function with ``only`` in its name, by competitor."""
    found = {}
    for name in FUNCTIONS:
        if only in name:
            tensors = tensors_for(name, (512, 2048), requires_grad=True)
            found[name] = {who: _kept(function, tensors) for who, function in competitors(name).items()}
    return found
