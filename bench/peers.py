"""Whom we are measured against: every way torch, or another package, can take the same step."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import warnings
from typing import Any

import torch

from .case import Maker, Peers, Tensors
from .measure import Step

# "default" is what a user gets without flags; which of the others is fastest differs from row to row.
VARIANTS: dict[str, dict[str, bool]] = {
    "default": {},
    "foreach": {"foreach": True},
    "for-loop": {"foreach": False},
    "fused": {"fused": True},
}


def variants(rival: str, **kwargs: Any) -> Peers:
    """By name, the implementations the class ``rival`` has here, ``"torch fused"``; none where it is missing.

    Args:
        rival: the class's full name, such as ``torch.optim.Adam``.
        kwargs: its arguments.
    """
    module, _, name = rival.rpartition(".")
    package = module.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        return {}
    if package != "torch":
        warnings.filterwarnings("ignore", module=package)  # what it says of this torch is its own affair
    cls = getattr(importlib.import_module(module), name, None)
    if cls is None:
        return {}
    known = inspect.signature(cls).parameters

    def maker(flags: dict[str, bool]) -> Maker:
        return lambda params: cls(params, **kwargs, **flags).step

    return {f"{package} {name}": maker(flags) for name, flags in VARIANTS.items() if flags.keys() <= known.keys()}


def clipped(peers: Peers, max_norm: float) -> Peers:
    """Each with ``clip_grad_norm_`` before its step. It scales the gradients at every step, by 1 after the first."""

    def maker(make: Maker) -> Maker:
        def build(params: Tensors) -> Step:
            step = make(params)

            def clip_and_step() -> None:
                torch.nn.utils.clip_grad_norm_(params, max_norm)
                step()

            return clip_and_step

        return build

    return {name: maker(make) for name, make in peers.items()}
