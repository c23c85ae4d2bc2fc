"""Gradient clipping, as in ``torch.nn.utils``: deterministic, and exact where torch rounds to half types."""

from __future__ import annotations

import math
import types
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from . import _runtime
from ._compiler import eager
from .optim._checks import check_range
from .optim._dense import StandIns, dense_layout, norm_tensor, plain
from .optim._layout import shared_pair
from .optim._update import OFF
from .reference.pipeline import clip_coefficient

_CLIP = ("clip", (), False, ())  # an update of the gradients themselves
_REDUCTIONS = {2.0: "squares", 1.0: "magnitudes", 0.0: "nonzeros", math.inf: "largest", -math.inf: "smallest"}


def _name(index: int, gradient: Tensor) -> str:
    return f"gradient {index} (shape {tuple(gradient.shape)})"


class _Gradients:
    """Tensors gathered for the engine; what is not dense through stand-ins."""

    def __init__(self, tensors: list[Tensor], max_norm: float = 0.0, *, written: bool, **prologue: float) -> None:
        self._tensors = tensors
        self._stand_ins = StandIns()
        self.batch = _runtime.kernels.Batch()
        rest = self.batch.take(_CLIP, {**OFF, **prologue}, max_norm, lambda t: {}, tensors, {}, None)
        for i in rest:
            tensor, name = tensors[i], _name(i, tensors[i])
            if hasattr(tensor, "to_local"):
                raise RuntimeError(f"{name} is a DTensor, of which this process has a part only; clip with torch's")
            tensor = plain(tensor, name)
            dense = self._stand_ins.take(tensor, dense_layout(tensor), name, written=written)
            if not self.batch.add(i, tensors[i], dense, None, (), None, (), 1):
                raise RuntimeError(f"{name}: its memory cannot be reached ({type(tensors[i]).__name__})")
        pair = shared_pair(tensors) if written and rest else None
        if pair is not None:
            raise RuntimeError(f"{self._name(pair[0])} shares memory with {self._name(pair[1])}")

    def _name(self, tensor: Tensor) -> str:
        return _name(next(i for i, other in enumerate(self._tensors) if other is tensor), tensor)

    def write(self) -> None:
        conflict = self.batch.settle()
        if conflict is not None:
            one, _, other, _ = conflict
            raise RuntimeError(f"{self._name(one)} shares memory with {self._name(other)}")
        self.batch.run(torch.get_num_threads())
        self._stand_ins.write_back()

    def norm(self, norm_type: float) -> float | Tensor:
        """A tensor, where nobody has waited for a device."""
        reduction = _REDUCTIONS.get(norm_type, "powers")
        norm: float | Tensor = self.batch.norm(reduction, norm_type, 1.0, torch.get_num_threads())
        return norm


def _norm(tensors: list[Tensor], norm_type: float) -> float | Tensor:
    if norm_type == 0:  # torch's norm of norms: how many tensors are not zero
        counts = [_Gradients([t], written=False).norm(0.0) for t in tensors]
        return float(sum(bool(count > 0) for count in counts))
    return _Gradients(_magnitudes(tensors, norm_type), written=False).norm(norm_type)


def _magnitudes(tensors: list[Tensor], norm_type: float) -> list[Tensor]:
    """What a norm is taken of: of complex numbers, where it is not that of their parts."""
    return tensors if norm_type == 2 else [t.abs() if t.is_complex() else t for t in tensors]


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
    """The norm of all tensors as one vector, as ``torch.nn.utils.get_total_norm``.

    Sums are float64 and of a fixed order: the result does not depend on threads or instruction set, and
    squares do not overflow. Where torch returns the norm of bfloat16 or float16 tensors in their own type,
    with 2 or 3 digits and a largest value of 65504, this is float32.

    Args:
        tensors: a tensor or an iterable of them; float32, float64, bfloat16, float16 or complex, any shape
            and layout, on the CPU or a CUDA device.
        norm_type: any number, ``inf`` and ``-inf`` included (default: 2).
        error_if_nonfinite: an infinite or NaN norm is an error (default: False).
        foreach: accepted and without effect.

    Returns:
        A 0-dim float64 tensor where a tensor is float64, otherwise float32.

    Raises:
        RuntimeError: a tensor is sparse, distributed or on another kind of device; or the norm is not finite and
            ``error_if_nonfinite``.
    """
    with torch.no_grad():
        tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        norm = _norm(tensors, float(norm_type))
        if error_if_nonfinite:
            _check_finite(norm, norm_type)
        return norm_tensor(norm, tensors)


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    if isinstance(parameters, Tensor):
        parameters = [parameters]
    generator = isinstance(parameters, types.GeneratorType)
    listed = list(parameters)
    if generator and not listed:
        warnings.warn("`parameters` is an empty generator, no gradient clipping will occur.", stacklevel=3)
    return [p.grad for p in listed if p.grad is not None]


@eager
def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scales gradients in place by ``max_norm / (norm + 1e-6)`` where that is below 1, as
    ``torch.nn.utils.clip_grad_norm_``. Every optimizer does the same on the way, without writing the gradients,
    with ``max_grad_norm=``.

    Args:
        parameters: a tensor or an iterable of them, whose ``grad`` is clipped.
        max_norm: the largest norm, not negative.
        norm_type, error_if_nonfinite, foreach: see :func:`get_total_norm`.

    Returns:
        The norm of all gradients before clipping; see :func:`get_total_norm`.

    Raises:
        ValueError: ``max_norm`` is negative or NaN.
        RuntimeError: see :func:`get_total_norm`; or gradients share memory, as when a parameter is given
            twice. Nothing has been written then.
    """
    max_norm = float(max_norm)
    check_range("max_norm value", max_norm)
    with torch.no_grad():
        grads = _gradients(parameters)
        norm = _norm(grads, float(norm_type))
        if error_if_nonfinite:
            _check_finite(norm, norm_type)
        if isinstance(norm, Tensor) or clip_coefficient(max_norm, norm) != 1:
            gradients = _Gradients(grads, max_norm, written=True)
            gradients.batch.clip(norm)
            gradients.write()
        return norm_tensor(norm, grads)


@eager
def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None) -> None:
    """Clamps gradients in place to plus or minus ``clip_value``, as ``torch.nn.utils.clip_grad_value_``.

    Args:
        parameters: a tensor or an iterable of them, whose ``grad`` is clamped.
        clip_value: the largest magnitude, not negative. NaN gradients stay NaN.
        foreach: accepted and without effect.

    Raises:
        ValueError: ``clip_value`` is negative or NaN.
        RuntimeError: a gradient is complex, sparse, distributed or on another kind of device; nothing has been
            written then.
    """
    clip_value = float(clip_value)
    check_range("clip_value value", clip_value)
    grads = _gradients(parameters)
    if any(grad.is_complex() for grad in grads):
        raise RuntimeError("clamp is not supported for complex types")
    if grads:
        with torch.no_grad():
            _Gradients(grads, written=True, max_grad_value=clip_value).write()
