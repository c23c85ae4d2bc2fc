"""All that is measured."""

from __future__ import annotations

from . import batch_norm, dropout, optimizers
from .case import Case

FAMILIES = (optimizers, dropout, batch_norm)


def cases(device: str) -> list[Case]:
    """Those for ``"cpu"`` or ``"cuda"``."""
    return [case for family in FAMILIES for case in (family.on_cuda() if device == "cuda" else family.on_cpu())]
