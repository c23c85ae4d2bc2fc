"""The base classes of the BatchNorm modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .... import _runtime
from ..._leaf import as_call, is_proxy
from ..._tracing import is_traced
from ...functional import batch_norm
from .. import fusion
from ..dense import Maybe
from ..fusion import Activation
from ..modules import Activating, Constructed


class Normalizing(Activating):
    """The forward pass of a module with the attributes of torch's BatchNorm, alone or with what follows it."""

    def forward(self, input: Tensor, residual: Maybe = None) -> Tensor:
        if is_proxy(input):
            return as_call(self, input, residual)
        return self._batch_norm(input, residual, self._own())

    _forward_of_ours: Any = forward

    def _normalize_and(self, input: Tensor, residual: Maybe, after: Activation | None) -> Tensor:
        """Runs the forward pass with a residual and with an activation of another module."""
        fits = residual is None or (residual.shape == input.shape and residual.dtype == input.dtype)
        if not fits or is_proxy(input):  # torch's addition knows how to broadcast
            return fusion.finish(self(input), residual, after)
        return self._batch_norm(input, residual, after)

    def _adds_after(self) -> bool:
        return True

    def _batch_norm(self, input: Tensor, residual: Maybe, after: Activation | None) -> Tensor:
        self._check_input_dim(input)  # type: ignore[operator]
        return self._normalize(batch_norm, input, residual, after)

    def _normalize(
        self, function: Any, input: Tensor, residual: Maybe, after: Activation | None, **options: Any
    ) -> Tensor:
        """Does what torch's modules do around the function: counts batches, and hands over running statistics where
        they are used or updated."""
        module: Any = self
        weight, bias, running_mean, running_var, batches = _tensors(self)
        training, momentum = module.training, 0.0 if module.momentum is None else module.momentum
        batch = training or (running_mean is None and running_var is None)
        if training and not module.track_running_stats:
            running_mean = running_var = None
        elif training and batches is not None:
            if is_traced() or not _runtime.kernels.count(batches):
                batches.add_(1)
            if module.momentum is None:
                momentum = 1.0 / float(batches)
        result: Tensor = function(
            input,
            running_mean,
            running_var,
            weight,
            bias,
            batch,
            momentum,
            module.eps,
            activation=None if after is None else after.name,
            residual=residual,
            negative_slope=0.01 if after is None else after.negative_slope,
            **options,
        )
        return result


def _tensors(module: Any) -> tuple[Maybe, Maybe, Maybe, Maybe, Maybe]:
    """Returns weight, bias, running mean and variance, and number of batches from the dicts where torch keeps them,
    because ``nn.Module.__getattr__`` is slow."""
    if not torch.compiler.is_compiling():
        parameters, buffers = module._parameters, module._buffers
        try:
            return (
                parameters["weight"],
                parameters["bias"],
                buffers["running_mean"],
                buffers["running_var"],
                buffers["num_batches_tracked"],
            )
        except KeyError:  # a parametrized weight, for example
            pass
    return module.weight, module.bias, module.running_mean, module.running_var, module.num_batches_tracked


class Fused(Constructed, Normalizing):
    """The base of our BatchNorm modules, before torch's class."""
