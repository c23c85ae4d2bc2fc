"""fastopt: fused native kernels for training neural networks with PyTorch.

Every optimizer is a drop-in for its namesake in ``torch.optim``: same arguments, defaults, errors,
state and checkpoints. ``fastopt.info()`` tells what runs underneath.
"""

from . import optim
from ._runtime import info
from ._version import __version__
from .optim import SGD, Adam, AdamW

__all__ = ["SGD", "Adam", "AdamW", "__version__", "info", "optim"]
