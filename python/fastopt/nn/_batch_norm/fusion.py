"""A BatchNorm and the ReLU that follows it in an ``nn.Sequential``, as ``fastopt.nn.convert`` makes them one.

Both know the Sequential, and look at each other's place in it whenever they run: where either has been replaced or
moved, the other goes back to what it is alone.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class FusedReLU(nn.ReLU):
    """A ReLU that the BatchNorm before it applies: :func:`fastopt.nn.convert` makes it one, :func:`fastopt.nn.revert` a
    ``nn.ReLU`` again."""

    _sequential: nn.Sequential  # it is part of; not among its own modules

    def forward(self, input: Tensor) -> Tensor:
        return input if any(relu is self for _, relu in pairs_in(self._sequential)) else super().forward(input)


def pairs_in(sequential: nn.Sequential) -> list[tuple[nn.Module, FusedReLU]]:
    """Those that are still neighbours."""
    found = []
    norm: nn.Module | None = None
    for part in sequential:  # torch 2.4's compiler does not know pairwise()
        known = getattr(norm, "_sequential", None) is sequential and getattr(norm, "activation", None) is None
        if norm is not None and known and type(part) is FusedReLU:
            found.append((norm, part))
        norm = part
    return found


def has_relu(norm: nn.Module) -> bool:
    """Whether the ReLU that was made one with it still follows."""
    sequential = getattr(norm, "_sequential", None)
    return sequential is not None and any(before is norm for before, _ in pairs_in(sequential))


def fuse(sequential: nn.Sequential, norm: nn.Module, relu: nn.Module) -> None:
    vars(norm)["_sequential"] = vars(relu)["_sequential"] = sequential
    _become(relu, FusedReLU)


def separate(module: nn.Module) -> None:
    vars(module).pop("_sequential", None)
    if type(module) is FusedReLU:
        _become(module, nn.ReLU)


def _become(module: Any, cls: type[nn.Module]) -> None:
    module.__class__ = cls
