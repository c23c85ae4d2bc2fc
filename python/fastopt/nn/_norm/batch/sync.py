"""Batch normalization over several processes: one collective operation forward, one backward.

Each process gathers what the others have (float64, two numbers per channel) and joins it in the order of the ranks, so
that all get the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .... import _runtime
from ...._processes import gathered
from ..checks import check_device
from ..dense import Gradients, Maybe, Operands, Wanted, channels, like, like_or_none, parameter, put_back
from .call import Call
from .checks import check


def group_of(name: str) -> Any:
    resolve: Any = dist.distributed_c10d._resolve_process_group  # type: ignore[attr-defined]
    return resolve(name)


class SumAll(torch.autograd.Function):
    """Sums over all processes; differentiable any number of times."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: str) -> Tensor:
        ctx.group = group
        return gathered(own.contiguous(), group_of(group)).sum(0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return SumAll.apply(grad, ctx.group), None


def _run(kernel: str, *arguments: Any) -> None:
    if not getattr(_runtime.kernels, kernel)(*arguments):
        raise RuntimeError("SyncBatchNorm: cannot take tensors of this type, or on this device")


class SyncCall(Call):
    """A call whose statistics are those of a group of processes."""

    __slots__ = ()

    def forward(self, operands: Operands) -> tuple[Tensor, Tensor]:
        """Returns result and statistics, which have a third row: the number of elements per channel."""
        input, residual, weight, bias, running_mean, running_var = operands
        check(True, operands)
        check_device("SyncBatchNorm", input)
        dense = like(input, input)
        statistics = self._statistics(dense, running_mean, running_var)
        out = torch.empty_like(input)
        taken = (dense, like_or_none(dense, residual), parameter(weight), parameter(bias), statistics)
        how = (self.activation, self.negative_slope, torch.get_num_threads())
        _run("batch_norm_apply", out.as_subclass(Tensor), *taken, *how)
        return out, statistics

    def backward(
        self,
        wants: Wanted,
        grad: Tensor,
        input: Tensor,
        residual: Maybe,
        weight: Maybe,
        bias: Maybe,
        statistics: Tensor,
    ) -> Gradients:
        """Returns the gradients of this process. Those of weight and bias are its own share, because
        DistributedDataParallel averages them."""
        wants_input, wants_residual, wants_weight, wants_bias = wants
        dense = like(input, input)
        operands = (
            *(like(dense, grad), dense, like_or_none(dense, residual)),
            *(parameter(weight), parameter(bias), statistics),
        )
        how = (self.activation, self.negative_slope, torch.get_num_threads())
        own = torch.zeros(2, channels(input), dtype=torch.float64, device=input.device)
        _run("batch_norm_sums", own, *operands, *how)
        passes = self.activation == "identity"
        grad_input = torch.empty_like(dense) if wants_input else None
        grad_residual = torch.empty_like(dense) if wants_residual and not passes else None
        sums = gathered(own, group_of(self.group)).sum(0) if wants_input else None
        if wants_input or grad_residual is not None:
            _run("batch_norm_gradient", grad_input, grad_residual, *operands, sums, *how)
        grad_weight = (own[1] * statistics[1]).to(weight.dtype) if wants_weight and weight is not None else None
        grad_bias = own[0].to(bias.dtype) if wants_bias and bias is not None else None
        return grad_input, grad if wants_residual and passes else grad_residual, grad_weight, grad_bias

    def _statistics(self, input: Tensor, running_mean: Maybe, running_var: Maybe) -> Tensor:
        """Returns the statistics of all processes, (3, C): mean, 1 / standard deviation, count. It updates the running
        statistics, and does not wait for a GPU."""
        own = torch.empty(2 * channels(input) + 1, dtype=torch.float64, device=input.device)
        own[-1].fill_(input.numel() // channels(input))
        _run("batch_norm_moments", own[:-1].view(2, -1), input, torch.get_num_threads())
        everybodys = gathered(own, group_of(self.group))
        if input.is_cpu and everybodys[:, -1].sum() == 1:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {input.shape} and nothing in "
                "the other processes"
            )
        statistics = torch.empty(3, channels(input), dtype=torch.float64, device=input.device)
        now = (parameter(running_mean), parameter(running_var))
        _run("batch_norm_gather_stats", statistics, everybodys, *now, self.momentum, self.eps)
        put_back((running_mean, running_var), now)
        return statistics


def for_kernels(call: Call) -> Call:
    """Gives a call the class that runs its kernels. It gets it this late because operators carry only its fields, and
    the compiler of older torch versions knows no subclass of a named tuple."""
    return SyncCall(*call) if call.group else call
