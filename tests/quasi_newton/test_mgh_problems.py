"""The problems of mgh.py are those of the paper: values at the start, and minima that scipy reaches."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch

from mgh import PROBLEMS
from objectives import Problem
from scipy_runs import Record, minimize

# f at the start. The Fortran programs of Birgin, Gardenghi, Martínez and Santos (2018) compute the same.
STARTS = {
    "rosenbrock": 24.2,
    "freudenstein_roth": 400.5,
    "powell_badly_scaled": 1.135261717348,
    "brown_badly_scaled": 999998000003.0,
    "beale": 14.203125,
    "jennrich_sampson": 4171.30616196,
    "helical_valley": 2500.0,
    "bard": 41.68169586168,
    "gaussian": 3.888106991167e-06,
    "meyer": 1693607809.436,
    "gulf": 12.11070582557,
    "box_3d": 1031.153810609,
    "powell_singular": 215.0,
    "wood": 19192.0,
    "kowalik_osborne": 0.005313172272109,
    "brown_dennis": 7926693.336997,
    "osborne_1": 0.8790262935446,
    "biggs_exp6": 0.779070075656,
    "osborne_2": 2.093419514212,
    "watson": 30.0,
    "extended_rosenbrock": 242.0,
    "extended_powell_singular": 1075.0,
    "penalty_1": 148032.56535,
    "penalty_2": 162.652776566,
    "variably_dimensioned": 2198551.1625,
    "trigonometric": 0.007075759466223,
    "brown_almost_linear": 273.2480478287,
    "discrete_boundary_value": 0.0001253722120522,
    "discrete_integral_equation": 0.1196601653836,
    "broyden_tridiagonal": 31.0,
    "broyden_banded": 720.0,
    "linear_full_rank": 50.0,
    "linear_rank_1": 8658670.0,
    "linear_rank_1_with_zeros": 4067996.0,
    "chebyquad": 0.03376326546288,
}

FAR = 1e9  # stands for infinity
# Further minimizers, with the digits that the value needs.
OTHERS = [
    ("freudenstein_roth", (5, 4), 0),
    ("bard", (0.840667, -FAR, -FAR), 17.4286),
    ("box_3d", (10, 1, -1), 0),
    ("box_3d", (3, 3, 0), 0),
    ("kowalik_osborne", (FAR, -14.0763, -45.2593 * FAR, -28.2321 * FAR), 1.02734e-3),
    ("biggs_exp6", (1, 10, 1, 5, 4, 3), 0),
    ("trigonometric", (0,) * 10, 0),
    ("brown_almost_linear", (*(0,) * 9, 11), 1),
    (
        "chebyquad",
        (0.032993, 0.155145, 0.200189, 0.383262, 0.383262, 0.529249, 0.640354, 0.713566, 0.828482, 0.925252),
        4.77271e-3,
    ),
]


of_all = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=list(PROBLEMS))


def near(value: float) -> object:
    """Tables give six digits and do not round."""
    return pytest.approx(value, rel=1e-5, abs=1e-15)


def test_there_are_35() -> None:
    assert len(PROBLEMS) == 35
    assert PROBLEMS.keys() == STARTS.keys()


@of_all
def test_start(problem: Problem) -> None:
    assert problem.value(problem.point()).item() == pytest.approx(STARTS[problem.name], rel=1e-12)


@of_all
def test_gradient(problem: Problem) -> None:
    """The residuals are smooth at the start: differences agree with autograd."""
    x = problem.point().requires_grad_()
    assert torch.autograd.gradcheck(problem.residuals, (x,), atol=1e-4, rtol=1e-5)


@of_all
def test_levenberg_marquardt_reaches_a_minimum(problem: Problem) -> None:
    """A wrong digit in the data would change the minimum."""

    def residuals(x: np.ndarray) -> np.ndarray:
        return problem.residuals(torch.from_numpy(x.copy())).numpy()

    start = np.array(problem.start, float)
    found = scipy.optimize.least_squares(residuals, start, method="lm", ftol=1e-12, xtol=1e-12, gtol=1e-12)
    assert any(2 * found.cost == near(minimum) for minimum in problem.minima)


@pytest.mark.parametrize(("name", "point", "value"), OTHERS)
def test_other_minima(name: str, point: tuple[float, ...], value: float) -> None:
    problem = PROBLEMS[name]
    assert value in problem.minima
    assert problem.value(torch.tensor(point, dtype=torch.float64)).item() == near(value)


@pytest.mark.parametrize("method", ["L-BFGS-B", "CG"])
@pytest.mark.parametrize("name", ["rosenbrock", "bard", "broyden_tridiagonal"])
def test_runs_of_scipy(name: str, method: str) -> None:
    record = minimize(PROBLEMS[name], method)
    assert record.values[0] == pytest.approx(STARTS[name])
    assert record.best == np.minimum.accumulate(record.values).tolist()
    assert any(record.minimum == near(minimum) for minimum in PROBLEMS[name].minima)
    count = record.evaluations_to(record.target)
    assert count is not None
    assert record.best[count - 1] <= record.target < record.best[count - 2]
    assert record.evaluations_to(-1) is None
    assert len(minimize(PROBLEMS[name], method, evaluations=6).values) <= 6


def test_a_record_counts_for_any_optimizer() -> None:
    record = Record(PROBLEMS["beale"])
    x = record.objective.point().requires_grad_()
    optimizer = torch.optim.LBFGS([x], max_iter=7, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = record.value(x)
        value.backward()
        return value

    optimizer.step(closure)
    assert record.values[0] == pytest.approx(STARTS["beale"])
    assert len(record.values) == optimizer.state[x]["func_evals"]
    assert record.minimum < record.values[0] / 10
