"""Lets norms of torchvision and timm run on our kernels, if these packages are imported."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn

from ._adapted import Adapted, adapted
from ._leaf import as_call, is_proxy
from ._norm import fusion
from ._norm.batch.modules import Normalizing
from ._norm.fusion import Activation
from .functional import batch_norm


class NormAct(Normalizing, Adapted):
    """timm's BatchNormAct2d: a BatchNorm2d with a dropout ``drop`` and an activation ``act``."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        if is_proxy(input):
            return as_call(self, input)  # type: ignore[no-any-return]
        known = None
        if not fusion.calls_are_watched() and fusion.is_identity(self.drop):
            known = fusion.activation_of(self.act)
        y = self._batch_norm(input, None, known)
        return y if known is not None else self.act(self.drop(y))

    _forward_of_ours: Any = forward

    def _ends_in_norm(self) -> bool:
        return fusion.is_identity(self.drop) and fusion.is_identity(self.act)


class Frozen(Normalizing, Adapted):
    """torchvision's FrozenBatchNorm2d: four buffers and ``eps``, always in evaluation."""

    def _batch_norm(self, input: Tensor, residual: Tensor | None, after: Activation | None) -> Tensor:
        module: Any = self
        if input.ndim != 4 or input.dtype != module.weight.dtype:  # torchvision's own code promotes types
            return fusion.finish(self._origin.forward(self, input), residual, after)
        return batch_norm(
            input,
            module.running_mean,
            module.running_var,
            module.weight,
            module.bias,
            eps=module.eps,
            activation=None if after is None else after.name,
            residual=residual,
            negative_slope=0.01 if after is None else after.negative_slope,
        )


_NORMS: dict[tuple[str, str], Any] = {
    ("timm.layers.norm_act", "BatchNormAct2d"): NormAct,
    ("torchvision.ops.misc", "FrozenBatchNorm2d"): Frozen,
}
_ACTIVATIONS = {("timm.layers.activations", "GELU"): "gelu", ("timm.layers.activations", "HardSwish"): "hardswish"}


def _imported(module: str, name: str) -> type[nn.Module] | None:
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None


def norms() -> dict[type[nn.Module], type[nn.Module]]:
    """Returns our class for each of these classes, and makes the packages' activations known."""
    for place, name in _ACTIVATIONS.items():
        if (cls := _imported(*place)) is not None:
            fusion.add_activation(cls, Activation(name))
    found = ((_imported(*place), mixin) for place, mixin in _NORMS.items())
    return {cls: adapted(mixin, cls) for cls, mixin in found if cls is not None}
