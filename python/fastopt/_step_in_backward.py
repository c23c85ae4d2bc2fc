"""``fastopt.step_in_backward``, and what it refuses."""

from __future__ import annotations

from torch import nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ._backward_steps import AVERAGED, MONITORED, NO_NORM, StepInBackward
from ._checks import check_every, check_module
from ._offload.offloaded import Offloaded
from .optim import Lookahead
from .optim._fused import FusedOptimizer
from .optim._monitored import monitor_of

_CLIPS = (None, "tensor", "previous")


def step_in_backward(
    model: nn.Module,
    optimizer: Optimizer,
    every: int = 1,
    *,
    clip: str | None = None,
    scaler: GradScaler | None = None,
) -> StepInBackward:
    """Steps each parameter in backward as soon as its gradient is complete, and frees the gradient.

    So the gradients of the whole model never exist at one time. Schedulers, groups, states and checkpoints are those of
    the one optimizer, and each parameter gets the bits that ``optimizer.step()`` after ``backward()`` would give it.
    The training loop needs no ``optimizer.step()``; where it has one, that steps the gradients that still wait for
    more passes (``every``), as trainers do at the end of an epoch.

    Args:
        model: the module whose backward passes are counted: a pass is one ``backward()`` through its outputs.
        optimizer: an optimizer of fastopt.
        every: steps are made in one of so many backward passes, with the sum of their gradients (default: 1). Sums of
            bfloat16 and float16 gradients are float32.
        clip: with ``max_grad_norm``, which needs a norm: "tensor" clips each gradient by its own; "previous" by the
            norm of all gradients of the step before, the first step not at all (default: None).
        scaler: the ``torch.amp.GradScaler`` that scales the loss. A tensor with an inf is not stepped; all others are.
            Call ``scaler.update()`` after backward, and not ``scaler.step()``.

    Returns:
        A handle; ``handle.remove()`` ends it.

    Raises:
        TypeError: ``optimizer`` is not of fastopt, or a Lookahead; ``every`` is not an integer.
        ValueError: ``every`` is not positive, ``clip`` is unknown, or a group has ``max_grad_norm`` and there is no
            ``clip``.
        RuntimeError: the model is a DistributedDataParallel, the optimizer needs sums over all parameters (Prodigy) or
            has a monitor or step hooks, or is offloaded; from the model's forward: a DistributedDataParallel is around
            it; from backward: ``create_graph=True``, or a parameter that the step refuses; from ``optimizer.step()``:
            more than one step was made in backward since the last, so the loop accumulates more passes than ``every``.

    Examples:
        >>> handle = fastopt.step_in_backward(model, optimizer)
        >>> for input, target in batches:
        ...     loss_fn(model(input), target).backward()
        ...     scheduler.step()
    """
    check_module("model", model)
    if isinstance(optimizer, Lookahead):
        raise TypeError("step_in_backward: Lookahead looks back on whole steps, of which there are none")
    if not isinstance(optimizer, FusedOptimizer):
        raise TypeError(f"step_in_backward is for fastopt's optimizers, not a {type(optimizer).__name__}")
    check_every(every)
    if clip not in _CLIPS:
        raise ValueError(f"Invalid clip: {clip!r}, not None, 'tensor' or 'previous'")
    if clip is None and any(optimizer._max_norm(group) is not None for group in optimizer.param_groups):
        raise ValueError(NO_NORM)
    if isinstance(model, DistributedDataParallel):
        raise RuntimeError(AVERAGED)
    if isinstance(optimizer, Offloaded):
        raise RuntimeError("step_in_backward: the optimizer is offloaded; offload(free_grads=True) frees gradients")
    if optimizer._shared:
        raise RuntimeError(
            f"step_in_backward: {type(optimizer).__name__} needs sums over the gradients of all parameters"
        )
    if monitor_of(optimizer) is not None:
        raise RuntimeError(MONITORED)
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        raise RuntimeError("step_in_backward: the optimizer has step hooks, and there is no step to call them around")
    if "_run" in optimizer.__dict__:
        raise RuntimeError("step_in_backward: the optimizer already steps in backward: remove() the first handle")
    return StepInBackward(model, optimizer, every, clip, scaler)
