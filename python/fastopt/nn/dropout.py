"""Dropout modules: torch's own, with this library's masks and kernels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .._checks import check_module
from . import functional as F
from ._dropout.mask import check_p
from ._leaf import refuse_script, traced_as_call


class Dropout(torch.nn.Dropout):
    """:func:`fastopt.nn.functional.dropout` as a module, a drop-in for ``torch.nn.Dropout``.

    Args:
        p: probability of an element to be zeroed.
        inplace: write to the input and return it.

    Raises:
        ValueError: ``p`` is not between 0 and 1.
    """

    __prepare_scriptable__ = refuse_script

    @traced_as_call
    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, self.training, self.inplace)


class Dropout1d(torch.nn.Dropout1d):
    """:func:`fastopt.nn.functional.dropout1d` as a module: drops channels of (N, C, L) or (C, L). See
    :class:`Dropout`."""

    __prepare_scriptable__ = refuse_script

    @traced_as_call
    def forward(self, input: Tensor) -> Tensor:
        return F.dropout1d(input, self.p, self.training, self.inplace)


class Dropout2d(torch.nn.Dropout2d):
    """:func:`fastopt.nn.functional.dropout2d` as a module: drops channels of (N, C, H, W). See :class:`Dropout`."""

    __prepare_scriptable__ = refuse_script

    @traced_as_call
    def forward(self, input: Tensor) -> Tensor:
        return F.dropout2d(input, self.p, self.training, self.inplace)


class Dropout3d(torch.nn.Dropout3d):
    """:func:`fastopt.nn.functional.dropout3d` as a module: drops channels of (N, C, D, H, W) or (C, D, H, W). See
    :class:`Dropout`."""

    __prepare_scriptable__ = refuse_script

    @traced_as_call
    def forward(self, input: Tensor) -> Tensor:
        return F.dropout3d(input, self.p, self.training, self.inplace)


class AlphaDropout(torch.nn.AlphaDropout):
    """:func:`fastopt.nn.functional.alpha_dropout` as a module, for SELU networks. See :class:`Dropout`. ``inplace``
    works; torch's module ignores it."""

    __prepare_scriptable__ = refuse_script

    @traced_as_call
    def forward(self, input: Tensor) -> Tensor:
        return F.alpha_dropout(input, self.p, self.training, self.inplace)


class FeatureAlphaDropout(torch.nn.FeatureAlphaDropout):
    """:func:`fastopt.nn.functional.feature_alpha_dropout` as a module. See :class:`AlphaDropout`."""

    __prepare_scriptable__ = refuse_script

    @traced_as_call
    def forward(self, input: Tensor) -> Tensor:
        return F.feature_alpha_dropout(input, self.p, self.training, self.inplace)


class DropConnect(torch.nn.Module):
    """Runs a module with random weights set to zero, anew at each call: :func:`fastopt.nn.functional.drop_connect`.

    Wan et al., "Regularization of neural networks using DropConnect", 2013.

    Args:
        module: any module; its parameters stay where they are, and ``module.`` precedes their names.
        p: probability of a weight to be zeroed.
        weights: names of parameters in ``module.named_parameters()``; default: all of at least two dimensions.

    Raises:
        TypeError: ``module`` is not a module.
        ValueError: ``p`` is not between 0 and 1, a name is not that of a parameter, or there is none.
    """

    def __init__(self, module: torch.nn.Module, p: float = 0.5, weights: Iterable[str] | None = None) -> None:
        super().__init__()
        check_p(p)
        check_module("module", module)
        parameters = dict(module.named_parameters())
        names = [n for n, w in parameters.items() if w.dim() > 1] if weights is None else list(weights)
        for name in names:
            if name not in parameters:
                raise ValueError(
                    f"weights: the module has no parameter '{name}', only {', '.join(parameters) or 'none'}"
                )
        if not names:
            raise ValueError("weights: the module has no parameter to drop from")
        self.module, self.p, self.weights = module, p, names

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.training or self.p == 0:
            return self.module(*args, **kwargs)
        parameters = dict(self.module.named_parameters())
        dropped = {name: F.drop_connect(parameters[name], self.p) for name in self.weights}
        return torch.func.functional_call(self.module, dropped, args, kwargs)

    def extra_repr(self) -> str:
        return f"p={self.p}, weights={', '.join(self.weights)}"
