"""Makes matrices nearly orthogonal, by matrix products alone: torch's, whose bits depend on machine and threads."""

from __future__ import annotations

import torch
from torch import Tensor

_KEPT = 3  # steps that follow each other in the small matrices: more, and bfloat16 loses small singular values


def product_type(device: torch.device) -> torch.dtype:
    """The type of the products: bfloat16, as in torch, or float32 on a CPU on which bfloat16 is not fast."""
    fast = device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def newton_schulz(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    r"""Takes the singular values of matrices to about 1 by steps ``x <- a x + b g x + c g^2 x``, ``g = x x^T``.

    Where matrices are long, the steps go through products of the small matrices ``g``, which they have in common: ``x``
    becomes ``q x``, and ``g`` becomes ``q g q``, for ``q = a + b g + c g^2``.

    Args:
        x: matrices of shape (count, rows, columns), in the type of the products. They are divided by their norms.
        coefficients: ``a``, ``b`` and ``c``.
        steps: how many steps.
        eps: norms are at least this.
    """
    a, b, c = coefficients
    wide = torch.promote_types(x.dtype, torch.float32)
    x.div_(torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=wide).clamp_(min=eps))
    is_tall = x.size(1) > x.size(2)

    def gram() -> Tensor:
        return x.mT @ x if is_tall else x @ x.mT

    def polynomial(g: Tensor) -> Tensor:
        return torch.baddbmm(g, g, g, beta=b, alpha=c)

    if _is_shorter(min(x.shape[1:]), max(x.shape[1:]), steps):
        for first in range(0, steps, _KEPT):
            g, product = gram(), None
            for last in reversed(range(min(_KEPT, steps - first))):
                q = polynomial(g)
                q.diagonal(dim1=1, dim2=2).add_(a)
                product = q if product is None else q @ product
                if last:
                    g = q @ g @ q
            assert product is not None
            x = x @ product if is_tall else product @ x
    else:
        for _ in range(steps):
            q = polynomial(gram())
            x = torch.baddbmm(x, x, q, beta=a) if is_tall else torch.baddbmm(x, q, x, beta=a)
    return x


def _is_shorter(small: int, large: int, steps: int) -> bool:
    """Whether the small matrices take fewer multiplications; counted in those of two small matrices."""
    ratio = large / small if small else 0.0
    kept = -(-steps // _KEPT) * (2 * ratio - 3) + 4 * steps
    return kept < steps * (2 * ratio + 1)


def in_batches(count: int, elements: int, most: int = 2**26) -> list[range]:
    """Splits ``count`` matrices of so many elements into batches that have at most ``most`` elements each."""
    size = max(1, most // max(elements, 1))
    return [range(first, min(first + size, count)) for first in range(0, count, size)]
