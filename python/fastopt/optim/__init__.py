"""Drop-in optimizers: ``fastopt.optim.X`` is ``torch.optim.X``, fused."""

from .adam import Adam
from .adamw import AdamW
from .sgd import SGD

ALL = (SGD, Adam, AdamW)

__all__ = ["SGD", "Adam", "AdamW"]
