"""Optimizers whose states and arithmetic are on the host, while the parameters are on a device."""

from .offloaded import offload

__all__ = ["offload"]
