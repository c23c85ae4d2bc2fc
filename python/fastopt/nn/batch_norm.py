"""BatchNorm modules: torch's own, with this library's kernels, a residual and an activation."""

from __future__ import annotations

import torch

from ._norm.batch.modules import Fused


class BatchNorm1d(Fused, torch.nn.BatchNorm1d):
    """:func:`fastopt.nn.functional.batch_norm` as a module, a drop-in for ``torch.nn.BatchNorm1d``, for (N, C)
    and (N, C, L).

    The arguments are torch's and, keyword-only:

    Args:
        activation: applied to the result: "relu", "relu6", "leaky_relu", "elu", "silu", "gelu" or "hardswish".
        negative_slope: slope of "leaky_relu" below 0.

    The forward pass takes a second, optional tensor, which is added before the activation:
    ``bn(x, residual)`` is ``activation(bn(x) + residual)``, in one pass. State dicts are those of torch, both ways.

    Raises:
        ValueError: there is no such ``activation``; in the forward pass: wrong number of dimensions, or a single value
            per channel in training.
    """


class BatchNorm2d(Fused, torch.nn.BatchNorm2d):
    """BatchNorm of (N, C, H, W), in any memory format. See :class:`BatchNorm1d`."""


class BatchNorm3d(Fused, torch.nn.BatchNorm3d):
    """BatchNorm of (N, C, D, H, W), in any memory format. See :class:`BatchNorm1d`."""


class LazyBatchNorm1d(Fused, torch.nn.LazyBatchNorm1d):
    """A :class:`BatchNorm1d` whose ``num_features`` is that of the first input, a drop-in for
    ``torch.nn.LazyBatchNorm1d``."""

    cls_to_become = BatchNorm1d


class LazyBatchNorm2d(Fused, torch.nn.LazyBatchNorm2d):
    """Lazy BatchNorm of (N, C, H, W). See :class:`LazyBatchNorm1d`."""

    cls_to_become = BatchNorm2d


class LazyBatchNorm3d(Fused, torch.nn.LazyBatchNorm3d):
    """Lazy BatchNorm of (N, C, D, H, W). See :class:`LazyBatchNorm1d`."""

    cls_to_become = BatchNorm3d
