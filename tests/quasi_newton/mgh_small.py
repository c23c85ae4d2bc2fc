"""Residuals of the test problems of Moré, Garbow and Hillstrom that have a fixed number of variables.

J. J. Moré, B. S. Garbow, K. E. Hillstrom: Testing Unconstrained Optimization Software. ACM Transactions on Mathematical
Software 7(1), 1981. The number in a docstring is the problem's number there. `mgh.py` has the start points and minima.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# fmt: off
BARD_Y = (0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39)
GAUSSIAN_Y = (0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521)  # then 0.3989, and the same values backwards
MEYER_Y = (34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744, 8261, 7030, 6005, 5147, 4427, 3820, 3307, 2872)
KOWALIK_OSBORNE_Y = (0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246)
KOWALIK_OSBORNE_U = (4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625)
OSBORNE_1_Y = (
    0.844, 0.908, 0.932, 0.936, 0.925, 0.908, 0.881, 0.850, 0.818, 0.784, 0.751, 0.718, 0.685, 0.658, 0.628, 0.603,
    0.580, 0.558, 0.538, 0.522, 0.506, 0.490, 0.478, 0.467, 0.457, 0.448, 0.438, 0.431, 0.424, 0.420, 0.414, 0.411,
    0.406,
)
OSBORNE_2_Y = (
    1.366, 1.191, 1.112, 1.013, 0.991, 0.885, 0.831, 0.847, 0.786, 0.725, 0.746, 0.679, 0.608, 0.655, 0.616, 0.606,
    0.602, 0.626, 0.651, 0.724, 0.649, 0.649, 0.694, 0.644, 0.624, 0.661, 0.612, 0.558, 0.533, 0.495, 0.500, 0.423,
    0.395, 0.375, 0.372, 0.391, 0.396, 0.405, 0.428, 0.429, 0.523, 0.562, 0.607, 0.653, 0.672, 0.708, 0.633, 0.668,
    0.645, 0.632, 0.591, 0.559, 0.597, 0.625, 0.739, 0.710, 0.729, 0.720, 0.636, 0.581, 0.428, 0.292, 0.162, 0.098,
    0.054,
)
# fmt: on


def data(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def upto(m: int) -> Tensor:
    """1, 2, ..., m."""
    return torch.arange(1, m + 1, dtype=torch.float64)


def rosenbrock(x: Tensor) -> Tensor:
    """1."""
    a, b = x
    return torch.stack([10 * (b - a**2), 1 - a])


def freudenstein_roth(x: Tensor) -> Tensor:
    """2. Most methods stop at the local minimizer (11.41..., -0.8968...)."""
    a, b = x
    return torch.stack([a - 13 + b * (b * (5 - b) - 2), a - 29 + b * (b * (b + 1) - 14)])


def powell_badly_scaled(x: Tensor) -> Tensor:
    """3."""
    a, b = x
    return torch.stack([1e4 * a * b - 1, (-a).exp() + (-b).exp() - 1.0001])


def brown_badly_scaled(x: Tensor) -> Tensor:
    """4."""
    a, b = x
    return torch.stack([a - 1e6, b - 2e-6, a * b - 2])


def beale(x: Tensor) -> Tensor:
    """5."""
    a, b = x
    return data(1.5, 2.25, 2.625) - a * (1 - b ** upto(3))


def jennrich_sampson(x: Tensor) -> Tensor:
    """6, with m = 10."""
    a, b = x
    i = upto(10)
    return 2 + 2 * i - ((i * a).exp() + (i * b).exp())


def helical_valley(x: Tensor) -> Tensor:
    """7. Where the first two variables are (0, negative), the angle jumps by a whole turn."""
    a, b, c = x
    turns = 0.25 + torch.atan2(-a, b) / (2 * math.pi)  # between -1/4 and 3/4, 0 at (1, 0)
    return torch.stack([10 * (c - 10 * turns), 10 * (torch.hypot(a, b) - 1), c])


def bard(x: Tensor) -> Tensor:
    """8. At (0.8406..., -inf, -inf) is a second infimum."""
    a, b, c = x
    u = upto(15)
    v = 16 - u
    return data(*BARD_Y) - (a + u / (v * b + torch.minimum(u, v) * c))


def gaussian(x: Tensor) -> Tensor:
    """9."""
    a, b, c = x
    t = (8 - upto(15)) / 2
    return a * (-b * (t - c) ** 2 / 2).exp() - data(*GAUSSIAN_Y, 0.3989, *reversed(GAUSSIAN_Y))


def meyer(x: Tensor) -> Tensor:
    """10."""
    a, b, c = x
    return a * (b / (45 + 5 * upto(16) + c)).exp() - data(*MEYER_Y)


def gulf(x: Tensor) -> Tensor:
    """11, Gulf research and development, with m = 99. The paper prints "y m i x" where it means y - x."""
    a, b, c = x
    t = upto(99) / 100
    y = 25 + (-50 * t.log()) ** (2 / 3)
    return (-((y - b).abs() ** c) / a).exp() - t


def box_3d(x: Tensor) -> Tensor:
    """12, with m = 10. Minimizers are (1, 10, 1), (10, 1, -1) and the line (s, s, 0)."""
    a, b, c = x
    t = upto(10) / 10
    return (-t * a).exp() - (-t * b).exp() - c * ((-t).exp() - (-10 * t).exp())


def powell_singular(x: Tensor) -> Tensor:
    """13, and 22 with more variables: each four of them make four residuals. The Hessian is singular at 0."""
    a, b, c, d = x.view(-1, 4).unbind(1)
    return torch.cat([a + 10 * b, math.sqrt(5) * (c - d), (b - 2 * c) ** 2, math.sqrt(10) * (a - d) ** 2])


def wood(x: Tensor) -> Tensor:
    """14."""
    a, b, c, d = x
    valleys = [10 * (b - a**2), 1 - a, math.sqrt(90) * (d - c**2), 1 - c]
    return torch.stack([*valleys, math.sqrt(10) * (b + d - 2), (b - d) / math.sqrt(10)])


def kowalik_osborne(x: Tensor) -> Tensor:
    """15. At (inf, -14.07..., -inf, -inf) is a second infimum."""
    a, b, c, d = x
    u = data(*KOWALIK_OSBORNE_U)
    return data(*KOWALIK_OSBORNE_Y) - a * (u**2 + u * b) / (u**2 + u * c + d)


def brown_dennis(x: Tensor) -> Tensor:
    """16, with m = 20."""
    a, b, c, d = x
    t = upto(20) / 5
    return (a + t * b - t.exp()) ** 2 + (c + d * t.sin() - t.cos()) ** 2


def osborne_1(x: Tensor) -> Tensor:
    """17."""
    a, b, c, d, e = x
    t = 10 * (upto(33) - 1)
    return data(*OSBORNE_1_Y) - (a + b * (-t * d).exp() + c * (-t * e).exp())


def biggs_exp6(x: Tensor) -> Tensor:
    """18, with m = 13. The paper gives a local minimum; the residuals are 0 at (1, 10, 1, 5, 4, 3)."""
    a, b, c, d, e, f = x
    t = upto(13) / 10
    y = (-t).exp() - 5 * (-10 * t).exp() + 3 * (-4 * t).exp()
    return c * (-t * a).exp() - d * (-t * b).exp() + f * (-t * e).exp() - y


def osborne_2(x: Tensor) -> Tensor:
    """19: a decaying exponential and three bells."""
    heights, rates, centers = x[:4], x[4:8], x[8:]
    t = ((upto(65) - 1) / 10).unsqueeze(1)
    exponents = torch.cat([t, (t - centers) ** 2], 1)
    return data(*OSBORNE_2_Y) - (-exponents * rates).exp() @ heights
