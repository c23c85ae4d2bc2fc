"""Batch normalization over several processes: one collective operation forward, one backward.

Each process gathers what the others have (float64, two numbers per channel) and joins it in the order of the ranks, so
that all come to the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from ... import _runtime
from .checks import check
from .dense import Maybe, channels, like, like_or_none, parameter, put_back

if TYPE_CHECKING:
    from .call import Call, Gradients, Wanted


def group_of(name: str) -> Any:
    resolve: Any = dist.distributed_c10d._resolve_process_group  # type: ignore[attr-defined]
    return resolve(name)


def gathered(own: Tensor, group: str) -> list[Tensor]:
    """What each process has, in the order of the ranks."""
    process_group = group_of(group)
    everybodys = [torch.empty_like(own) for _ in range(dist.get_world_size(process_group))]
    dist.all_gather(everybodys, own, group=process_group)
    return everybodys


class SumAll(torch.autograd.Function):
    """Over all processes, differentiable any number of times."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: str) -> Tensor:
        ctx.group = group
        return torch.stack(gathered(own.contiguous(), group)).sum(0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return SumAll.apply(grad, ctx.group), None


def _run(kernel: str, *arguments: Any) -> None:
    if not getattr(_runtime.kernels, kernel)(*arguments):
        raise RuntimeError("SyncBatchNorm: cannot take tensors of this type, or on this device")


def _join(moments: Tensor, count: float, theirs: Tensor, others: float) -> Tensor:
    """As the kernels join chunks (``csrc/norm/batch_norm.h``)."""
    fraction = others / (count + others)
    delta = theirs[0] - moments[0]
    squares = moments[1] + (theirs[1] + delta * delta * (count * fraction))
    return torch.stack([moments[0] + delta * fraction, squares])


def _statistics(call: Call, input: Tensor, running_mean: Maybe, running_var: Maybe) -> Tensor:
    """Of all processes, (3, C): mean, 1 / standard deviation, count. The running ones are updated."""
    own = torch.zeros(2 * channels(input) + 1, dtype=torch.float64, device=input.device)
    own[-1] = input.numel() // channels(input)
    _run("batch_norm_moments", own[:-1].view(2, -1), input, torch.get_num_threads())
    joined, count = torch.zeros(2, channels(input), dtype=torch.float64, device=input.device), 0.0
    for theirs in gathered(own, call.group):
        others = theirs[-1].item()
        if others > 0:
            joined = _join(joined, count, theirs[:-1].view(2, -1), others)
            count += others
    if count == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {input.shape} and nothing in the "
            "other processes"
        )
    statistics = torch.zeros(3, channels(input), dtype=torch.float64, device=input.device)
    statistics[2] = count
    if count > 0:
        now = (parameter(running_mean), parameter(running_var))
        _run("batch_norm_settle", statistics[:2], joined, count, *now, call.momentum, call.eps)
        put_back((running_mean, running_var), now)
    return statistics


def forward(
    call: Call,
    input: Tensor,
    residual: Maybe,
    weight: Maybe,
    bias: Maybe,
    running_mean: Maybe,
    running_var: Maybe,
) -> tuple[Tensor, Tensor]:
    check(True, input, residual, weight, bias, running_mean, running_var)
    dense = like(input, input)
    statistics = _statistics(call, dense, running_mean, running_var)
    out = torch.empty_like(input)
    operands = (dense, like_or_none(dense, residual), parameter(weight), parameter(bias), statistics[:2])
    how = (call.activation, call.negative_slope, torch.get_num_threads())
    _run("batch_norm_apply", out.as_subclass(Tensor), *operands, *how)
    return out, statistics


def backward(
    call: Call,
    wants: Wanted,
    grad: Tensor,
    input: Tensor,
    residual: Maybe,
    weight: Maybe,
    bias: Maybe,
    statistics: Tensor,
) -> Gradients:
    """The gradients of this process; of weight and bias its own share, as DistributedDataParallel averages them."""
    wants_input, wants_residual, wants_weight, wants_bias = wants
    dense = like(input, input)
    operands = (
        *(like(dense, grad), dense, like_or_none(dense, residual)),
        *(parameter(weight), parameter(bias), statistics[:2]),
    )
    how = (call.activation, call.negative_slope, torch.get_num_threads())
    own = torch.zeros(2, channels(input), dtype=torch.float64, device=input.device)
    _run("batch_norm_sums", own, *operands, *how)
    passes = call.activation == "identity"
    grad_input = torch.empty_like(dense) if wants_input else None
    grad_residual = torch.empty_like(dense) if wants_residual and not passes else None
    sums = torch.stack(gathered(own, call.group)).sum(0) if wants_input else None
    if wants_input or grad_residual is not None:
        count = statistics[2, 0].item()
        _run("batch_norm_gradient", grad_input, grad_residual, *operands, sums, count, *how)
    grad_weight = (own[1] * statistics[1]).to(weight.dtype) if wants_weight and weight is not None else None
    grad_bias = own[0].to(bias.dtype) if wants_bias and bias is not None else None
    return grad_input, grad if wants_residual and passes else grad_residual, grad_weight, grad_bias
