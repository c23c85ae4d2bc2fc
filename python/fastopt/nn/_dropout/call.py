"""Applies a kernel of the dropout family to tensors of any layout, without autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import _runtime
from . import mask


class Call:
    """The arguments of a call except its tensors, and all that is kept for the backward pass. A seed that only a GPU
    knows is a tensor on that GPU."""

    __slots__ = ("dims", "kernel", "offset", "p", "rule", "scalars", "seed", "threshold")

    def __init__(self, rule: str, p: float, dims: int, seed: int | Tensor, offset: int) -> None:
        self.rule, self.p, self.dims, self.seed, self.offset = rule, p, dims, seed, offset
        self.kernel, self.threshold, self.scalars = mask.constants(rule, p)

    def gradient(self) -> Call:
        """Returns the call that turns a gradient of the result into one of the input."""
        if self.rule == "dropout":
            return self
        return Call(mask.gradient(self.rule), self.p, self.dims, self.seed, self.offset)

    def run(
        self, input: Tensor, residual: Tensor | None = None, bias: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """Runs on any strided tensors of one type; ``out`` may be ``input``. With a bias the result is contiguous."""
        result = torch.empty_like(input) if out is None else out
        if self._run_dense(result, input, residual, bias):
            return result
        check_type(self.rule, input)
        check_device(self.rule, input)
        with torch.no_grad():
            plain = input.as_subclass(Tensor)
            for name, tensor in {"input": input, "residual": residual, "bias": bias}.items():
                if tensor is not None:
                    _runtime.refuse_freed(tensor, f"{self.rule}: {name}")
            if bias is None:
                dense = _like(plain, plain)
            else:
                dense, bias = plain.contiguous().clone(), bias.as_subclass(Tensor).contiguous().resolve_neg()
            if residual is not None:
                residual = _like(dense, residual)
            if not self._run_dense(dense, dense, residual, bias):
                raise RuntimeError(f"{self.rule}: cannot take tensors of type {input.dtype} on {input.device}")
            return dense if out is None else out.copy_(dense)

    def _run_dense(self, out: Tensor, input: Tensor, residual: Tensor | None, bias: Tensor | None) -> bool:
        taken: bool = _runtime.kernels.drop(
            self.kernel,
            out,
            input,
            residual,
            bias,
            self.dims,
            self.seed,
            self.offset,
            self.threshold,
            self.scalars,
            torch.get_num_threads(),
        )
        return taken

    def sums(self, grad: Tensor, wants_input: bool) -> tuple[Tensor | None, Tensor]:
        """Returns the gradients of input and bias of ``bias_dropout_add``; the first is None where it is not wanted."""
        grad = grad.as_subclass(Tensor).contiguous().resolve_neg()
        grad_input = torch.empty_like(grad) if wants_input else None
        grad_bias = grad.new_empty(grad.shape[-1:])
        taken = _runtime.kernels.drop_and_sum(
            grad_input,
            grad_bias,
            grad,
            self.seed,
            self.offset,
            self.threshold,
            self.scalars[0],
            torch.get_num_threads(),
        )
        if not taken:
            check_device(self.rule, grad)
            _runtime.refuse_freed(grad, f"{self.rule}: the gradient")
            raise RuntimeError(f"{self.rule}: cannot take a gradient of type {grad.dtype} on {grad.device}")
        return grad_input, grad_bias


def check_nested(rule: str, name: str, tensor: Tensor) -> None:
    if tensor.is_nested:
        raise RuntimeError(
            f"{rule}: {name} is a nested tensor, which is not supported; use torch's dropout, or drop from the values "
            "of a jagged one: torch.nested.nested_tensor_from_jagged(dropout(input.values()), input.offsets())"
        )


def check_type(rule: str, tensor: Tensor) -> None:
    check_nested(rule, "input", tensor)
    complex_too = rule in ("dropout", "dropout_add")
    if not (tensor.is_floating_point() or (complex_too and tensor.is_complex())):
        kinds = "floating point or complex" if complex_too else "floating point"
        raise RuntimeError(f"{rule}: input has to be {kinds}, but got {tensor.dtype}")
    if tensor.layout != torch.strided:
        raise RuntimeError(f"{rule}: input has to be strided, but got {tensor.layout}")


def check_device(rule: str, tensor: Tensor) -> None:
    if why := _runtime.unsupported_reason(tensor.device):
        raise RuntimeError(f"{rule}: input is on device '{tensor.device}'; {why}")


def _like(input: Tensor, other: Tensor) -> Tensor:
    """Returns ``other`` as a dense plain tensor with the layout of ``input``."""
    return torch.empty_like(input).copy_(other)
