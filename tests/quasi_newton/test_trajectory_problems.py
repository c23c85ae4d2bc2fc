"""The trajectories of trajectory_problems.py do not amplify rounding, and lead downhill."""

from __future__ import annotations

import pytest
import torch

from trajectory_problems import HISTORY, TRAJECTORIES, Trajectory

LINE_SEARCHES = [None, "strong_wolfe"]


def test_there_are_20() -> None:
    assert len({trajectory.name for trajectory in TRAJECTORIES}) == 20
    assert all(20 <= trajectory.run(search).iterations <= 30 for trajectory in TRAJECTORIES for search in LINE_SEARCHES)


@pytest.mark.parametrize("line_search", LINE_SEARCHES)
@pytest.mark.parametrize("trajectory", TRAJECTORIES, ids=lambda trajectory: trajectory.name)
def test_rounding_is_hardly_amplified(trajectory: Trajectory, line_search: str | None) -> None:
    start = trajectory.objective.point()
    signs = torch.randn(start.shape, generator=torch.Generator().manual_seed(0), dtype=start.dtype).sign()
    for history in (HISTORY, 100):
        points = trajectory.visited(torch.optim.LBFGS, line_search, history=history)
        others = trajectory.visited(torch.optim.LBFGS, line_search, start * (1 + 1e-15 * signs), history)
        assert len(points) == len(others)
        assert max(((p - q).norm() / p.norm()).item() for p, q in zip(points, others, strict=True)) < 1e-12


@pytest.mark.parametrize("line_search", LINE_SEARCHES)
@pytest.mark.parametrize("trajectory", TRAJECTORIES, ids=lambda trajectory: trajectory.name)
def test_gradients_shrink(trajectory: Trajectory, line_search: str | None) -> None:
    points = trajectory.visited(torch.optim.LBFGS, line_search)
    assert len(points) >= trajectory.run(line_search).iterations
    first, last = (trajectory.objective.value_and_gradient(point) for point in (points[0], points[-1]))
    assert last[0] < first[0]
    assert last[1].norm() < 0.1 * first[1].norm()
