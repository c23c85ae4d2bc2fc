"""Attention whose weights are dropped by our kernel."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as T
from torch.overrides import handle_torch_function, has_torch_function

from .._dropout import mask
from .._tracing import is_traced
from ._elements import dropout

_NAME = "scaled_dot_product_attention"
_HALF = (torch.bfloat16, torch.float16)
# Before torch 2.5, rows with nothing to attend to are NaN in torch as well.
_safe_softmax = getattr(torch.ops.aten, "_safe_softmax", torch.softmax)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    seed: int | None = None,
    offset: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Computes ``dropout(softmax(query @ key.mT * scale + attn_mask)) @ value``, with the dropout of :func:`dropout`.

    Vaswani et al., "Attention Is All You Need", 2017.

    Where ``dropout_p`` is 0 this is torch's function. With dropout it makes the weights, (..., Hq, L, S), and keeps
    them for the backward pass. torch does the same on the CPU, with a slower dropout; on CUDA its flash and
    memory-efficient kernels need less memory and time. The mask is that of :func:`dropout_mask` for the shape of the
    weights. Half types are computed in float32 and rounded once.

    Args:
        query: (..., Hq, L, E); without heads (L, E) or (N, L, E).
        key: (..., H, S, E).
        value: (..., H, S, Ev).
        attn_mask: broadcasts to (..., Hq, L, S). bool: True where a key takes part; otherwise added to the scores, of
            the type of ``query`` or float32 for half types.
        dropout_p: probability of a weight to be zeroed, also in evaluation: the caller passes 0 then.
        is_causal: query i attends to the keys up to i only; not together with ``attn_mask``.
        scale: default 1 / sqrt(E).
        enable_gqa: Hq may be a multiple of H; each head of key and value serves several of the query.
        seed, offset, generator: see the module.

    Returns:
        A tensor of shape (..., Hq, L, Ev) and the type of ``query``.

    Raises:
        ValueError: see :func:`dropout`.
        RuntimeError: shapes, types or devices do not go together, or ``attn_mask`` comes with ``is_causal``. With
            dropout also: a type that :func:`dropout` does not take, nested tensors.
    """
    tensors = (query, key, value) if attn_mask is None else (query, key, value, attn_mask)
    if has_torch_function(tensors):
        more: dict[str, Any] = {"attn_mask": attn_mask, "dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
        how: dict[str, Any] = {"enable_gqa": enable_gqa, "seed": seed, "offset": offset, "generator": generator}
        function = scaled_dot_product_attention
        return handle_torch_function(function, tensors, query, key, value, **more, **how)
    p = mask.check(dropout_p, seed, offset, generator)
    if p == 0:
        grouped: dict[str, Any] = {"enable_gqa": True} if enable_gqa else {}  # torch 2.4 does not know it
        return T.scaled_dot_product_attention(query, key, value, attn_mask, 0.0, is_causal, scale=scale, **grouped)
    kind = query.device.type
    if torch.is_autocast_enabled(kind):
        to = torch.get_autocast_dtype(kind)
        query, key, value = _autocast(query, to), _autocast(key, to), _autocast(value, to)
        attn_mask = None if attn_mask is None else _autocast(attn_mask, to)
        with torch.autocast(kind, enabled=False):
            return _dropped(query, key, value, attn_mask, p, is_causal, scale, enable_gqa, seed, offset, generator)
    return _dropped(query, key, value, attn_mask, p, is_causal, scale, enable_gqa, seed, offset, generator)


def _autocast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor


def _dropped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    seed: int | None,
    offset: int,
    generator: torch.Generator | None,
) -> Tensor:
    _check(query, key, value, attn_mask, is_causal)
    result_type = query.dtype
    if result_type in _HALF:
        query, key, value = query.float(), key.float(), value.float()
    if enable_gqa:
        key, value = _repeated("key", key, query), _repeated("value", value, query)
    if scale is None:
        width = query.size(-1)
        scale = 1 / math.sqrt(width) if width > 0 else math.inf
    scores = torch.matmul(query * scale, key.transpose(-2, -1))
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is None:
        weights = torch.softmax(scores, -1)
    else:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros((), dtype=scores.dtype, device=scores.device).where(attn_mask, -math.inf)
        # The scores without the mask are not needed again.
        scores = scores + attn_mask if is_traced() else scores.add_(attn_mask)
        # A causal mask leaves each query at least the first key.
        weights = (torch.softmax if is_causal else _safe_softmax)(scores, -1)
    weights = dropout(weights, p, seed=seed, offset=offset, generator=generator)
    return torch.matmul(weights, value).to(result_type)


def _check(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, is_causal: bool) -> None:
    """Checks what torch checks, in its words."""
    tensors = {"query": query, "key": key, "value": value}
    if any(tensor.is_nested for tensor in tensors.values()):
        raise RuntimeError(f"{_NAME}: nested tensors have no dropout here; use torch's function, or dropout_p=0")
    for what, of in (("dtype", "dtype"), ("device", "device type")):
        if len({getattr(tensor, what) for tensor in tensors.values()}) > 1:
            got = ", ".join(f"{name}.{what}: {getattr(tensor, what)}" for name, tensor in tensors.items())
            raise RuntimeError(f"Expected query, key, and value to have the same {of}, but got {got}")
    if min(tensor.dim() for tensor in tensors.values()) < 2:
        got = ", ".join(f"{name}.dim: {tensor.dim()}" for name, tensor in tensors.items())
        raise RuntimeError(f"Expected query, key, and value to all be at least 2 dimensional, but got {got}")
    if not query.is_floating_point():
        raise RuntimeError(f"{_NAME}: query has to be floating point, but got {query.dtype}")
    if attn_mask is None:
        return
    if is_causal:
        raise RuntimeError(f"{_NAME}: Explicit attn_mask should not be set when is_causal=True")
    widened = query.dtype in _HALF and attn_mask.dtype == torch.float32
    if attn_mask.dtype not in (torch.bool, query.dtype) and not widened:
        raise RuntimeError(
            "Expected attn_mask dtype to be bool or float or to match query dtype, but got attn_mask.dtype: "
            f"{attn_mask.dtype} and query.dtype: {query.dtype}"
        )


def _repeated(name: str, tensor: Tensor, query: Tensor) -> Tensor:
    """Repeats the heads of ``tensor`` until there are as many as the query has."""
    if query.dim() < 3 or tensor.dim() < 3:
        raise RuntimeError(f"{_NAME}: enable_gqa needs a dimension of heads, but {name} has {tensor.dim()} dimensions")
    theirs, own = query.size(-3), tensor.size(-3)
    if theirs == own:
        return tensor
    if own == 0 or theirs % own != 0:
        raise RuntimeError(
            f"Number of heads in key and value must divide the number of heads in query, but {name} has {own} and "
            f"query {theirs}"
        )
    return tensor.repeat_interleave(theirs // own, dim=-3)
