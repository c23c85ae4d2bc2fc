"""BatchNorm over several processes."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from . import functional
from ._batch_norm import sync
from ._batch_norm.call import Call, Maybe
from ._batch_norm.checks import check_eps
from ._batch_norm.modules import Fused


def _sync_batch_norm(
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
    process_group: Any,
) -> Tensor:
    check_eps(eps, training)
    call = Call(training, momentum, eps, activation or "identity", negative_slope)
    tensors = (input, residual, weight, bias, running_mean, running_var)
    return sync.apply(sync.SyncCall(call, process_group), *tensors)


class SyncBatchNorm(Fused, torch.nn.SyncBatchNorm):
    """BatchNorm whose statistics in training are those of all processes of a group, a drop-in for
    ``torch.nn.SyncBatchNorm`` that also runs on the CPU (gloo): (N, C, ...), batches of any size, empty ones too.

    The arguments are torch's, and those of :class:`BatchNorm1d`. There is one collective operation in the forward pass
    and one in the backward pass; all processes come to the same bits. Gradients can be differentiated again.
    """

    def forward(self, input: Tensor, residual: Maybe = None) -> Tensor:
        self._check_input_dim(input)
        self._check_non_zero_input_channels(input)
        if self.training and _group_size(self.process_group) > 1:
            return self._normalize(_sync_batch_norm, input, residual, process_group=self.process_group)
        return self._normalize(functional.batch_norm, input, residual)

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
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            result = _converted(cls, cast(Any, module), process_group)
        for name, child in module.named_children():
            result.add_module(name, cls.convert_sync_batchnorm(child, process_group))
        return result


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
    new.affine, new.track_running_stats, new.training = old.affine, old.track_running_stats, old.training
    new.weight, new.bias = old.weight, old.bias
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        setattr(new, name, getattr(old, name))
    if hasattr(old, "qconfig"):
        new.qconfig = old.qconfig
    return new


def _group_size(process_group: Any) -> int:
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size(process_group)
