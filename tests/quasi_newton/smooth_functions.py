"""Smooth functions as they occur in training and statistics: quadratics, regressions, a small network and others.

Their data are seeded. No minimizer is at 0, so that points near it can be compared by their relative difference.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from objectives import Objective


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def start(seed: int, n: int, scale: float = 1) -> tuple[float, ...]:
    return tuple((scale * normal(seed, n)).tolist())


SAMPLES, FEATURES, CLASSES, HIDDEN = 60, 8, 3, 6
TABLE = normal(0, SAMPLES, FEATURES) * torch.logspace(-0.6, 0.4, FEATURES, dtype=torch.float64)  # columns of any size
WEIGHTS = normal(1, FEATURES)
NOISE = normal(2, SAMPLES)
NOISY = TABLE @ WEIGHTS + 0.5 * NOISE
LABELS = (NOISY > 0).double()
KINDS = (TABLE @ normal(3, FEATURES, CLASSES) + 0.5 * normal(4, SAMPLES, CLASSES)).argmax(1)
COUNTS = (TABLE @ WEIGHTS / 3 + 1).exp().round()
CURVATURES = torch.logspace(0, 2, 15, dtype=torch.float64)
TARGET = normal(5, 15)
PLANES = normal(6, 30, 10)


def ridge(x: Tensor) -> Tensor:
    """What the regressions add, so that their minimum is attained."""
    return 0.01 * x.square().sum()


def quadratic(x: Tensor) -> Tensor:
    """Curvatures from 1 to 100, along the axes."""
    return (CURVATURES * (x - TARGET) ** 2).sum() / 2


def spring_chain(x: Tensor) -> Tensor:
    """A quadratic with neighbors coupled: a chain of springs under load, fixed at both ends."""
    ends = x.new_zeros(1)
    stretches = torch.cat([ends, x, ends]).diff()
    return stretches.square().sum() / 2 - 0.1 * x.sum()


def least_squares(x: Tensor) -> Tensor:
    return (TABLE @ x - NOISY).square().mean() + ridge(x)


def logistic(x: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(TABLE @ x, LABELS) + ridge(x)


def softmax(x: Tensor) -> Tensor:
    return F.cross_entropy(TABLE @ x.view(FEATURES, CLASSES), KINDS) + 10 * ridge(x)


def poisson(x: Tensor) -> Tensor:
    rates = TABLE @ x
    return (rates.exp() - COUNTS * rates).mean() + 5 * ridge(x)


def pseudo_huber(x: Tensor) -> Tensor:
    residuals = TABLE @ x - NOISY - 3 * (NOISE > 1)
    return ((1 + residuals.square()).sqrt() - 1).mean() + ridge(x)


def student_t(x: Tensor) -> Tensor:
    """Regression that outliers hardly move. Not convex."""
    residuals = TABLE @ x - NOISY - 3 * (NOISE > 1)
    return residuals.square().log1p().mean() + ridge(x)


def log_sum_exp(x: Tensor) -> Tensor:
    return (PLANES @ x + PLANES[:, 0]).logsumexp(0) + ridge(x)


def mlp(x: Tensor) -> Tensor:
    """Regression by a network of one hidden layer of tanh."""
    inputs = TABLE[:, -2:]
    weight, bias, last, shift = x.split([2 * HIDDEN, HIDDEN, HIDDEN, 1])
    outputs = (inputs @ weight.view(2, HIDDEN) + bias).tanh() @ last + shift
    return (outputs - inputs[:, 0].sin() - inputs[:, 1] / 2).square().mean() + ridge(x)


def quartic(x: Tensor) -> Tensor:
    """A bowl that is steep far from its bottom, with neighbors coupled."""
    return ((x - 1) ** 4 / 4 + (x - 2) ** 2 / 2).sum() + x.diff().square().sum()


def pendulums(x: Tensor) -> Tensor:
    """A chain of pendulums joined by springs, and a torque at the first."""
    return (1 - x.cos()).sum() + 4 * x.diff().square().sum() - 0.5 * x[0]


def soap_film(x: Tensor) -> Tensor:
    """The area of a surface over a square of 5 by 5 inner points, with a given rim."""
    rim = torch.linspace(0, 2, 7, dtype=torch.float64).square()
    middle = torch.cat([rim[1:-1].view(5, 1), x.view(5, 5), 4 - rim[1:-1].view(5, 1)], 1)
    heights = torch.cat([rim.view(1, 7), middle, (4 - rim).view(1, 7)])
    down, right = heights.diff(dim=0)[:, :-1], heights.diff(dim=1)[:-1]
    return (1 + down.square() + right.square()).sqrt().sum()


QUADRATIC = Objective("quadratic", quadratic, start(10, 15))
SPRING_CHAIN = Objective("spring_chain", spring_chain, start(11, 20))
LEAST_SQUARES = Objective("least_squares", least_squares, start(12, FEATURES))
LOGISTIC = Objective("logistic", logistic, start(13, FEATURES))
SOFTMAX = Objective("softmax", softmax, start(14, FEATURES * CLASSES))
POISSON = Objective("poisson", poisson, start(15, FEATURES, 0.3))
PSEUDO_HUBER = Objective("pseudo_huber", pseudo_huber, start(16, FEATURES))
STUDENT_T = Objective("student_t", student_t, start(17, FEATURES))
LOG_SUM_EXP = Objective("log_sum_exp", log_sum_exp, start(22, 10))
MLP = Objective("mlp", mlp, start(19, 4 * HIDDEN + 1))
QUARTIC = Objective("quartic", quartic, start(20, 12, 3))
PENDULUMS = Objective("pendulums", pendulums, start(21, 20))
SOAP_FILM = Objective("soap_film", soap_film, start(22, 25, 0.5))
