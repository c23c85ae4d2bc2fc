"""The pictures of docs/gallery.md: each is drawn by its script as a user starts it, and shows what the page says.

Facts are asserted as orders of magnitude, because other CPUs round matrix products differently.
"""

from __future__ import annotations

import math
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("matplotlib", reason="needs the extra 'demo'")
pytest.importorskip("sklearn", reason="needs the extra 'demo'")
from PIL import Image

import fastopt

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPTS = {path.stem: path for path in (ROOT / "examples" / "gallery").glob("*.py") if "__main__" in path.read_text()}
PICTURES = {path.stem: path for path in (ROOT / "docs" / "gallery").glob("*")}
PAGE = (ROOT / "docs" / "gallery.md").read_text()
Draw = Callable[[str], SimpleNamespace]


@pytest.fixture
def draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Draw:
    """Runs a script, checks its picture, and returns what the script defined and measured."""

    def run(name: str) -> SimpleNamespace:
        picture = tmp_path / f"{name}.png"
        monkeypatch.syspath_prepend(SCRIPTS[name].parent)
        monkeypatch.setattr(sys, "argv", [str(SCRIPTS[name]), "--out", str(picture)])
        script = SimpleNamespace(**runpy.run_path(str(SCRIPTS[name]), run_name="__main__"))
        assert 10_000 < picture.stat().st_size < 120_000
        with Image.open(picture) as new, Image.open(PICTURES[name]) as shown:
            assert new.size == shown.size
            assert new.width == 1200
            assert len(new.getcolors()) > 20
        assert re.fullmatch(rf"{re.escape(str(picture))}: \w.{{40,}}\n", capsys.readouterr().out)
        return script

    return run


def test_every_script_has_its_picture_its_place_on_the_page_and_its_test() -> None:
    assert len(SCRIPTS) == 15
    assert PICTURES.keys() == SCRIPTS.keys()
    assert sorted(re.findall(r"!\[[^]]{20,}\]\(gallery/(\w+)\.png\)", PAGE)) == sorted(SCRIPTS)
    for name in SCRIPTS:
        assert f"[{name}.py](../examples/gallery/{name}.py)" in PAGE
        assert f"test_{name}" in globals()


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_short_and_pictures_small(name: str) -> None:
    assert len(SCRIPTS[name].read_text().splitlines()) <= 80
    assert PICTURES[name].stat().st_size < 120_000


def test_descent(draw: Draw) -> None:
    script = draw("descent")
    needed = {name: script.steps_to_goal(points) for name, points in script.measured.items()}
    assert list(needed.values()) == [47, 19, None, 29]
    for name, points in script.measured.items():
        torch.testing.assert_close(points, script.path(name, torch.optim.SGD))
    last = script.measured["Nesterov 0.5, lr 0.4"][-1]
    assert script.f(*last) > 1e6


def test_race(draw: Draw) -> None:
    script = draw("race")
    assert script.METHODS.keys() == script.COLOURS.keys()
    assert {each.__name__ for each in fastopt.optim.ALL} < script.METHODS.keys()
    saddle, beale = ({name: result[0] for name, result in results.items()} for results in script.measured)
    assert (saddle["Adam"], saddle["Rprop"], saddle["SGD"]) == (32, 12, 119)
    assert saddle["RMSprop"] == min(saddle.values()) == 4
    assert beale["SGD"] <= beale["Adam"] <= 60
    assert beale["Rprop"] == min(beale.values())
    assert [name for name, needed in beale.items() if needed > script.BEALE.steps] == ["RAdam"]


def test_adabound(draw: Draw) -> None:
    script = draw("adabound")
    losses = {name: losses for name, (losses, _) in script.measured.items()}
    assert losses["Adam"][-1] < losses["AdaBound"][-1] < losses["SGD"][-1]
    assert abs(losses["AdaBound"][9] - losses["Adam"][9]) < 0.3 * (losses["SGD"][9] - losses["Adam"][9])
    low, high = script.measured["AdaBound"][1].T
    upper = script.FINAL_LR * (1 + 1 / (script.GAMMA * torch.arange(1, script.STEPS + 1)))
    assert (low < upper)[:100].all()
    assert (low > upper)[300:].all()  # nine tenths of the step sizes are clamped
    assert (high > upper).all()


def test_activations(draw: Draw) -> None:
    script = draw("activations")
    std = {cell: outputs[-1].std().item() for cell, outputs in script.measured.items()}
    assert all(len(outputs) == 10 for outputs in script.measured.values())
    assert std["tanh", "N(0, 0.01²)"] < 1e-6
    assert std["tanh", "N(0, 1)"] > 0.95
    assert 0.15 < std["tanh", "Xavier"] < 0.3
    assert std["ReLU", "N(0, 0.01²)"] < 1e-7
    assert std["ReLU", "N(0, 1)"] > 1e11
    assert std["ReLU", "Xavier"] < 0.05
    assert 0.5 < std["ReLU", "He"] < 1.2
    for network, expected in (("tanh, BatchNorm", 0.63), ("ReLU, BatchNorm", 0.58)):
        assert all(abs(std[network, name] - expected) < 0.02 for name in script.INITIALISATIONS)


def test_norms(draw: Draw) -> None:
    script = draw("norms")
    last = {norm: stds[:, -1] for norm, (stds, _) in script.measured.items()}
    assert last["nothing"][0] < 1e-8
    assert last["nothing"][1] > 1e8
    for norm in ("BatchNorm", "LayerNorm", "GroupNorm", "InstanceNorm"):
        assert ((last[norm] - 0.57).abs() < 0.03).all()
    assert ((last["weight norm"] / last["weight norm"][0] - 1).abs() < 1e-3).all()
    contrast, channels, others = torch.stack([moved for _, moved in script.measured.values()], 1)
    nothing, batch, layer, group, instance, weight = range(len(script.NORMS))
    assert contrast[[nothing, weight]].tolist() == pytest.approx([9, 9], rel=1e-3)
    assert contrast[batch] > 1
    assert (contrast[[layer, group, instance]] < 1e-4).all()
    assert channels[instance] < 1e-4
    assert (channels[[nothing, batch, layer, group, weight]] > 0.1).all()
    assert 0.02 < others[batch] < 0.3
    assert others[[nothing, layer, group, instance, weight]].count_nonzero() == 0


def test_batches(draw: Draw) -> None:
    script = draw("batches")
    plain, varied = script.CONTRASTS
    evaluated = {key: found[:, 0] for key, found in script.measured.items()}
    assert all((evaluated[plain, norm] > 0.85).all() for norm in script.NORMS)
    best = torch.stack([evaluated[varied, norm] for norm in ("GroupNorm", "InstanceNorm")]).amax(0)
    worse = best - evaluated[varied, "BatchNorm"]
    assert (worse > 0.05).all()
    assert worse[0] > 0.15
    alone = script.measured[varied, "BatchNorm"][0, 1]
    assert alone > evaluated[varied, "BatchNorm"][0] + 0.15


def test_gradients(draw: Draw) -> None:
    script = draw("gradients")
    sigmoid, tanh, relu = script.NETWORKS
    runs = script.measured
    assert runs[sigmoid, "plain SGD"].norms[0] < 1e-11 * runs[sigmoid, "plain SGD"].norms[-1]
    assert runs[sigmoid, "norm clipped to 1"].norms == runs[sigmoid, "plain SGD"].norms
    assert runs[tanh, "plain SGD"].norms[0] > 1e3 * runs[tanh, "plain SGD"].norms[-1]
    assert min(runs[relu, "plain SGD"].norms) > 1e5
    assert math.isnan(runs[relu, "plain SGD"].losses[1])
    for name in script.NETWORKS:
        clipped, plain = runs[name, "norm clipped to 1"], runs[name, "plain SGD"]
        assert math.hypot(*clipped.norms) < 1.001
        factor = clipped.norms[0] / plain.norms[0]
        assert clipped.norms == pytest.approx([factor * norm for norm in plain.norms], rel=1e-4)
        assert sum(runs[name, "BatchNorm"].losses[-20:]) / 20 < 1.2
        assert sum(clipped.losses[-20:]) / 20 > 2


def test_overfitting(draw: Draw) -> None:
    script = draw("overfitting")
    end = {name: runs.mean(0)[-1] for name, runs in script.measured.items()}
    training, _, _, accuracy = end["nothing"]
    nothing = script.measured["nothing"]
    assert training < 0.05
    assert accuracy < nothing.mean(0)[:, 3].max() - 0.05
    assert end["dropout 0.5"][3] > accuracy + 0.03
    assert end["weight decay 3"][3] > accuracy + 0.02
    stops = [script.stop(run[:, 1]) for run in nothing]
    assert max(stops) < script.EPOCHS // 2
    assert sum(run[stop - 1, 3] for run, stop in zip(nothing, stops, strict=True)) / len(stops) > accuracy + 0.03
    assert script.stop(torch.tensor([3.0, 2.0, *[2.5] * 7, 1.0, *[4.0] * 9, 0.0])) == 10  # better just in time
    assert script.stop(torch.tensor([3.0, 2.0, *[2.5] * 8, 1.0])) == 2  # better one epoch too late


def test_switching(draw: Draw) -> None:
    script = draw("switching")
    plateau, late, adam, switched = (runs.mean(0)[-5:].mean(0) for runs in script.measured.values())
    assert plateau[0] > 2.2
    assert late[0] > 10 * adam[0]
    assert switched[0] < 0.5 * adam[0]
    assert abs(switched[2] - adam[2]) < 0.03
    before = script.SWITCH // script.EVERY
    assert torch.equal(*(script.measured[name][:, :before] for name in list(script.METHODS)[2:]))


def test_schedules(draw: Draw) -> None:
    script = draw("schedules")
    runs = script.measured
    constant = runs.pop("constant")
    assert set(constant.rates) == {script.LR}
    for run in runs.values():
        assert max(run.rates) == pytest.approx(script.LR, rel=1e-3)
        assert run.losses[-1] < 0.6 * sum(constant.losses[-20:]) / 20
    assert runs["StepLR"].rates[-1] == pytest.approx(script.LR / 100)
    assert runs["Warm restarts"].rates[script.STEPS // 3] == script.LR


def test_learning_rates(draw: Draw) -> None:
    script = draw("learning_rates")
    measured = script.measured
    lowest, cautious = (measured.rates[step] for step in (measured.lowest, measured.cautious))
    best = script.RATES[min(range(len(script.RATES)), key=measured.final.__getitem__)]
    assert best / 4 < lowest < best * 4
    assert measured.ratios[measured.lowest] > 5 * script.RATIO
    assert 20 * cautious < lowest
    assert measured.losses[-1] > 10 * min(measured.losses)


def test_memory(draw: Draw) -> None:
    script = draw("memory")
    device = {name: sum(both[0].values()) for name, both in script.measured.items()}
    host = {name: sum(both[1].values()) for name, both in script.measured.items()}
    plain, master, split, coded, inside, offload, freed = script.WAYS
    shown = [round(device[name], 1) for name in (plain, master, split)]
    assert shown == [16.0, 16.0, 14.0]
    assert 8 < device[coded] < 8.5
    assert split == "split master"
    assert 12 < device[inside] < 12.2
    assert 4 <= device[offload] < 4.01
    assert 2 < device[freed] < 2.2
    assert host[plain] == host[inside] == 0
    assert 13.99 < host[offload] == host[freed] < 14.01


def test_quasi_newton(draw: Draw) -> None:
    script = draw("quasi_newton")
    valley, quadratic = (
        {name: script.needed(script.measured[problem, name]) or math.inf for name in script.METHODS}
        for problem in script.PROBLEMS
    )
    for needed in (valley, quadratic):
        assert needed["LBFGS"] < needed["NonlinearCG"] < needed["momentum 0.9"]
        assert needed["SGD"] == math.inf
    assert valley["LBFGS"] == 44
    assert 10 * valley["LBFGS"] < min(valley["momentum 0.9"], valley["Adam"])
    assert 5 * quadratic["LBFGS"] < quadratic["momentum 0.9"] < quadratic["Adam"]


def test_pinn(draw: Draw) -> None:
    script = draw("pinn")
    lowest = {name: losses[-1] for name, (losses, _) in script.measured.items()}
    exact = script.measured["LBFGS, min_curvature=0"][0]
    assert (exact >= script.GOAL).sum() < 300
    assert lowest["Adam, then LBFGS"] < script.GOAL < 1e-7 < lowest["Adam, lr 0.01"]
    assert (script.measured["LBFGS"][0] >= script.GOAL).sum() > 2 * len(exact)
    assert all(error.abs().max() < 1e-3 for _, error in script.measured.values())


def test_logistic(draw: Draw) -> None:
    script = draw("logistic")
    needed = {name: script.needed(run, script.GOAL) for name, run in script.measured.items()}
    assert needed["LBFGS"] < 120
    assert 3 * needed["LBFGS"] < needed["NonlinearCG"] < script.BUDGET
    assert [name for name in needed if needed[name] > script.BUDGET] == ["Adam", "momentum 0.9", "SGD"]
    assert [script.needed(script.measured[name], 1e-2) < 60 for name in needed] == [True] * 5
