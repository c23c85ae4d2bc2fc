"""BatchNorm over several processes."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from .._compiler import constant
from ._norm.batch import dispatch
from ._norm.batch.call import Call
from ._norm.batch.checks import check_eps
from ._norm.batch.modules import Fused
from ._norm.dense import Maybe
from ._norm.fusion import Activation


class _Base(_BatchNorm):
    """``torch.nn.SyncBatchNorm`` without its forward pass. It is no subclass of it, because DistributedDataParallel
    refuses those on the CPU."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **options)
        self.process_group = process_group

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")
        if input.size(1) == 0:
            raise ValueError("SyncBatchNorm number of input channels should be non-zero")


class SyncBatchNorm(Fused, _Base):
    """BatchNorm whose statistics in training are those of all processes of a group, a drop-in for
    ``torch.nn.SyncBatchNorm``, on the CPU (gloo) and on CUDA (NCCL). Inputs are (N, C, ...), with batches of any size,
    even empty ones.

    The arguments are torch's, and those of :class:`BatchNorm1d`. There is one collective operation in the forward pass
    and one in the backward pass; all processes get the same bits. Gradients can be differentiated again. Without a
    group, in a group of one process, and in evaluation it is BatchNorm.

    Raises:
        ValueError: see :class:`BatchNorm1d`; on the CPU also for a single value per channel in all processes together.
            On CUDA this check would have to wait for the device; running variances become NaN instead.
        RuntimeError: see :func:`fastopt.nn.functional.batch_norm`.
    """

    def _batch_norm(self, input: Tensor, residual: Maybe, after: Activation | None) -> Tensor:
        group = _group_name(self.process_group) if self.training else ""
        if not group:
            return super()._batch_norm(input, residual, after)
        self._check_input_dim(input)
        return self._normalize(_synchronized, input, residual, after, group=group)

    @classmethod
    def convert_sync_batchnorm(cls, module: torch.nn.Module, process_group: Any = None) -> torch.nn.Module:
        """Replaces all BatchNorm modules in ``module``, ours and torch's, by this one: parameters and buffers are
        shared, activations kept.

        Args:
            module: a model, or a BatchNorm.
            process_group: as for the constructor.

        Returns:
            ``module``, or the new module where it is a BatchNorm itself.
        """
        result = module
        if isinstance(module, _BatchNorm):
            result = _converted(cls, cast(Any, module), process_group)
        for name, child in module.named_children():
            result.add_module(name, cls.convert_sync_batchnorm(child, process_group))
        return result


def _synchronized(
    input: Tensor,
    running_mean: Maybe,
    running_var: Maybe,
    weight: Maybe,
    bias: Maybe,
    training: bool,
    momentum: float,
    eps: float,
    *,
    activation: str | None,
    residual: Maybe,
    negative_slope: float,
    group: str,
) -> Tensor:
    check_eps(eps, training)
    call = Call(training, momentum, eps, activation or "identity", negative_slope, group)
    return dispatch.batch_norm(call, (input, residual, weight, bias, running_mean, running_var))


@constant
def _group_name(process_group: Any) -> str:
    """Returns the name of the group; "" where it has no other process."""
    if not (dist.is_available() and dist.is_initialized()):
        return ""
    group: Any = dist.group.WORLD if process_group is None else process_group
    return str(group.group_name) if dist.get_world_size(group) > 1 else ""


def _converted(cls: type[SyncBatchNorm], old: Any, process_group: Any) -> SyncBatchNorm:
    new = cls(
        old.num_features,
        old.eps,
        old.momentum,
        affine=False,
        track_running_stats=False,
        process_group=process_group,
        activation=getattr(old, "activation", None),
        negative_slope=getattr(old, "negative_slope", 0.01),
    )
    for name in ("affine", "track_running_stats", "training", "weight", "bias"):
        setattr(new, name, getattr(old, name))
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        setattr(new, name, getattr(old, name))
    if hasattr(old, "qconfig"):
        new.qconfig = old.qconfig
    return new
