"""Models of torch's modules, run by ours."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TypeVar

from torch import nn

from . import batch_norm, dropout, sync_batch_norm
from ._batch_norm import fusion
from ._batch_norm.modules import Fused

Model = TypeVar("Model", bound=nn.Module)

OURS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: batch_norm.BatchNorm1d,
    nn.BatchNorm2d: batch_norm.BatchNorm2d,
    nn.BatchNorm3d: batch_norm.BatchNorm3d,
    nn.SyncBatchNorm: sync_batch_norm.SyncBatchNorm,
    nn.Dropout: dropout.Dropout,
    nn.Dropout1d: dropout.Dropout1d,
    nn.Dropout2d: dropout.Dropout2d,
    nn.Dropout3d: dropout.Dropout3d,
    nn.AlphaDropout: dropout.AlphaDropout,
    nn.FeatureAlphaDropout: dropout.FeatureAlphaDropout,
}
TORCHS = {ours: torchs for torchs, ours in OURS.items()}
NORMS = {norm for pair in OURS.items() if issubclass(pair[1], Fused) for norm in pair}


def convert(model: Model, *, fuse: bool = True) -> Model:
    """Lets the BatchNorm and Dropout modules of ``model`` run on our kernels.

    Modules stay the objects they are, with their parameters, buffers, hooks and places in the model; only their class
    changes. Subclasses of torch's modules are left alone.

    Args:
        model: changed in place.
        fuse: BatchNorm also applies a ReLU that directly follows it in an ``nn.Sequential``, if neither is used
            elsewhere in the model or has hooks. What runs the Sequential's parts one by one (slices of it, feature
            extractors) sees the activation earlier by one module.

    Returns:
        ``model``.
    """
    if fuse:
        _fuse(model)
    for module in model.modules():
        if type(module) in OURS:
            module.__class__ = OURS[type(module)]
    return model


def revert(model: Model) -> Model:
    """Takes back what :func:`convert` has done; modules that were made as ours become torch's, too.

    Args:
        model: changed in place.

    Returns:
        ``model``.

    Raises:
        ValueError: a module has an activation that torch's has no place for, or is a
            :class:`~fastopt.nn.DropConnect`; nothing is changed.
    """
    for name, module in model.named_modules():
        if type(module) in TORCHS and getattr(module, "activation", None) is not None:
            raise ValueError(f"module '{name}' applies {module.activation}: torch has no such module")
        if type(module) is dropout.DropConnect:
            raise ValueError(f"module '{name}' is a DropConnect: torch has no such module")
    for module in model.modules():
        fusion.separate(module)
        if type(module) in TORCHS:
            module.__class__ = TORCHS[type(module)]
    return model


def _fuse(model: nn.Module) -> None:
    uses = Counter(id(child) for module in model.modules() for child in module._modules.values())
    for sequential in [module for module in model.modules() if type(module) is nn.Sequential]:
        for norm, relu in pairwise(sequential):
            kinds = type(norm) in NORMS and type(relu) is nn.ReLU
            if kinds and uses[id(norm)] == uses[id(relu)] == 1 and not (_altered(norm) or _altered(relu)):
                fusion.fuse(sequential, norm, relu)


def _altered(module: nn.Module) -> bool:
    """Whether it does more than its class says."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    more = "forward" in vars(module) or getattr(module, "activation", None) is not None
    return more or any(getattr(module, name, None) for name in hooks)
