"""Parameters of which each process has a part: DTensors, and older ways of sharding that do not say so."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from .._compat import distributed_tensor
from .._processes import any_others
from .._runtime import PLAIN

ShardedDims: TypeAlias = tuple[Any, tuple[int, ...]]  # a device mesh, and along which of its dimensions a tensor is cut


def local(tensor: Tensor) -> Tensor:
    """Returns this process's part of a DTensor, and any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


class Sharding(NamedTuple):
    """How the processes of a mesh share a tensor; a tensor that is no DTensor has no placements."""

    mesh: Any
    placements: tuple[Any, ...]

    @property
    def sharded_dims(self) -> ShardedDims | None:
        """The mesh and the dimensions along which the tensor is cut; None where this process has all of it."""
        if not self.placements:
            return None
        dims = tuple(i for i, placement in enumerate(self.placements) if not placement.is_replicate())
        return (self.mesh, dims) if dims else None

    @property
    def is_partial(self) -> bool:
        """Whether the processes have terms that are still to be added."""
        return bool(self.placements) and any(placement.is_partial() for placement in self.placements)

    def place(self, grad: Tensor) -> Tensor:
        """Returns a gradient with this sharding. It may come with another, or as terms that are still to be added."""
        if not self.placements:
            return reduce_partial(grad)
        if getattr(grad, "placements", self.placements) == self.placements:
            return grad
        return grad.redistribute(self.mesh, self.placements)  # type: ignore[attr-defined,no-any-return]


_UNSHARED = Sharding(None, ())


def sharding_of(tensor: Tensor) -> Sharding:
    placements = getattr(tensor, "placements", None)
    return Sharding(tensor.device_mesh, placements) if placements else _UNSHARED  # type: ignore[attr-defined]


def sharded_dims_of(tensor: Tensor) -> ShardedDims | None:
    return sharding_of(tensor).sharded_dims


def any_distributed(tensors: Iterable[Tensor]) -> bool:
    """Whether one of them may be a DTensor: a quick answer, for every step."""
    return not set(map(type, tensors)).issubset(PLAIN)


def is_partial(tensor: Tensor) -> bool:
    return sharding_of(tensor).is_partial


def reduce_partial(tensor: Tensor) -> Tensor:
    """Adds the terms of a tensor, if they are still to be added."""
    sharding = sharding_of(tensor)
    if not sharding.is_partial:
        return tensor
    replicate = distributed_tensor().Replicate()
    placements = [replicate if placement.is_partial() else placement for placement in sharding.placements]
    return tensor.redistribute(placements=placements)  # type: ignore[attr-defined,no-any-return]


def replicated(whole: Tensor, mesh: Any) -> Any:
    """The DTensor of a tensor that every process has whole."""
    module = distributed_tensor()
    return module.DTensor.from_local(whole, mesh, [module.Replicate()] * mesh.ndim, run_check=False)


def write_local_shard(tensor: Tensor, whole: Tensor) -> None:
    """Writes this process's part of ``whole`` to the DTensor. Nothing is communicated."""
    mesh, placements = sharding_of(tensor)
    part = replicated(whole, mesh).redistribute(mesh, placements).to_local()
    local(tensor).copy_(part)


def first_element(tensor: Tensor, name: Callable[[Tensor], str]) -> int:
    """Returns the number of the first element that this process has, where its elements follow each other.

    Raises an error with the tensor's name where a tensor is sharded in another way than along its first dimension.
    """
    sharding = sharding_of(tensor)
    dims = sharding.sharded_dims
    if dims is None:
        return 0
    mesh, sharded = dims
    placement = sharding.placements[sharded[0]]
    along_first = type(placement) is distributed_tensor().Shard and placement.dim == 0
    if len(sharded) > 1 or not along_first or not local(tensor).is_contiguous():
        raise RuntimeError(
            f"{name(tensor)} has the placements {sharding.placements}; stochastic rounding is for parameters that are "
            "sharded along their first dimension, in one dimension of the mesh"
        )
    rows = -(-tensor.shape[0] // mesh.size(sharded[0]))  # as torch.chunk
    row = min(mesh.get_local_rank(sharded[0]) * rows, tensor.shape[0])
    return int(row * (tensor.numel() // tensor.shape[0])) if tensor.shape[0] else 0


INSTEAD_OF_A_NORM = "call clip_grad_norm_ of the FullyShardedDataParallel module before the step, or use fully_shard"


def refuse_flattened(params: Iterable[Tensor], what: str, instead: str = INSTEAD_OF_A_NORM) -> None:
    """Refuses parameters of FullyShardedDataParallel, which look whole but are parts."""
    if any_others() and any(getattr(p, "_fsdp_flattened", False) for p in params):
        raise RuntimeError(
            f"{what}: FullyShardedDataParallel has cut these parameters, and each process knows its own part alone; "
            f"{instead}"
        )


def made_by_zero_redundancy() -> bool:
    """Whether ZeroRedundancyOptimizer is making an optimizer of some of the parameters. Only the call stack tells."""
    return _is_called_by("torch.distributed.optim.zero_redundancy_optimizer")


def refuse_zero(what: str, instead: str = "use fully_shard") -> None:
    """Refuses a step that DeepSpeed's ZeRO makes. It gives an optimizer a flat part of all parameters of a group, and
    may make several steps, for one part each."""
    if "deepspeed" in sys.modules and _is_called_by(*_ZERO):
        raise RuntimeError(
            f"{what}: DeepSpeed's ZeRO steps flat parts of all parameters together, from which it cannot be computed; "
            f"{instead}"
        )


_ZERO = ("deepspeed.runtime.zero.stage_1_and_2", "deepspeed.runtime.zero.stage3", "deepspeed.runtime.bf16_optimizer")


def _is_called_by(*modules: str) -> bool:
    callers = [vars(sys.modules[name]) for name in modules if name in sys.modules]
    frame = sys._getframe(1) if callers else None
    while frame is not None and not any(frame.f_globals is caller for caller in callers):
        frame = frame.f_back
    return frame is not None
