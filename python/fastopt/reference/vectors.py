"""Vectors that run through all parameters, and the history of L-BFGS: the twin of ``csrc/vectors``. All vectors of a
call are flat and of one type; sums are float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .half import Array
from .operands import known
from .reductions import by_lanes, cut

VECTOR_CHUNK, SHORT_CHUNK, SHORT_VECTOR = 8192, 2048, 65536


def _total(terms: Array, join: np.ufunc = np.add) -> Array:
    """Joins the last axis: chunks, whose size depends on the number of elements, then their results."""
    chunk = SHORT_CHUNK if terms.shape[-1] <= SHORT_VECTOR else VECTOR_CHUNK
    return by_lanes(by_lanes(cut(terms, chunk, 0.0), join), join)


def _dot(a: Array, b: Array) -> float:
    return float(_total(a.astype(np.float64) * b.astype(np.float64)))


def _largest(a: Array) -> float:
    return float(_total(np.abs(a.astype(np.float64)), np.maximum))


def _flat(tensor: Tensor) -> Array:
    """The elements as real numbers, in a type that NumPy has."""
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    wide = real.float() if real.dtype in (torch.bfloat16, torch.float16) else real
    flat: Array = wide.reshape(-1).numpy()
    return flat


def _refused(tensors: Sequence[Tensor | None], numels: Sequence[int]) -> int:
    for i, (tensor, numel) in enumerate(zip(tensors, numels, strict=True)):
        if tensor is None:
            continue
        plain = known(tensor) and tensor.is_contiguous()
        if not plain or (2 if tensor.is_complex() else 1) * tensor.numel() != numel:
            return i
    return -1


def gather_vector(
    out: Tensor,
    tensors: Sequence[Tensor | None],
    weights: Sequence[float],
    numels: Sequence[int],
    direction: Tensor | None,
    previous: Tensor | None,
    sums: Tensor | None,
    threads: int,
) -> int:
    """Sets ``out`` to weight * tensor, for all tensors one after the other, and measures it: max |g|, sum |g|, g.g,
    g.d, y.d, y.y and g.y, with y = g - previous. Returns the index of the first tensor that it cannot take, or -1."""
    if (refused := _refused(tensors, numels)) >= 0:
        return refused
    vector: Array = out.numpy()
    first = 0
    with np.errstate(all="ignore"):
        for tensor, weight, numel in zip(tensors, weights, numels, strict=True):
            part = vector[first : first + numel]
            part[:] = 0 if tensor is None else vector.dtype.type(weight) * _flat(tensor).astype(vector.dtype)
            first += numel
        if sums is None:
            return -1
        measured = [_largest(vector), float(_total(np.abs(vector.astype(np.float64)))), _dot(vector, vector)]
        if direction is not None and previous is not None:
            d, y = direction.numpy(), vector - previous.numpy()
            measured += [_dot(vector, d), _dot(y, d), _dot(y, y), _dot(vector, y)]
        sums.copy_(torch.tensor(measured + [0.0] * (7 - len(measured)), dtype=torch.float64))
    return -1


def scatter_vector(
    tensors: Sequence[Tensor],
    weights: Sequence[float],
    numels: Sequence[int],
    base: Tensor,
    direction: Tensor | None,
    t: float,
    threads: int,
) -> int:
    """Sets all tensors to base + (t * weight) * direction, or to base. Returns as ``gather_vector``."""
    if (refused := _refused(tensors, numels)) >= 0:
        return refused
    first = 0
    for tensor, weight, numel in zip(tensors, weights, numels, strict=True):
        part: Array = base.numpy()[first : first + numel]
        if direction is not None:
            with np.errstate(all="ignore"):
                part = part + part.dtype.type(t * weight) * direction.numpy()[first : first + numel]
        real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        real.copy_(torch.from_numpy(part).reshape(real.shape))
        first += numel
    return -1


def history_products(
    products: Tensor,
    steps: Sequence[Tensor],
    changes: Sequence[Tensor],
    grad: Tensor,
    previous: Tensor | None,
    direction: Tensor | None,
    t: float,
    threads: int,
) -> None:
    """The products of all steps, then of all changes, with the gradient and with its change since ``previous``. The
    newest pair is written: t * direction, and that change."""
    g: Array = grad.numpy()
    out: Array = products.numpy().reshape(-1)[: 4 * len(steps)].reshape(-1, 2)
    out[:] = 0
    with np.errstate(all="ignore"):
        if previous is not None and direction is not None:
            d: Array = direction.numpy()
            steps[-1].numpy()[:] = d.dtype.type(t) * d
            changes[-1].numpy()[:] = g - previous.numpy()
        for number, row in enumerate([*steps, *changes]):
            out[number, 0] = _dot(row.numpy(), g)
            if previous is not None:
                out[number, 1] = _dot(row.numpy(), changes[-1].numpy())


def history_coefficients(
    coefficients: Tensor,
    step_changes: Tensor,
    change_changes: Tensor,
    products: Tensor,
    count: int,
    first: int,
    adds: bool,
) -> None:
    """The two loops of L-BFGS in numbers: coefficients of the gradient, of each step and of each change."""
    places = (first + np.arange(count)) % step_changes.shape[0]
    sy_all, yy_all = step_changes.numpy(), change_changes.numpy()
    of = products.numpy().reshape(-1)[: 4 * count].reshape(2, count, 2)
    with np.errstate(all="ignore"):
        if adds:
            newest = places[-1]
            sy_all[newest, places] = sy_all[places, newest] = of[0, :, 1]
            yy_all[newest, places] = yy_all[places, newest] = of[1, :, 1]
        sy, yy = sy_all[np.ix_(places, places)], yy_all[np.ix_(places, places)]
        scale = sy[-1, -1] / yy[-1, -1]
        sq, yr = -of[0, :, 0], -of[1, :, 0]
        for j in reversed(range(count)):
            alpha = sq[j] / sy[j, j]
            sq[:j] -= alpha * sy[j, :j]
            yr -= alpha * yy[j]
        alphas = sq / np.diag(sy)
        yr *= scale
        for j in range(count):
            yr[j + 1 :] += (alphas[j] - yr[j] / sy[j, j]) * sy[j, j + 1 :]
        gains = alphas - yr / np.diag(sy)
    out = coefficients.numpy().reshape(-1)
    out[: 1 + 2 * count] = np.concatenate([[-scale], gains, -scale * alphas])


def combine_vectors(
    out: Tensor, sums: Tensor, grad: Tensor, rows: Sequence[Tensor], coefficients: Tensor, threads: int
) -> None:
    """Sets ``out`` to coefficients[0] * grad + the sum of all rows, each times its coefficient, one after the other,
    and measures it: max |d|, d.d, g.d."""
    with np.errstate(all="ignore"):
        total = coefficients.numpy()[0] * grad.numpy().astype(np.float64)
        for row, coefficient in zip(rows, coefficients.numpy()[1:], strict=False):
            total = total + coefficient * row.numpy().astype(np.float64)
        vector: Array = out.numpy()
        vector[:] = total.astype(vector.dtype)
        measured = [_largest(vector), _dot(vector, vector), _dot(grad.numpy(), vector)]
    sums[:3] = torch.tensor(measured, dtype=torch.float64)
