"""Applies the kernels of the norms of single samples to tensors of any layout, without autograd."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from .... import _runtime
from ..checks import check_device, check_memory
from ..dense import Gradients, Maybe, Wanted, like, like_or_none, parameter
from .checks import check

Operands: TypeAlias = tuple[Tensor, Maybe, Maybe, Maybe]  # input, residual, weight, bias

_FUNCTIONS = {"rms": "rms_norm", "rms_rounded": "rms_norm", "layer": "layer_norm", "group": "group_norm"}


class Call(NamedTuple):
    """The arguments of a call except its tensors.

    Attributes:
        kind: "layer" and "rms" normalize rows, "group" groups of a sample's channels. "rms_rounded" is "rms" that
            rounds to a half type before it multiplies by the weight.
        size: elements of a row, or number of groups.
    """

    kind: str
    size: int
    eps: float
    activation: str
    negative_slope: float

    @property
    def function(self) -> str:
        return _FUNCTIONS[self.kind]

    @property
    def is_operator(self) -> bool:
        return False

    @property
    def centers(self) -> bool:
        """Whether the mean is subtracted."""
        return self.kind in ("layer", "group")

    def sets(self, input: Tensor) -> int:
        """Returns how many means and deviations there are."""
        if self.kind == "group":
            return input.shape[0] * self.size
        return input.numel() // self.size if self.size else 0

    def statistics_for(self, input: Tensor) -> Tensor:
        """Returns room for them. Taken after the results: memory behind a large result keeps the C library from giving
        that result back to the system when it is freed, page by page, and asking for it again in the next call."""
        return input.new_empty(2, self.sets(input), dtype=torch.float64)

    def takes(self, input: Tensor) -> bool:
        """Whether the kernels take this layout. Others exist that they would take, but results have torch's layout."""
        if input.is_contiguous():
            return True
        if self.kind != "group":
            return False
        return (input.ndim == 4 and input.is_contiguous(memory_format=torch.channels_last)) or (
            input.ndim == 5 and input.is_contiguous(memory_format=torch.channels_last_3d)
        )

    def prepared(self, input: Tensor) -> Tensor:
        """Returns ``input`` as a plain tensor that the kernels take."""
        dense = like(input, input)
        return dense if self.takes(dense) else dense.contiguous()

    def forward(self, operands: Operands) -> tuple[Tensor, Maybe, Tensor]:
        """Returns the result, the sum of input and residual where there is a residual, and the statistics: float64,
        mean and ``1 / sqrt(variance + eps)`` of each set."""
        input, residual, weight, bias = operands
        if input.dtype == torch.float64:  # the kernels would take float32 parameters, which torch and compilers refuse
            check(self, operands)
        options = (*self, torch.get_num_threads())
        run = _runtime.kernels.norm
        if self.takes(input):
            out = torch.empty_like(input)
            total = None if residual is None else torch.empty_like(input)
            statistics = self.statistics_for(input)
            if run(out, total, *operands, statistics, *options):
                return out, total, statistics
        check(self, operands)
        check_device(self.function, input)
        check_memory(self.function, input=input, residual=residual, weight=weight, bias=bias)
        dense = self.prepared(input)
        out = torch.empty_like(dense)
        total = None if residual is None else torch.empty_like(dense)
        statistics = self.statistics_for(input)
        given = (dense, like_or_none(dense, residual), parameter(weight), parameter(bias))
        if input.numel() and not run(out, total, *given, statistics, *options):
            raise RuntimeError(f"{self.function}: cannot take an input of type {input.dtype} on {input.device}")
        return out, total, statistics

    def backward(
        self,
        wants: Wanted,
        grad: Tensor,
        grad_sum: Maybe,
        input: Tensor,
        weight: Maybe,
        bias: Maybe,
        statistics: Tensor,
    ) -> Gradients:
        """Returns the wanted gradients of input (or of its sum with a residual, which is ``input`` then), weight and
        bias, and None for the others. ``grad_sum`` is a gradient that has come to the sum from elsewhere."""
        kind, size, _, activation, negative_slope = self
        options = (kind, size, activation, negative_slope, torch.get_num_threads())
        run = _runtime.kernels.norm_backward
        if self.takes(input):
            results = _room_for_gradients(wants, input, weight, bias)
            if run(*results, grad, grad_sum, input, weight, bias, statistics, *options):
                return results
        check_memory(self.function, grad=grad, grad_sum=grad_sum, input=input, weight=weight, bias=bias)
        dense = self.prepared(input)
        gradients = (like(dense, grad), like_or_none(dense, grad_sum))
        parameters = (parameter(weight), parameter(bias))
        results = _room_for_gradients(wants, dense, *parameters)
        if not run(*results, *gradients, dense, *parameters, statistics, *options):
            if input.numel():
                raise RuntimeError(f"{self.function}: cannot take a gradient of type {grad.dtype} on {grad.device}")
            return tuple(None if result is None else result.zero_() for result in results)
        return results


def _room_for_gradients(wants: Wanted, input: Tensor, weight: Maybe, bias: Maybe) -> Gradients:
    wants_input, wants_weight, wants_bias = wants
    return (
        torch.empty_like(input) if wants_input else None,
        torch.empty_like(weight) if wants_weight and weight is not None else None,
        torch.empty_like(bias) if wants_bias and bias is not None else None,
    )
