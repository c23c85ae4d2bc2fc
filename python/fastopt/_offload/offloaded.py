"""``fastopt.offload``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from ..optim._declared import Declared
from ..optim._fused import FusedOptimizer
from ..optim._hooked import evaluated, hooked
from ..optim._sharded import any_distributed, refuse_flattened
from .host import Host
from .transfers import Transfers, transfers_for
from .twins import Twins, layers_of

_Kind = TypeVar("_Kind", bound=Optimizer)
_CLIPS = ("exact", "previous")


class Offloaded(FusedOptimizer):
    """What an optimizer does in another way when it is offloaded. It stands before the optimizer's class."""

    _host: Host

    @hooked
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Performs a single optimization step on the host.

        Args:
            closure: reevaluates the model and returns the loss.

        Returns:
            What ``closure`` returned, or None.

        Raises:
            RuntimeError: as the optimizer; or a transfer has failed. Calling it again then ends the step.
        """
        loss = evaluated(closure)
        if self._host.twins.moves and ("found_inf" in self.__dict__ or "grad_scale" in self.__dict__):
            raise RuntimeError(
                "free_grads: GradScaler looks for an inf in param.grad, which is None; leave one of them out"
            )
        own_step: Any = super().step
        update = functools.partial(own_step.unhooked, self)
        self._host.step(update, waits=self._waits(), is_separable=_is_separable(self))
        return loss

    def _waits(self) -> bool:
        """Whether a step uses all gradients before it updates anything."""
        exact = not self._host.is_previous and any(self._max_norm(group) is not None for group in self.param_groups)
        return exact or not _is_separable(self)

    def _course(self) -> Iterator[list[Tensor]]:
        return self._host.chunks()

    def _take_norm(self, norm: Callable[[], Any]) -> Any:
        return self._host.norm(norm)

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        self._host.twins.drop_grads()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads as the optimizer does; states come to the host."""
        self._host.twins.take_params()
        with self._host.twins.at_host():
            super().load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        try:
            _check_group(self, self.param_groups[-1])
            self._host.twins.take_params()
        except BaseException:
            self.param_groups.pop()
            raise

    def to_torch(self) -> Optimizer:
        raise TypeError(f"torch's {type(self).__name__} does not take states that are on the host")

    def host_memory(self) -> dict[str, int]:
        """Returns how many bytes of the host's memory ``parameters``, ``gradients`` and ``states`` take."""
        states = [value for layer in layers_of(self) for entries in layer.state.values() for value in entries.values()]
        bytes_of_states = sum(value.nbytes for value in states if isinstance(value, Tensor))
        return {**self._host.twins.bytes(), "states": bytes_of_states}

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and pickles are not offloaded."""
        plain = type(self).__bases__[1]
        return _made, (plain,), self.__getstate__()


def _made(cls: type[Optimizer]) -> Optimizer:
    return cls.__new__(cls)


@functools.cache
def _offloaded(cls: type[Optimizer]) -> type[Optimizer]:
    return type(cls.__name__, (Offloaded, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__})


def _is_separable(optimizer: Declared) -> bool:
    """Whether a step updates each parameter by itself, and once."""
    return optimizer._is_separable and not optimizer._shared


def offload(
    optimizer: _Kind,
    *,
    free_grads: bool = False,
    clip: str = "exact",
    threads: int | None = None,
    transfers: Callable[[torch.device], Transfers] | None = None,
) -> _Kind:
    """Keeps an optimizer's states on the host and steps there, while the parameters stay on their device.

    The optimizer stays the same object, with the same groups, defaults and checkpoints, so schedulers and trainers work
    with it. Each step fetches the parameters and gradients in their own types, updates the parameters on the host's
    cores in chunks, and sends them back; transfers overlap with updates. Every result has the bits of the same
    optimizer without it. The host's memory is pinned where the device is a GPU, and made once. With
    ``master="float32"`` or ``"split"`` bfloat16 and float16 parameters have their masters on the host.

    A parameter that you change between steps is respected. If a transfer fails, the step raises an error, and calling
    ``step()`` again ends it.

    Args:
        optimizer: an optimizer of fastopt, of any device. Make schedulers after this call.
        free_grads: moves each gradient to the host in backward, as soon as it is complete, and frees it: the gradients
            of the whole model never exist on the device at one time, and the first updates need not wait for the last
            gradient. Gradients of several backward passes are added on the host, those of half types in float32.
            ``param.grad`` is None after backward, so clip by ``max_grad_norm`` (default: False).
        clip: with ``max_grad_norm``: "exact" clips by the norm of all gradients, for which the first update has to
            wait; "previous" by that of the step before, the first step not at all (default: "exact").
        threads: of a step. By default those cores that this process may run on, divided by the processes that a
            launcher has started on them; ``fastopt.info()`` tells how many.
        transfers: makes for a device what copies from and to it; by default streams for CUDA devices, and plain copies
            for all others.

    Returns:
        The same optimizer.

    Raises:
        TypeError: ``optimizer`` is not of fastopt or has a step of its own, ``threads`` is not an integer, or a
            parameter is a DTensor.
        ValueError: ``clip`` is unknown, or "previous" with an optimizer that needs all gradients at once (Muon,
            Prodigy, Lookahead); ``threads`` is not positive; a group is ``capturable``; a
            parameter has no shape yet.
        RuntimeError: the optimizer is offloaded already, steps in backward, or has a scheduler; parameters share
            memory; from backward with ``free_grads``: there are other processes.

    Examples:
        >>> optimizer = fastopt.offload(fastopt.AdamW(model.parameters(), lr=1e-4, master="split"))
        >>> for input, target in batches:
        ...     optimizer.zero_grad()
        ...     loss_fn(model(input), target).backward()
        ...     optimizer.step()

    Reference: Ren et al., *ZeRO-Offload: Democratizing Billion-Scale Model Training*, arXiv 2101.06840.
    """
    layers = layers_of(optimizer)
    first: Any = optimizer
    for layer in layers:
        if not isinstance(layer, FusedOptimizer):
            raise TypeError(f"offload is for fastopt's optimizers, not a {type(layer).__name__}")
    if clip not in _CLIPS:
        raise ValueError(f"Invalid clip: {clip!r}, not 'exact' or 'previous'")
    if clip == "previous" and not _is_separable(first):
        raise ValueError(f"clip='previous': a step of {type(first).__name__} needs all gradients at once")
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool)):
        raise TypeError(f"threads must be an integer, not {type(threads).__name__}")
    if threads is not None and threads < 1:
        raise ValueError(f"Invalid threads value: {threads}")
    if not isinstance(free_grads, bool):
        raise TypeError(f"free_grads must be a bool, not {type(free_grads).__name__}")
    if transfers is not None and not callable(transfers):
        raise TypeError(f"transfers must be a function of a device, not a {type(transfers).__name__}")
    for layer in layers:
        _check(layer)
    for group in first.param_groups:
        _check_group(first, group)
    layers[-1]._own_grads = {}
    first._host = Host(Twins(first, transfers or transfers_for, free_grads), threads, clip == "previous")
    first.__class__ = _offloaded(type(optimizer))  # type: ignore[arg-type]
    return optimizer


def _check(optimizer: Any) -> None:
    if isinstance(optimizer, Offloaded):
        raise RuntimeError("offload: the optimizer is offloaded already")
    if "_run" in optimizer.__dict__:
        raise RuntimeError("offload: the optimizer steps in backward: remove() the handle of step_in_backward")
    if "step" in optimizer.__dict__:
        raise RuntimeError("offload: a scheduler or a trainer has wrapped the optimizer's step: make it afterwards")
    if not hasattr(type(optimizer).step, "unhooked"):
        raise TypeError(f"offload: {type(optimizer).__name__} has a step of its own, which offload would not call")


def _check_group(optimizer: Any, group: dict[str, Any]) -> None:
    params = group["params"]
    if any(is_lazy(param) for param in params):
        raise ValueError("offload: a parameter has no shape yet; let the model see a batch first")
    if any_distributed(params):
        raise TypeError("offload: a parameter is a DTensor; fully_shard has CPUOffloadPolicy, with which fastopt steps")
    refuse_flattened(params, "offload", "use fully_shard with CPUOffloadPolicy")
    if optimizer._option(group, "capturable"):
        raise ValueError("offload: capturable=True keeps the counters on the device, and the step is on the host")
