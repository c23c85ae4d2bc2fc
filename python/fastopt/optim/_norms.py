"""Gathers gradients, or any tensors, for the engine without parameters, to take their norm or to clip them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .. import _runtime
from .._processes import gathered
from ._dense import DenseCopies, dense_layout, plain
from ._layout import shared_pair
from ._sharded import ShardedDims, any_distributed, reduce_partial, sharded_dims_of
from ._update import IDENTITY_PROLOGUE, Update

_CLIP = Update("clip", (), counts=False)  # an update of the gradients themselves
_REDUCTIONS = {2.0: "squares", 1.0: "magnitudes", 0.0: "nonzeros", math.inf: "largest", -math.inf: "smallest"}


def _name(index: int, gradient: Tensor) -> str:
    return f"gradient {index} (shape {tuple(gradient.shape)})"


def clips(max_norm: float, norm: float) -> bool:
    """Whether the engine scales gradients of this norm. It does where the norm is NaN."""
    return not max_norm / (norm + 1e-6) >= 1


class Gradients:
    """Tensors gathered for the engine: copies of those that are not dense, and this process's part of DTensors.

    Errors call the tensors by ``numbers``, or without them by their places.
    """

    def __init__(
        self,
        tensors: list[Tensor],
        max_norm: float = 0.0,
        *,
        written: bool,
        numbers: Sequence[int] | None = None,
        **prologue: float,
    ) -> None:
        self._tensors = tensors
        self._copies = DenseCopies()
        self._engine_step = _runtime.kernels.Step()
        factors = {**IDENTITY_PROLOGUE, **prologue}
        rest = self._engine_step.add_group(_CLIP, factors, max_norm, lambda t: {}, tensors, {}, None)
        for i in rest:
            name = _name(i if numbers is None else numbers[i], tensors[i])
            tensor = plain(tensors[i], name)
            dense = self._copies.of(tensor, dense_layout(tensor), name, written=written)
            if not self._engine_step.add_prepared(i, tensors[i], dense, None, (), None, (), 1):
                raise RuntimeError(f"{name}: its memory cannot be reached ({type(tensors[i]).__name__})")
        pair = shared_pair(tensors) if written and rest else None
        if pair is not None:
            raise self._shared(*pair)

    def _shared(self, one: Tensor, other: Tensor) -> RuntimeError:
        """Makes the error for two gradients in one place, or for one that was given twice."""
        named = [_name(i, tensor) for i, tensor in enumerate(self._tensors) if tensor is one or tensor is other]
        return RuntimeError(f"{named[0]} shares memory with {named[1]}")

    def clip(self, norm: float | Tensor) -> None:
        self._engine_step.clip(norm)
        self.write()

    def write(self) -> None:
        conflict = self._engine_step.check_overlap_and_bump_versions()
        if conflict is not None:
            one, _, other, _ = conflict
            raise self._shared(one, other)
        self._engine_step.run(torch.get_num_threads())
        self._copies.write_back()

    def norm(self, norm_type: float) -> float | Tensor:
        """Returns a tensor where the norm is on a device, for which it does not wait."""
        reduction = _REDUCTIONS.get(norm_type, "powers")
        norm: float | Tensor = self._engine_step.norm(reduction, norm_type, 1.0, torch.get_num_threads())
        return norm


class Norm:
    """The norm of tensors as one vector, of which each process may have a part. Making it checks all tensors; taking it
    is then a collective operation.

    Every process that has a part of ``params`` joins in, even without a gradient of them, because others may have one.
    All go by the order of the parameters, which is the same in all processes.
    """

    def __init__(self, tensors: list[Tensor], norm_type: float, params: Iterable[Tensor] = ()) -> None:
        self._norm_type = norm_type
        devices: dict[ShardedDims | None, torch.device] = {sharded_dims_of(param): param.device for param in params}
        numbers: dict[ShardedDims | None, list[int]] = {dims: [] for dims in (None, *devices)}
        complete = []
        for i, tensor in enumerate(tensors):
            # Only the 2-norm of complex numbers is that of their real and imaginary parts.
            complete.append(reduce_partial(tensor.abs() if tensor.is_complex() and norm_type != 2 else tensor))
            dims = sharded_dims_of(complete[i])
            devices.setdefault(dims, tensor.device)
            numbers.setdefault(dims, []).append(i)

        def gradients(dims: ShardedDims | None) -> Gradients:
            return Gradients([complete[i] for i in numbers[dims]], written=False, numbers=numbers[dims])

        self._whole = gradients(None)
        self._parts = [(dims, gradients(dims), devices[dims]) for dims in numbers if dims is not None]

    def take(self, loss_scale: Tensor | None = None) -> float | Tensor:
        """Takes the norm, divided by GradScaler's scale where the gradients have it."""
        norm = self._whole.norm(self._norm_type)
        for (mesh, dims), part, device in self._parts:
            own = part.norm(self._norm_type)
            for dim in dims:
                own = self._joined(gathered(_number(own, device), mesh.get_group(dim)))
            norm = self._joined(torch.stack([_number(norm, device), _number(own, device)]))
        if loss_scale is None:
            return norm
        return norm / (loss_scale.to(norm.device) if isinstance(norm, Tensor) else float(loss_scale))

    def _joined(self, norms: Tensor) -> float | Tensor:
        """Returns the norm of norms; numbers of elements are added."""
        return Gradients([norms], written=False).norm(self._norm_type or 1.0)


def _number(value: float | Tensor, device: torch.device) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64, device=device)


def grads_of(params: Iterable[Tensor]) -> list[Tensor]:
    return [param.grad for param in params if param.grad is not None]


def norm_across_processes(params: list[Tensor]) -> Norm | None:
    """Returns the norm of gradients that processes share; None where this process has all of each parameter."""
    grads = grads_of(params)
    tensors = (*params, *grads)
    if not any_distributed(tensors) or all(sharded_dims_of(tensor) is None for tensor in tensors):
        return None
    with torch.no_grad():
        return Norm([grad.coalesce().values() if grad.is_sparse else grad for grad in grads], 2.0, params)


def total_norm(tensors: list[Tensor], norm_type: float, params: Iterable[Tensor] = ()) -> float | Tensor:
    """Returns a tensor where the norm is on a device, for which it does not wait."""
    if norm_type == 0:  # torch's norm of norms: how many tensors are not zero
        counts = [Norm([tensor], 0.0).take() for tensor in tensors]
        on_device = [count for count in counts if isinstance(count, Tensor)]
        if on_device and len(on_device) == len(counts) and len({count.device for count in on_device}) == 1:
            return torch.stack(on_device).count_nonzero().double()
        return float(sum(bool(count > 0) for count in counts))
    return Norm(tensors, norm_type, params).take()
