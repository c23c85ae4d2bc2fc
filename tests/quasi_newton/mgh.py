"""The 35 test problems of Moré, Garbow and Hillstrom (1981), with the paper's start points.

`mgh_small.py` names the paper. The paper leaves the size of some problems open; those have here 6 to 20 variables.
"""

from __future__ import annotations

import mgh_large as large
import mgh_small as small
from objectives import Problem


def between(n: int) -> list[float]:
    """n points between 0 and 1, equally spaced."""
    return [j / (n + 1) for j in range(1, n + 1)]


BOUNDARY_START = tuple(t * (t - 1) for t in between(20))

ROWS = [
    Problem("rosenbrock", small.rosenbrock, (-1.2, 1), (0,)),
    Problem("freudenstein_roth", small.freudenstein_roth, (0.5, -2), (0, 48.9842)),
    Problem("powell_badly_scaled", small.powell_badly_scaled, (0, 1), (0,)),
    Problem("brown_badly_scaled", small.brown_badly_scaled, (1, 1), (0,)),
    Problem("beale", small.beale, (1, 1), (0,)),
    Problem("jennrich_sampson", small.jennrich_sampson, (0.3, 0.4), (124.362,)),
    Problem("helical_valley", small.helical_valley, (-1, 0, 0), (0,)),
    Problem("bard", small.bard, (1, 1, 1), (8.21487e-3, 17.4286)),
    Problem("gaussian", small.gaussian, (0.4, 1, 0), (1.12793e-8,)),
    Problem("meyer", small.meyer, (0.02, 4000, 250), (87.9458,)),
    Problem("gulf", small.gulf, (5, 2.5, 0.15), (0,)),
    Problem("box_3d", small.box_3d, (0, 10, 20), (0,)),
    Problem("powell_singular", small.powell_singular, (3, -1, 0, 1), (0,)),
    Problem("wood", small.wood, (-3, -1, -3, -1), (0,)),
    Problem("kowalik_osborne", small.kowalik_osborne, (0.25, 0.39, 0.415, 0.39), (3.07505e-4, 1.02734e-3)),
    Problem("brown_dennis", small.brown_dennis, (25, 5, -5, -1), (85822.2,)),
    Problem("osborne_1", small.osborne_1, (0.5, 1.5, -1, 0.01, 0.02), (5.46489e-5,)),
    Problem("biggs_exp6", small.biggs_exp6, (1, 2, 1, 1, 1, 1), (0, 5.65565e-3)),
    Problem("osborne_2", small.osborne_2, (1.3, 0.65, 0.65, 0.7, 0.6, 3, 5, 7, 2, 4.5, 5.5), (4.01377e-2,)),
    Problem("watson", large.watson, (0,) * 6, (2.28767e-3,)),
    Problem("extended_rosenbrock", large.extended_rosenbrock, (-1.2, 1) * 10, (0,)),
    Problem("extended_powell_singular", small.powell_singular, (3, -1, 0, 1) * 5, (0,)),
    Problem("penalty_1", large.penalty_1, tuple(range(1, 11)), (7.08765e-5,)),
    Problem("penalty_2", large.penalty_2, (0.5,) * 10, (2.93660e-4,)),
    Problem("variably_dimensioned", large.variably_dimensioned, tuple(1 - j / 10 for j in range(1, 11)), (0,)),
    Problem("trigonometric", large.trigonometric, (0.1,) * 10, (0, 2.79506e-5)),
    Problem("brown_almost_linear", large.brown_almost_linear, (0.5,) * 10, (0, 1)),
    Problem("discrete_boundary_value", large.discrete_boundary_value, BOUNDARY_START, (0,)),
    Problem("discrete_integral_equation", large.discrete_integral_equation, BOUNDARY_START, (0,)),
    Problem("broyden_tridiagonal", large.broyden_tridiagonal, (-1,) * 20, (0,)),
    Problem("broyden_banded", large.broyden_banded, (-1,) * 20, (0,)),
    Problem("linear_full_rank", large.linear_full_rank, (1,) * 10, (10,)),
    Problem("linear_rank_1", large.linear_rank_1, (1,) * 10, (190 / 41,)),
    Problem("linear_rank_1_with_zeros", large.linear_rank_1_with_zeros, (1,) * 10, (227 / 37,)),
    Problem("chebyquad", large.chebyquad, tuple(between(10)), (4.77271e-3, 6.50395e-3)),
]
PROBLEMS = {problem.name: problem for problem in ROWS}
