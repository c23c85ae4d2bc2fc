"""The forward passes of the modules, which take the attributes of torch's."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..._leaf import as_call, is_proxy
from ...functional import group_norm, instance_norm, layer_norm, rms_norm
from .. import fusion
from ..dense import Maybe
from ..fusion import Activation
from ..modules import Activating


class Normalizing(Activating):
    """The forward pass alone, or with an activation that follows it."""

    def forward(self, input: Tensor, residual: Maybe = None, return_sum: bool = False) -> Any:
        if is_proxy(input):
            return as_call(self, input, residual, **({"return_sum": True} if return_sum else {}))
        return self._normalize(input, residual, return_sum, self.activation, self.negative_slope)

    _forward_of_ours: Any = forward

    def _normalize_and(self, input: Tensor, residual: Maybe, after: Activation | None) -> Any:
        """Runs the forward pass with a residual that is added after it, and with an activation of another module."""
        if after is None or residual is not None or is_proxy(input):
            return fusion.finish(self(input), residual, after)
        return self._normalize(input, None, False, *after)

    def _adds_before(self) -> bool:
        """Whether a residual is added before normalizing, and the sum is a result as well."""
        return True

    def _add_and_normalize(self, input: Tensor, residual: Tensor) -> Any:
        """Returns the result and the sum."""
        return self._normalize(input, residual, True, self.activation, self.negative_slope)

    def _normalize(
        self, input: Tensor, residual: Maybe, return_sum: bool, activation: str | None, negative_slope: float
    ) -> Any:
        how = {"return_sum": return_sum, "activation": activation, "negative_slope": negative_slope}
        return self._norm(input, residual=residual, **how)

    @abstractmethod
    def _norm(self, input: Tensor, **how: Any) -> Any:
        """Calls the function with the module's attributes."""


def _parameter(module: Any, name: str) -> Maybe:
    """Returns it from the dict where torch keeps it, because ``nn.Module.__getattr__`` is slow."""
    if not torch.compiler.is_compiling():
        try:
            return module._parameters[name]
        except KeyError:  # a parametrized weight, for example
            pass
    return getattr(module, name)


class RMSNormalizing(Normalizing):
    round_before_weight: bool = False

    def _norm(self, input: Tensor, **how: Any) -> Any:
        module: Any = self
        weight = _parameter(module, "weight")
        how["round_before_weight"] = self.round_before_weight
        return rms_norm(input, module.normalized_shape, weight, module.eps, **how)


class LayerNormalizing(Normalizing):
    def _norm(self, input: Tensor, **how: Any) -> Any:
        module: Any = self
        weight, bias = _parameter(module, "weight"), _parameter(module, "bias")
        return layer_norm(input, module.normalized_shape, weight, bias, module.eps, **how)


class GroupNormalizing(Normalizing):
    def _norm(self, input: Tensor, **how: Any) -> Any:
        module: Any = self
        weight, bias = _parameter(module, "weight"), _parameter(module, "bias")
        return group_norm(input, module.num_groups, weight, bias, module.eps, **how)


class InstanceNormalizing(Normalizing):
    def _norm(self, input: Tensor, **how: Any) -> Any:
        module: Any = self
        residual: Maybe = how.pop("residual")
        module._check_input_dim(input)
        unbatched = module._get_no_batch_dim()
        dim = input.dim() - unbatched
        if input.shape[dim] != module.num_features:
            _other_channels(module, dim, input.shape[dim])
        if dim == 0:
            input, residual = input.unsqueeze(0), None if residual is None else residual.unsqueeze(0)
        found = instance_norm(
            input,
            module.running_mean,
            module.running_var,
            _parameter(module, "weight"),
            _parameter(module, "bias"),
            module.training or not module.track_running_stats,
            0.0 if module.momentum is None else module.momentum,
            module.eps,
            residual=residual,
            **how,
        )
        if dim == 1:
            return found
        return tuple(t.squeeze(0) for t in found) if how["return_sum"] else found.squeeze(0)


def _other_channels(module: Any, dim: int, channels: int) -> None:
    """Does what torch's modules do about a number of channels that differs from the module's."""
    if module.affine:
        raise ValueError(
            f"expected input's size at dim={dim} to match num_features ({module.num_features}), but got: {channels}."
        )
    warnings.warn(
        f"input's size at dim={dim} does not match num_features. You can silence this warning by not passing in "
        "num_features, which is not used because affine=False",
        stacklevel=5,
    )
