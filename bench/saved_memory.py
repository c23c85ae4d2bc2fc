"""Memory that a forward pass keeps until its backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from . import batch_norm, dropout
from .functions import Function, Functions
from .operation import Input, Tensors

DROPOUTS = ("dropout", "alpha_dropout", "dropout_add", "bias_dropout_add")
FOLLOWING = ("relu", "add relu", "silu")
MATRIX, IMAGES = Input("512x2048", ((512, 2048),)), batch_norm.input_of("32x64x56x56")
MEASURED: dict[str, tuple[Functions, Callable[..., Tensors]]] = {
    **{name: (dropout.functions(name), partial(dropout.tensors_for, name, MATRIX)) for name in DROPOUTS},
    **{
        f"batch_norm {then}": (batch_norm.functions(then), partial(batch_norm.tensors_for, then, IMAGES))
        for then in FOLLOWING
    },
}


def _kept(function: Function, tensors: Tensors) -> float:
    """Bytes per element that the graph holds: arguments, the result or something in between."""
    packed: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        packed.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function(*tensors)
    sizes = {storage.data_ptr(): storage.nbytes() for storage in (tensor.untyped_storage() for tensor in packed)}
    return sum(sizes.values()) / result.numel()


def kept_for_backward(only: str, families: Sequence[str], device: torch.device) -> dict[str, dict[str, float]]:
    """Bytes per element of float32, by function and competitor, for functions with ``only`` in their name."""
    found = {}
    for name, (functions, tensors_for) in MEASURED.items():
        if only in name and ("batch_norm" if name.startswith("batch_norm") else "dropout") in families:
            with device:
                tensors = tensors_for(requires_grad=True)
            found[name] = {who: _kept(functions[who], tensors) for who in ("fastopt", "torch default")}
    return found
