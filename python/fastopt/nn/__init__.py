"""Modules, drop-in for their namesakes in ``torch.nn``, and ``functional``, their functional twins."""

from . import functional
from .dropout import AlphaDropout, DropConnect, Dropout, Dropout1d, Dropout2d, Dropout3d, FeatureAlphaDropout

__all__ = [
    "AlphaDropout",
    "DropConnect",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "FeatureAlphaDropout",
    "functional",
]
