"""How many steps each optimizer needs, and four of the paths: away from a saddle point, where all have one lr, since
what counts is how they scale a tiny slope; and down Beale's function, where each has the best of 19 rates. Dauphin et
al. 2014, "Identifying and attacking the saddle point problem in high-dimensional non-convex optimization".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import style
from methods import COLOURS, METHODS


class Race(NamedTuple):
    f: Any
    start: tuple[float, float]
    goal: float  # f has to stay below it
    steps: int
    rates: tuple[float, ...]


def beale(x: Any, y: Any) -> Any:
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


SADDLE = Race(lambda x, y: x * x - y * y, (-1.0, 1e-3), -1.0, 300, (0.03,))
BEALE = Race(beale, (1.0, 1.5), 0.05, 400, tuple(10 ** (k / 4) for k in range(-12, 7)))
Result = tuple[int, float, torch.Tensor]  # the fewest steps to the goal, the lr that they took, the path


def run(race: Race, name: str) -> Result:
    params = [torch.tensor(race.start, requires_grad=True) for _ in race.rates]
    optimizers = [METHODS[name]([p], lr=lr) for p, lr in zip(params, race.rates, strict=True)]  # groups may share sums
    points = [torch.stack(params).detach()]
    for _ in range(race.steps):
        race.f(*torch.stack(params).T).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        points.append(torch.stack(params).detach())
    needed = [int((~(race.f(*path.T) < race.goal)).nonzero().max()) + 1 for path in torch.stack(points, 1)]
    return min(zip(needed, race.rates, torch.stack(points, 1), strict=True), key=lambda result: result[0])


def measure() -> list[dict[str, Result]]:
    return [{name: run(race, name) for name in METHODS} for race in (SADDLE, BEALE)]


def panels(chart: Axes, bars: Axes, race: Race, results: dict[str, Result]) -> None:
    for name in ("SGD", "Adagrad", "Adam", "Rprop"):
        needed, _, path = results[name]
        chart.plot(*path[: needed + 1].T, "o-", color=COLOURS[name], ms=2.5, lw=1, label=name)
    chart.legend(loc="lower right")
    for place, (name, (needed, lr, _)) in enumerate(sorted(results.items(), key=lambda result: -result[1][0])):
        bars.barh(name, min(needed, race.steps), color=COLOURS[name], height=0.7)
        text = f" {needed}, lr {lr:.2g}" if needed <= race.steps else f" not in {race.steps}"
        bars.text(needed, place, text, va="center", fontsize=8)
    bars.set(xlabel=f"steps until f stays below {race.goal:g}", xlim=(0, race.steps * 1.25))


def draw(results: list[dict[str, Result]]) -> Figure:
    figure, ((saddle, first), (valley, second)) = plt.subplots(2, 2, figsize=(8, 7.4), width_ratios=(1, 1.1))
    panels(saddle, first, SADDLE, results[0])
    panels(valley, second, BEALE, results[1])
    style.contours(saddle, SADDLE.f, (-1.2, 0.8, -0.5, 1.2), (-1, -0.5, 0, 0.5))
    style.contours(valley, BEALE.f, (-1.5, 7, -2, 1.8), (0.05, 0.5, 3, 10, 30, 100))
    saddle.set(xlabel="x", ylabel="y", title="saddle x² - y²")
    valley.set(xlabel="x", ylabel="y", title="Beale's function")
    title = "Adam leaves the saddle after {} steps, SGD after {}; down Beale's valley they need {} and {}"
    figure.suptitle(title.format(*(result[name][0] for result in results for name in ("Adam", "SGD"))))
    return figure


if __name__ == "__main__":
    measured = style.main(__file__, __doc__, measure, draw)
