"""Gradient clipping, as in ``torch.nn.utils``: deterministic, and exact where torch rounds to half types."""

from __future__ import annotations

import math
import types
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from ._compiler import eager
from .optim._checks import check_range
from .optim._dense import norm_tensor
from .optim._norms import Gradients, clips, grads_of, total_norm
from .optim._sharded import is_partial, refuse_flattened


def _check_finite(norm: float | Tensor, norm_type: float) -> None:
    if not math.isfinite(norm):
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be "
            "clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
            "`error_if_nonfinite=False`"
        )


@eager
def get_total_norm(
    tensors: Tensor | Iterable[Tensor],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Returns the norm of all tensors as one vector, as ``torch.nn.utils.get_total_norm``.

    Sums are float64 and of a fixed order: the result does not depend on threads or instruction set, and
    squares do not overflow. Where torch returns the norm of bfloat16 or float16 tensors in their own type,
    with 2 or 3 digits and a largest value of 65504, this is float32.

    For DTensors it is the norm of the whole tensors, and the call is a collective operation; the result, a plain
    tensor, has the same bits in all processes.

    Args:
        tensors: a tensor or an iterable of them; float32, float64, bfloat16, float16 or complex, any shape
            and layout, on the CPU or a CUDA device.
        norm_type: any number, ``inf`` and ``-inf`` included (default: 2).
        error_if_nonfinite: an infinite or NaN norm is an error (default: False).
        foreach: accepted and without effect.

    Returns:
        A 0-dim float64 tensor where a tensor is float64, otherwise float32.

    Raises:
        RuntimeError: a tensor is sparse or on another kind of device; or the norm is not finite and
            ``error_if_nonfinite``.
    """
    with torch.no_grad():
        tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        norm = total_norm(tensors, float(norm_type))
        if error_if_nonfinite:
            _check_finite(norm, float(norm_type))
        return norm_tensor(norm, tensors)


def _listed(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    if isinstance(parameters, Tensor):
        parameters = [parameters]
    generator = isinstance(parameters, types.GeneratorType)
    listed = list(parameters)
    if generator and not listed:
        warnings.warn("`parameters` is an empty generator, no gradient clipping will occur.", stacklevel=3)
    return listed


@eager
def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scales gradients in place by ``max_norm / (norm + 1e-6)`` where that is below 1, as
    ``torch.nn.utils.clip_grad_norm_``. With ``max_grad_norm=`` every optimizer does the same in its step, without
    writing the gradients.

    Args:
        parameters: a tensor or an iterable of them, whose ``grad`` is clipped.
        max_norm: the largest norm, not negative.
        norm_type, error_if_nonfinite, foreach: see :func:`get_total_norm`.

    Returns:
        The norm of all gradients before clipping; see :func:`get_total_norm`.

    Raises:
        ValueError: ``max_norm`` is negative or NaN.
        RuntimeError: see :func:`get_total_norm`; gradients share memory, as when a parameter is given twice; or
            FullyShardedDataParallel has cut the parameters, for which its module has clip_grad_norm_. Nothing has been
            written then.
    """
    max_norm = float(max_norm)
    check_range("max_norm value", max_norm)
    with torch.no_grad():
        listed = _listed(parameters)
        refuse_flattened(listed, "clip_grad_norm_")
        grads = grads_of(listed)
        norm = total_norm(grads, float(norm_type), listed)
        if error_if_nonfinite:
            _check_finite(norm, float(norm_type))
        if isinstance(norm, Tensor) or clips(max_norm, norm):
            Gradients(grads, max_norm, written=True).clip(norm)
        return norm_tensor(norm, grads)


@eager
def clip_grads_with_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    total_norm: Tensor,
    foreach: bool | None = None,
) -> None:
    """Scales gradients in place by ``max_norm / (total_norm + 1e-6)`` where that is below 1, as
    ``torch.nn.utils.clip_grads_with_norm_``: :func:`clip_grad_norm_` with a norm that is known already, such as one
    of :func:`get_total_norm`. The call waits for a norm on a device.

    Args:
        parameters: a tensor or an iterable of them, whose ``grad`` is clipped.
        max_norm: the largest norm, not negative.
        total_norm: the norm, a tensor of one element or a number.
        foreach: accepted and without effect.

    Raises:
        ValueError: ``max_norm`` is negative or NaN, or ``total_norm`` has more than one element.
        RuntimeError: a gradient is sparse or on another kind of device, or gradients share memory. Nothing has been
            written then.
    """
    max_norm = float(max_norm)
    check_range("max_norm value", max_norm)
    if isinstance(total_norm, Tensor) and total_norm.numel() != 1:
        raise ValueError(f"total_norm has to have one element, but has shape {tuple(total_norm.shape)}")
    grads = grads_of(_listed(parameters))
    norm = float(total_norm)
    if grads and clips(max_norm, norm):
        with torch.no_grad():
            Gradients(grads, max_norm, written=True).clip(norm)


@eager
def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None) -> None:
    """Clamps gradients in place to plus or minus ``clip_value``, as ``torch.nn.utils.clip_grad_value_``.

    Args:
        parameters: a tensor or an iterable of them, whose ``grad`` is clamped.
        clip_value: the largest magnitude, not negative. NaN gradients stay NaN.
        foreach: accepted and without effect.

    Raises:
        ValueError: ``clip_value`` is negative or NaN.
        RuntimeError: a gradient is complex, sparse, a DTensor with ``Partial`` placements or on another kind of
            device; nothing has been written then.
    """
    clip_value = float(clip_value)
    check_range("clip_value value", clip_value)
    grads = grads_of(_listed(parameters))
    if any(grad.is_complex() for grad in grads):
        raise RuntimeError("clamp is not supported for complex types")
    if any(map(is_partial, grads)):
        raise RuntimeError("a gradient is a DTensor whose terms are not added yet (Partial placement)")
    if grads:
        with torch.no_grad():
            Gradients(grads, written=True, max_grad_value=clip_value).write()
