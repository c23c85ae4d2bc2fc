"""What the modules of all norms have in common: an activation, and the part of a norm in larger modules."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from .._leaf import refuse_script
from .activations import check_activation
from .fusion import Activation


class Activating(torch.nn.Module):
    """A norm with an activation, or with that of a module that follows it."""

    # These belong to the class, so that torch's modules can become ours (fastopt.nn.convert).
    activation: str | None = None
    negative_slope: float = 0.01

    __prepare_scriptable__ = refuse_script

    def _own(self) -> Activation | None:
        return None if self.activation is None else Activation(self.activation, self.negative_slope)

    def _ends_in_norm(self) -> bool:
        return self.activation is None

    def _adds_after(self) -> bool:
        """Whether a residual is added after normalizing."""
        return False


class Constructed(Activating):
    """The constructor of our modules. It stands before torch's class in their bases."""

    def __init_subclass__(cls) -> None:
        """Shows torch's arguments and ours in the signature."""
        super().__init_subclass__()
        torchs = [base for base in cls.__bases__ if not issubclass(base, Activating)]
        if not torchs:
            return
        theirs = inspect.signature(torchs[0]).parameters.values()
        written = [base.__init__ for base in (Constructed, cls) if "__init__" in vars(base)]
        every = [p for init in written for p in inspect.signature(init).parameters.values()]
        ours = [p for p in every if p.kind is p.KEYWORD_ONLY]
        named = [p for p in theirs if p.kind is not p.VAR_KEYWORD]
        cls.__signature__ = inspect.Signature([*named, *ours])  # type: ignore[attr-defined]

    def __init__(self, *args: Any, activation: str | None = None, negative_slope: float = 0.01, **options: Any) -> None:
        check_activation(activation)
        super().__init__(*args, **options)
        if activation is not None:
            self.activation, self.negative_slope = activation, negative_slope

    def extra_repr(self) -> str:
        name = self.activation
        if name is None:
            return super().extra_repr()
        slope = f", negative_slope={self.negative_slope}" if name == "leaky_relu" else ""
        return f"{super().extra_repr()}, activation={name}{slope}"
