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
from ._norm.sample.modules import GroupNormalizing, LayerNormalizing, RMSNormalizing
from .functional import batch_norm


class WithAct(Adapted):
    """A norm of timm with a dropout ``drop`` and an activation ``act``."""

    drop: nn.Module
    act: nn.Module

    def _forward(self, input: Tensor) -> Tensor:
        if is_proxy(input):
            return as_call(self, input)  # type: ignore[no-any-return]
        if not self._takes(input):
            return self._origin.forward(self, input)  # type: ignore[no-any-return]
        known = None
        if not fusion.calls_are_watched() and fusion.is_identity(self.drop):
            known = fusion.activation_of(self.act)
        y = self._normalized(input, known)
        return y if known is not None else self.act(self.drop(y))

    forward: Any = _forward
    _forward_of_ours: Any = _forward

    def _ends_in_norm(self) -> bool:
        return fusion.is_identity(self.drop) and fusion.is_identity(self.act)

    def _adds_before(self) -> bool:
        return False

    def _takes(self, input: Tensor) -> bool:
        """Whether ours does what their own ``forward`` would."""
        return True

    def _normalized(self, input: Tensor, after: Activation | None) -> Tensor:
        raise NotImplementedError


class NormAct(WithAct, Normalizing):
    """timm's BatchNormAct2d."""

    def _normalized(self, input: Tensor, after: Activation | None) -> Tensor:
        return self._batch_norm(input, None, after)


class Frozen(Normalizing, Adapted):
    """torchvision's FrozenBatchNorm2d: four buffers and ``eps``, always in evaluation."""

    def _fits(self, input: Tensor) -> bool:
        """Whether types are equal; torchvision's own code promotes others."""
        module: Any = self
        return input.ndim == 4 and input.dtype == module.weight.dtype

    def _batch_norm(self, input: Tensor, residual: Tensor | None, after: Activation | None) -> Tensor:
        module: Any = self
        if not self._fits(input):
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


class FrozenAct(WithAct, Frozen):
    """timm's FrozenBatchNormAct2d."""

    def _takes(self, input: Tensor) -> bool:
        return self._fits(input)

    def _normalized(self, input: Tensor, after: Activation | None) -> Tensor:
        return self._batch_norm(input, None, after)


_OPTION = "_fast_norm"  # timm's, not torch's


def _is_fast(module: Any) -> bool:
    return bool(getattr(module, _OPTION, False))


class _Fast(Adapted):
    """A norm of timm, whose ``_fast_norm`` asks for other functions than torch's."""

    def _adds_before(self) -> bool:
        parent: Any = super()
        return not _is_fast(self) and bool(parent._adds_before())

    def _normalize(
        self, input: Tensor, residual: Tensor | None, return_sum: bool, activation: str | None, negative_slope: float
    ) -> Any:
        if not _is_fast(self):
            parent: Any = super()
            return parent._normalize(input, residual, return_sum, activation, negative_slope)
        h = input if residual is None else input + residual
        after = None if activation is None else Activation(activation, negative_slope)
        y = fusion.finish(self._origin.forward(self, h), None, after)
        return (y, h) if return_sum else y


class _LastChannels(LayerNormalizing):
    """A LayerNorm over the channels of (N, C, H, W)."""

    def _adds_before(self) -> bool:
        return False  # the layout of the sum would be another than torch's

    def _normalize(
        self, input: Tensor, residual: Tensor | None, return_sum: bool, activation: str | None, negative_slope: float
    ) -> Any:
        moved = [None if t is None else t.permute(0, 2, 3, 1) for t in (input, residual)]
        found = super()._normalize(*moved, return_sum, activation, negative_slope)  # type: ignore[call-arg, arg-type]
        if return_sum:
            return tuple(t.permute(0, 3, 1, 2) for t in found)
        return found.permute(0, 3, 1, 2)


class OfLayers(_Fast, LayerNormalizing):
    """timm's LayerNorm."""


class OfLayers2d(_Fast, _LastChannels):
    """LayerNorm2d of timm and torchvision."""


class OfGroups(_Fast, GroupNormalizing):
    """timm's GroupNorm."""


class OfSquares(_Fast, RMSNormalizing):
    """timm's RmsNorm."""


class _SampleAct(WithAct):
    def _takes(self, input: Tensor) -> bool:
        return not _is_fast(self)

    def _ends_in_norm(self) -> bool:
        return super()._ends_in_norm() and not _is_fast(self)

    def _normalized(self, input: Tensor, after: Activation | None) -> Tensor:
        own: Any = self
        name, slope = (None, 0.01) if after is None else after
        return own._normalize(input, None, False, name, slope)  # type: ignore[no-any-return]


class LayersAct(_SampleAct, LayerNormalizing):
    """timm's LayerNormAct."""


class LayersAct2d(_SampleAct, _LastChannels):
    """timm's LayerNormAct2d."""


class GroupsAct(_SampleAct, GroupNormalizing):
    """timm's GroupNormAct."""


class SquaresAct(_SampleAct, RMSNormalizing):
    """timm's RmsNormAct."""


_NORMS: dict[tuple[str, str], Any] = {
    ("timm.layers.norm_act", "BatchNormAct2d"): NormAct,
    ("timm.layers.norm_act", "FrozenBatchNormAct2d"): FrozenAct,
    ("timm.layers.norm_act", "GroupNormAct"): GroupsAct,
    ("timm.layers.norm_act", "GroupNorm1Act"): GroupsAct,
    ("timm.layers.norm_act", "LayerNormAct"): LayersAct,
    ("timm.layers.norm_act", "LayerNormAct2d"): LayersAct2d,
    ("timm.layers.norm_act", "RmsNormAct"): SquaresAct,
    ("timm.layers.norm", "GroupNorm"): OfGroups,
    ("timm.layers.norm", "GroupNorm1"): OfGroups,
    ("timm.layers.norm", "LayerNorm"): OfLayers,
    ("timm.layers.norm", "LayerNorm2d"): OfLayers2d,
    ("timm.layers.norm", "RmsNorm"): OfSquares,
    ("torchvision.models.convnext", "LayerNorm2d"): OfLayers2d,
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
