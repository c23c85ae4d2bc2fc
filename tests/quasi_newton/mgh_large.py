"""Residuals of the test problems of Moré, Garbow and Hillstrom that have any number of variables, n.

`mgh_small.py` names the paper and has the problems with a fixed number. n is the length of the vector.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mgh_small import upto


def steps(x: Tensor) -> Tensor:
    """1, 2, ..., n."""
    return upto(len(x))


def grid(x: Tensor) -> Tensor:
    """The n points between 0 and 1, equally spaced."""
    return steps(x) / (len(x) + 1)


def neighbors(x: Tensor, below: float, above: float) -> Tensor:
    """``below`` times the variable before each, plus ``above`` times the one after it."""
    zero = x.new_zeros(1)
    return below * torch.cat([zero, x[:-1]]) + above * torch.cat([x[1:], zero])


def watson(x: Tensor) -> Tensor:
    """20, for n from 2 to 31. A polynomial p with n coefficients solves p' - p^2 = 1, p(0) = 0."""
    t = (upto(29) / 29).unsqueeze(1)
    powers = steps(x) - 1
    slope = t ** powers[:-1] @ (powers[1:] * x[1:])
    equations = slope - (t**powers @ x) ** 2 - 1
    return torch.cat([equations, torch.stack([x[0], x[1] - x[0] ** 2 - 1])])


def extended_rosenbrock(x: Tensor) -> Tensor:
    """21, for even n."""
    a, b = x.view(-1, 2).unbind(1)
    return torch.cat([10 * (b - a**2), 1 - a])


def penalty_1(x: Tensor) -> Tensor:
    """23."""
    return torch.cat([math.sqrt(1e-5) * (x - 1), (x.square().sum() - 0.25).unsqueeze(0)])


def penalty_2(x: Tensor) -> Tensor:
    """24."""
    tenths = (steps(x) / 10).exp()
    powers = (x / 10).exp()
    pairs = powers[1:] + powers[:-1] - (tenths[1:] + tenths[:-1])
    small = torch.cat([pairs, powers[1:] - math.exp(-0.1)])
    weighted = (steps(x).flip(0) * x.square()).sum()
    return torch.cat([x[:1] - 0.2, math.sqrt(1e-5) * small, (weighted - 1).unsqueeze(0)])


def variably_dimensioned(x: Tensor) -> Tensor:
    """25."""
    total = (steps(x) * (x - 1)).sum()
    return torch.cat([x - 1, torch.stack([total, total**2])])


def trigonometric(x: Tensor) -> Tensor:
    """26. Most methods stop at a local minimizer."""
    return len(x) - x.cos().sum() + steps(x) * (1 - x.cos()) - x.sin()


def brown_almost_linear(x: Tensor) -> Tensor:
    """27. At (0, ..., 0, n + 1) the value is 1, and the gradient 0 for n above 2."""
    return torch.cat([x[:-1] + x.sum() - (len(x) + 1), (x.prod() - 1).unsqueeze(0)])


def discrete_boundary_value(x: Tensor) -> Tensor:
    """28: u'' = (u + t + 1)^3 / 2 with zeros at both ends, in differences."""
    h = 1 / (len(x) + 1)
    return 2 * x - neighbors(x, 1, 1) + h**2 / 2 * (x + grid(x) + 1) ** 3


def discrete_integral_equation(x: Tensor) -> Tensor:
    """29: the equation of 28 as an integral with Green's function."""
    t = grid(x)
    s = t.unsqueeze(1)
    green = torch.minimum(s, t) * (1 - torch.maximum(s, t))
    return x + green @ (x + t + 1) ** 3 / (2 * (len(x) + 1))


def broyden_tridiagonal(x: Tensor) -> Tensor:
    """30."""
    return (3 - 2 * x) * x - neighbors(x, 1, 2) + 1


def broyden_banded(x: Tensor) -> Tensor:
    """31: five variables below the diagonal, one above."""
    band = torch.ones(len(x), len(x), dtype=x.dtype).tril(1).triu(-5).fill_diagonal_(0)
    return x * (2 + 5 * x**2) + 1 - band @ (x * (1 + x))


def linear_full_rank(x: Tensor, m: int = 20) -> Tensor:
    """32. The minimum is m - n."""
    shared = 2 / m * x.sum() + 1
    return torch.cat([x, x.new_zeros(m - len(x))]) - shared


def linear_rank_1(x: Tensor, m: int = 20) -> Tensor:
    """33. The minimum is m (m - 1) / (2 (2m + 1))."""
    return upto(m) * (steps(x) * x).sum() - 1


def linear_rank_1_with_zeros(x: Tensor, m: int = 20) -> Tensor:
    """34. The minimum is (m^2 + 3m - 6) / (2 (2m - 3))."""
    factors = torch.cat([x.new_zeros(1), upto(m - 2), x.new_zeros(1)])
    return factors * (steps(x) * x)[1:-1].sum() - 1


def chebyquad(x: Tensor) -> Tensor:
    """35, with m = n. Means of Chebyshev's polynomials on [0, 1], less their integrals."""
    y = 2 * x - 1
    polynomials = [torch.ones_like(y), y]
    while len(polynomials) <= len(x):
        polynomials.append(2 * y * polynomials[-1] - polynomials[-2])
    i = steps(x)
    odd = i % 2 == 1
    integrals = torch.where(odd, 0.0, -1 / torch.where(odd, i + 1, i**2 - 1))
    return torch.stack(polynomials[1:]).mean(1) - integrals
