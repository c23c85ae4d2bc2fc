"""All parameters of an optimizer as one vector: the kernels of csrc/vectors, called for tensors of any kind."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from ... import _runtime
from .._dense import fits, kind_of, plain, refuse_overlap
from .._sharded import refuse_flattened, refuse_zero, sharded_dims_of
from .._update import Group

_SAME = 1e-6  # relative: a scheduler multiplies all rates by one factor, and rounds


class Vectors:
    """The parameters of all groups one after the other, each in C order; a complex number is two real ones.

    Vectors have the widest type of the parameters: float64, or float32 for half types too. Where groups have different
    learning rates, vectors are those of rescaled parameters, p / sqrt(rate / largest rate): then a method takes steps
    as if each group had been rescaled, and a direction of descent stays one.

    Raises:
        RuntimeError: parameters are on several devices, sharded, or of a type or layout without kernels.
    """

    def __init__(self, groups: list[Group], name: Any) -> None:
        self.params = [param for group in groups for param in group["params"]]
        self._name = name
        self._check()
        real = [torch.float32 if param.dtype.itemsize < 4 else param.dtype.to_real() for param in self.params]
        self.dtype = torch.float64 if torch.float64 in real else torch.float32
        self.device = self.params[0].device
        self.numels = [param.numel() * (2 if param.is_complex() else 1) for param in self.params]
        self.numel = sum(self.numels)
        self.rate, self.scales = self._rates(groups)
        self.moves = self._moving()
        self._pool: list[Tensor] = []
        self._sums = self.numbers(7)
        self.minus_one = self.numbers(1).fill_(-1)

    def _check(self) -> None:
        what = "a method that evaluates the loss several times a step"
        refuse_zero(what)
        refuse_flattened(self.params, what, "it needs sums over all of them")
        for param in self.params:
            if sharded_dims_of(param) is not None:
                raise RuntimeError(f"{self._name(param)} is sharded: {what} needs sums over whole parameters")
            refuse_overlap(plain(param.detach(), self._name(param)), self._name(param))
            if param.device != self.params[0].device:
                raise RuntimeError(
                    f"{self._name(param)} is on {param.device}, the first parameter on {self.params[0].device}: all "
                    "have to be on one device"
                )
        self._refuse_shared_memory()

    def _refuse_shared_memory(self) -> None:
        spans = sorted(
            (param.data_ptr(), param.numel() * param.element_size(), i)
            for i, param in enumerate(self.params)
            if param.numel() and param.is_contiguous()
        )
        for (begin, size, i), (then, _, k) in itertools.pairwise(spans):
            if then < begin + size:
                raise RuntimeError(f"{self._name(self.params[i])} and {self._name(self.params[k])} share memory")

    def _rates(self, groups: list[Group]) -> tuple[float, list[float]]:
        """Returns the largest learning rate, and the scale of each parameter."""
        rates = [float(group["lr"]) for group in groups for _ in group["params"]]
        largest = max(rates)
        return largest, [math.sqrt(rate / largest) if largest else 1.0 for rate in rates]

    def _moving(self) -> list[bool]:
        return [param.requires_grad and scale != 0 for param, scale in zip(self.params, self.scales, strict=True)]

    def are_of(self, groups: list[Group]) -> bool:
        """Whether these are still the parameters of all groups."""
        return [id(param) for param in self.params] == [id(param) for group in groups for param in group["params"]]

    def renewed(self, groups: list[Group]) -> bool:
        """Takes over the learning rates of the groups. Returns whether vectors mean the same as before: otherwise a
        parameter was frozen or thawed, or the rates have other ratios."""
        before, moved = self.scales, self.moves
        self.rate, self.scales = self._rates(groups)
        if all(abs(new - old) <= _SAME * old for new, old in zip(self.scales, before, strict=True)):
            self.scales = before
        self.moves = self._moving()
        return self.scales is before and self.moves == moved

    def take(self, *used: Tensor | None) -> Tensor:
        """Returns a vector of the pool that is none of those in use."""
        for vector in self._pool:
            if not any(vector is other for other in used):
                return vector
        self._pool.append(self.new())
        return self._pool[-1]

    def new(self) -> Tensor:
        vector = torch.empty(self.numel, dtype=self.dtype, device=self.device)
        _runtime.kernels.expect_first_write(vector)
        return vector

    def _threads(self) -> int:
        return torch.get_num_threads()

    def _plain(self, tensor: Tensor, name: str) -> Tensor:
        """Returns a tensor that kernels take, or a copy of it."""
        if tensor.layout != torch.strided:
            tensor = tensor.to_dense()
        return plain(tensor.detach(), name).resolve_conj().resolve_neg().contiguous()

    def _gather(self, out: Tensor, tensors: list[Tensor | None], weights: list[float], names: str, *rest: Any) -> None:
        while True:
            refused = _runtime.kernels.gather_vector(out, tensors, weights, self.numels, *rest, self._threads())
            if refused < 0:
                return
            tensor, name = tensors[refused], names + self._name(self.params[refused])
            assert tensor is not None  # zeros are never refused
            copy = self._plain(tensor, name)
            if copy is tensor or not fits(copy, self.params[refused]):
                raise RuntimeError(f"{name} is {kind_of(tensor)}, the parameter {kind_of(self.params[refused])}")
            tensors[refused] = copy

    def gather_params(self, out: Tensor) -> None:
        """Copies all parameters."""
        self._gather(out, list(self.params), [1.0] * len(self.params), "", None, None, None)

    def gather_grads(self, out: Tensor, sign: float, direction: Tensor | None, previous: Tensor | None) -> list[float]:
        """Copies all gradients, and returns what is measured of them (``vectors/task.h``). A parameter without
        gradient, or that is frozen, has zeros."""
        grads = [param.grad if moves else None for param, moves in zip(self.params, self.moves, strict=True)]
        weights = [sign * scale for scale in self.scales]
        self._gather(out, grads, weights, "the gradient of ", direction, previous, self._sums)
        return self._sums.tolist()

    def scatter(self, base: Tensor, direction: Tensor | None, t: float, onto: list[Tensor] | None = None) -> None:
        """Sets all parameters, or tensors like them, to base + t direction, or to base."""
        tensors = list(onto or self.params)
        copies: dict[int, Tensor] = {}
        while True:
            refused = _runtime.kernels.scatter_vector(
                tensors, self.scales, self.numels, base, direction, t, self._threads()
            )
            if refused < 0:
                break
            if refused in copies:
                raise RuntimeError(f"{self._name(self.params[refused])} cannot be updated")
            plain(tensors[refused].detach(), self._name(self.params[refused]))
            copies[refused] = tensors[refused] = torch.empty_like(
                tensors[refused].detach().as_subclass(Tensor), memory_format=torch.contiguous_format
            )
        for i, copy in copies.items():
            (onto or self.params)[i].copy_(copy)

    def are(self, base: Tensor, direction: Tensor, t: float) -> bool:
        """Whether all parameters are at base + t direction."""
        expected = [torch.empty_like(param.detach()) for param in self.params]
        self.scatter(base, direction, t, expected)
        return all(
            bool(((param == other) | (param != param) & (other != other)).all())
            for param, other in zip(self.params, expected, strict=True)
        )

    def combine(self, out: Tensor, grad: Tensor, rows: list[Tensor], coefficients: Tensor) -> list[float]:
        """Sets ``out`` to a direction, and returns max |d|, d.d and g.d."""
        _runtime.kernels.combine_vectors(out, self._sums, grad, rows, coefficients, self._threads())
        return self._sums.tolist()[:3]

    def products(
        self,
        steps: list[Tensor],
        changes: list[Tensor],
        grad: Tensor,
        previous: Tensor | None = None,
        direction: Tensor | None = None,
        t: float = 0.0,
    ) -> Tensor:
        """Returns the products of all steps and changes with the gradient and with its change since ``previous``, after
        the newest pair has been written: t direction, and that change. Of shape [2][pairs][2]."""
        products = self.numbers(4 * len(steps))
        _runtime.kernels.history_products(products, steps, changes, grad, previous, direction, t, self._threads())
        return products.reshape(2, len(steps), 2)

    def numbers(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.float64, device=self.device)
