"""All that is measured."""

from __future__ import annotations

from types import ModuleType

from . import batch_norm, compiled, depth, dropout, optimizers, scaling, training
from .operation import Case

MODULES: tuple[ModuleType, ...] = (optimizers, dropout, batch_norm, depth, training, compiled, scaling)
FAMILIES = ("optimizers", "clip", "sparse", "dropout", "batch_norm", "training", "compiled", "scaling")


def cases(device: str) -> list[Case]:
    """Those for ``"cpu"`` or ``"cuda"``."""
    return [case for module in MODULES for case in (module.on_cuda() if device == "cuda" else module.on_cpu())]
