"""Lets modules of other classes run as ours: each gets a class made of its own class and a mixin of ours."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn


class Adapted(nn.Module):
    """The base of the mixins. ``_origin`` is the class that the module had before, and gets back."""

    _origin: type[nn.Module]
    _shows_arguments = False  # whether the forward of the mixin shows the arguments of that of the former class

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Makes copies and pickles name the module's former class: the class made here cannot be found by its name."""
        cls = type(self)
        if "_origin" not in vars(cls):
            return super().__reduce_ex__(protocol)
        return _empty, (cls.__mro__[1], cls._origin), self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__


_MADE: dict[tuple[type[nn.Module], type[nn.Module]], type[nn.Module]] = {}


def adapted(mixin: type[Adapted], cls: type[nn.Module]) -> type[nn.Module]:
    """Returns the class with the bases ``mixin`` and ``cls``, under the name of ``cls``."""
    if (mixin, cls) not in _MADE:
        names = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
        if mixin._shows_arguments:
            names["forward"] = names["_forward_of_ours"] = _as_theirs(mixin, cls)
        _MADE[mixin, cls] = type(cls.__name__, (mixin, cls), {"_origin": cls, **names})
    return _MADE[mixin, cls]


def _as_theirs(mixin: type[Adapted], cls: type[nn.Module]) -> Any:
    @functools.wraps(cls.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return mixin.forward(self, *args, **kwargs)

    return forward


def origin(module: nn.Module) -> type[nn.Module] | None:
    """Returns the class that an adapted module had before; None for other modules."""
    return vars(type(module)).get("_origin")


def become(module: Any, cls: type[nn.Module]) -> None:
    module.__class__ = cls


def _empty(mixin: type[Adapted], cls: type[nn.Module]) -> nn.Module:
    made = adapted(mixin, cls)
    return made.__new__(made)
