"""Modules of the norms of single samples: torch's own, with this library's kernels, a residual and an activation."""

from __future__ import annotations

from typing import Any

import torch

from ._norm.modules import Constructed
from ._norm.sample.modules import GroupNormalizing, InstanceNormalizing, LayerNormalizing, RMSNormalizing


class RMSNorm(Constructed, RMSNormalizing, torch.nn.RMSNorm):
    """:func:`fastopt.nn.functional.rms_norm` as a module, a drop-in for ``torch.nn.RMSNorm``, for
    (..., *normalized_shape).

    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019. The arguments are torch's and, keyword-only:

    Args:
        activation: applied to the result: "relu", "relu6", "leaky_relu", "elu", "silu", "gelu" or "hardswish".
        negative_slope: slope of "leaky_relu" below 0.
        round_before_weight: round the normalized input to its half type before it is multiplied by the weight, as
            Hugging Face's models do.

    The forward pass takes a second, optional tensor, which is added first: ``norm(x, residual)`` is ``norm(x +
    residual)``, and ``norm(x, residual, return_sum=True)`` returns the sum as well, all in one pass. (BatchNorm adds
    its residual after normalizing.) State dicts are those of torch, both ways.

    Raises:
        ValueError: there is no such ``activation``; in the forward pass: ``return_sum`` without a residual.
        RuntimeError: in the forward pass, see :func:`fastopt.nn.functional.rms_norm`.
    """

    def __init__(self, *args: Any, round_before_weight: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        if round_before_weight:
            self.round_before_weight = True

    def extra_repr(self) -> str:
        return super().extra_repr() + (", round_before_weight=True" if self.round_before_weight else "")


class LayerNorm(Constructed, LayerNormalizing, torch.nn.LayerNorm):
    """:func:`fastopt.nn.functional.layer_norm` as a module, a drop-in for ``torch.nn.LayerNorm``, for
    (..., *normalized_shape).

    Ba, Kiros and Hinton, "Layer Normalization", 2016. The arguments are torch's and, keyword-only:

    Args:
        activation, negative_slope: see :class:`RMSNorm`, as for the residual in the forward pass.

    Raises:
        ValueError: see :class:`RMSNorm`.
        RuntimeError: in the forward pass, see :func:`fastopt.nn.functional.layer_norm`.
    """


class GroupNorm(Constructed, GroupNormalizing, torch.nn.GroupNorm):
    """:func:`fastopt.nn.functional.group_norm` as a module, a drop-in for ``torch.nn.GroupNorm``, for (N, C, ...), in
    any memory format.

    Wu and He, "Group Normalization", 2018. The arguments are torch's and, keyword-only:

    Args:
        activation, negative_slope: see :class:`RMSNorm`, as for the residual in the forward pass.

    Raises:
        ValueError: ``num_groups`` does not divide ``num_channels``; see also :class:`RMSNorm`.
        RuntimeError: in the forward pass, see :func:`fastopt.nn.functional.group_norm`.
    """


class InstanceNorm1d(Constructed, InstanceNormalizing, torch.nn.InstanceNorm1d):
    """:func:`fastopt.nn.functional.instance_norm` as a module, a drop-in for ``torch.nn.InstanceNorm1d``, for (N, C, L)
    and (C, L).

    Ulyanov, Vedaldi and Lempitsky, "Instance Normalization: The Missing Ingredient for Fast Stylization", 2016. The
    arguments are torch's and, keyword-only:

    Args:
        activation, negative_slope: see :class:`RMSNorm`, as for the residual in the forward pass.

    Raises:
        ValueError: wrong number of dimensions or of channels, or a single value per channel; see also
            :class:`RMSNorm`.
        RuntimeError: in the forward pass, see :func:`fastopt.nn.functional.instance_norm`.
    """


class InstanceNorm2d(Constructed, InstanceNormalizing, torch.nn.InstanceNorm2d):
    """InstanceNorm of (N, C, H, W) and (C, H, W), in any memory format. See :class:`InstanceNorm1d`."""


class InstanceNorm3d(Constructed, InstanceNormalizing, torch.nn.InstanceNorm3d):
    """InstanceNorm of (N, C, D, H, W) and (C, D, H, W), in any memory format. See :class:`InstanceNorm1d`."""


class LazyInstanceNorm1d(Constructed, InstanceNormalizing, torch.nn.LazyInstanceNorm1d):
    """An :class:`InstanceNorm1d` whose ``num_features`` is that of the first input, a drop-in for
    ``torch.nn.LazyInstanceNorm1d``."""

    cls_to_become = InstanceNorm1d


class LazyInstanceNorm2d(Constructed, InstanceNormalizing, torch.nn.LazyInstanceNorm2d):
    """Lazy InstanceNorm of (N, C, H, W). See :class:`LazyInstanceNorm1d`."""

    cls_to_become = InstanceNorm2d


class LazyInstanceNorm3d(Constructed, InstanceNormalizing, torch.nn.LazyInstanceNorm3d):
    """Lazy InstanceNorm of (N, C, D, H, W). See :class:`LazyInstanceNorm1d`."""

    cls_to_become = InstanceNorm3d
