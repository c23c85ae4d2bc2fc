"""Batch normalization over several processes: one collective operation forward, one backward.

Each process gathers what the others have (float64, 2 C + 1 numbers) and joins it in the order of the ranks, so that all
come to the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ... import _runtime
from .._dispatch import any_watched, recorder
from . import composite
from .call import Call, Gradients, Maybe, Wanted, channels, dense_parameter, like
from .checks import check


class SyncCall:
    """A ``Call`` whose statistics are those of the whole group."""

    def __init__(self, call: Call, group: Any) -> None:
        self.call, self.group = call, group

    def _gathered(self, own: Tensor) -> list[Tensor]:
        all_of_them = [torch.empty_like(own) for _ in range(dist.get_world_size(self.group))]
        dist.all_gather(all_of_them, own, group=self.group)
        return all_of_them

    def statistics(self, input: Tensor, running_mean: Maybe, running_var: Maybe) -> tuple[Tensor, float]:
        """Of all processes, and the number of elements in a channel; the running ones are updated."""
        own = torch.zeros(2 * channels(input) + 1, dtype=torch.float64)
        moments = own[:-1].view(2, -1)
        own[-1] = input.numel() // channels(input)
        _run("batch_norm_moments", moments, input, torch.get_num_threads())
        joined, count = torch.zeros_like(moments), 0.0
        for theirs in self._gathered(own):
            if (others := theirs[-1].item()) > 0:
                joined = _join(joined, count, theirs[:-1].view(2, -1), others)
                count += others
        if count == 1:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {input.shape} and nothing in "
                "the other processes"
            )
        statistics = torch.zeros_like(joined)
        if count > 0:
            running = (dense_parameter(running_mean), dense_parameter(running_var))
            _run("batch_norm_settle", statistics, joined, count, *running, self.call.momentum, self.call.eps)
            for own_running, changed in zip((running_mean, running_var), running, strict=True):
                if own_running is not None and changed is not None:
                    own_running.detach().copy_(changed)  # also where nothing is to be copied: its version
        return statistics, count

    def backward(self, wants: Wanted, count: float, grad: Tensor, input: Tensor, *others: Maybe) -> Gradients:
        """The gradients of this process; of weight and bias its own share of them, as others average them."""
        residual, weight, bias, statistics = others
        assert statistics is not None
        grad = like(input, grad)
        operands = (grad, input, residual, dense_parameter(weight), dense_parameter(bias), statistics)
        how = (self.call.activation, self.call.negative_slope, torch.get_num_threads())
        own = torch.zeros_like(statistics)
        _run("batch_norm_sums", own, *operands, *how)
        passes = self.call.activation == "identity"
        grad_input = torch.empty_like(input) if wants[0] else None
        grad_residual = torch.empty_like(input) if wants[1] and not passes else None
        if wants[0] or grad_residual is not None:
            sums = torch.stack(self._gathered(own)).sum(0) if wants[0] else None
            _run("batch_norm_gradient", grad_input, grad_residual, *operands, sums, count, *how)
        of_weight = (own[1] * statistics[1]).to(weight.dtype) if wants[2] and weight is not None else None
        of_bias = own[0].to(bias.dtype) if wants[3] and bias is not None else None
        return grad_input, grad if wants[1] and passes else grad_residual, of_weight, of_bias

    def sum_all(self, values: Tensor) -> Tensor:
        """Over all processes, differentiable."""
        from torch.distributed.nn.functional import all_reduce

        total: Tensor = all_reduce(values, group=self.group)
        return total


_LAYOUTS = (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)


def _run(kernel: str, *arguments: Any) -> None:
    if not getattr(_runtime.kernels, kernel)(*arguments):
        raise RuntimeError("batch_norm: cannot take these tensors")


def _join(moments: Tensor, count: float, theirs: Tensor, others: float) -> Tensor:
    """As the kernels join chunks (``csrc/norm/batch_norm.h``)."""
    fraction = others / (count + others)
    delta = theirs[0] - moments[0]
    squares = moments[1] + (theirs[1] + delta * delta * (count * fraction))
    return torch.stack([moments[0] + delta * fraction, squares])


class _SyncBatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        *tensors, ctx.call = args
        out, statistics, ctx.count = run(ctx.call, *tensors)
        ctx.save_for_backward(*tensors[:4], statistics)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Maybe, ...]:
        wants = ctx.needs_input_grad[:4]
        if any_watched((grad, *ctx.saved_tensors)):
            found: Gradients = _record_gradients(grad, *ctx.saved_tensors, ctx.call, ctx.count, wants)
        else:
            found = ctx.call.backward(wants, ctx.count, grad, *ctx.saved_tensors)
        return (*found, None, None, None)


class _Gradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Gradients:
        *tensors, ctx.call, count, ctx.wants = args
        ctx.save_for_backward(*tensors)
        found: Gradients = ctx.call.backward(ctx.wants, count, *tensors)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Maybe) -> tuple[Maybe, ...]:
        *tensors, statistics = ctx.saved_tensors
        sync, needs = ctx.call, ctx.needs_input_grad[:5]
        found = composite.second_gradients(sync.call, statistics, ctx.wants, needs, tensors, grads, sync.sum_all)
        return (*found, None, None, None, None)


_record, _record_gradients = recorder(_SyncBatchNorm), recorder(_Gradients)


def run(
    sync: SyncCall,
    input: Tensor,
    residual: Maybe,
    weight: Maybe,
    bias: Maybe,
    running_mean: Maybe,
    running_var: Maybe,
) -> tuple[Tensor, Tensor, float]:
    check(True, input, residual, weight, bias, running_mean, running_var)
    if not input.is_cpu:
        raise NotImplementedError(f"SyncBatchNorm: there are no kernels for tensors on {input.device}")
    statistics, count = sync.statistics(input, running_mean, running_var)
    out = torch.empty_like(input)
    parameters = (dense_parameter(weight), dense_parameter(bias))
    how = (sync.call.activation, sync.call.negative_slope, torch.get_num_threads())
    _run("batch_norm_apply", out, input, residual, *parameters, statistics, *how)
    return out, statistics, count


def apply(sync: SyncCall, input: Tensor, residual: Maybe, *others: Maybe) -> Tensor:
    """On input, residual, weight, bias and running statistics, on record where autograd watches."""
    if not any(input.is_contiguous(memory_format=layout) for layout in _LAYOUTS):
        input = input.contiguous()
    if residual is not None and residual.shape == input.shape and residual.stride() != input.stride():
        residual = torch.empty_like(input, dtype=residual.dtype).copy_(residual)
    if any_watched((input, residual, *others[:2])):
        out: Tensor = _record(input, residual, *others, sync)
        return out
    return run(sync, input, residual, *others)[0]
