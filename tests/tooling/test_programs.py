"""The example and the benchmark, started as a user starts them."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_train_digits(tmp_path: Path) -> None:
    """On real digits, both optimizers learn, with similar results, and the picture is written."""
    main = runpy.run_path(str(ROOT / "examples" / "train_digits.py"))["main"]
    picture = tmp_path / "loss.png"
    theirs, ours = main(["--epochs", "6", "--out", str(picture)])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(ours.step_seconds) == len(theirs.step_seconds) == 6 * 22
    assert ours.accuracies[-1] > 0.95
    assert abs(ours.accuracies[-1] - theirs.accuracies[-1]) < 0.02
    assert abs(ours.losses[-1] - theirs.losses[-1]) < 0.05 * theirs.losses[-1]


def test_bench_quick(tmp_path: Path) -> None:
    """It prints a row for each case and writes its figures. No timing is asserted."""
    file = tmp_path / "bench.json"
    command = [sys.executable, "-m", "bench", "--quick", "--seconds", "0", "--only", "128k", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    assert len(figures["rows"]) > 10
    for row in figures["rows"]:
        assert row["case"] in done.stdout
        assert len(row["rounds"]["fastopt"]) == 3
        assert {"fastopt", "ceiling"} <= row["rounds"].keys()  # for AdaBound and Lion, no other package is installed


def test_bench_names_an_unknown_case() -> None:
    command = [sys.executable, "-m", "bench", "--only", "no such case"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no such case has 'no such case' in its name" in done.stderr


def test_step_in_backward() -> None:
    """The same losses as an ordinary loop's, and never more gradients than the largest parameter's and a twentieth."""
    path = ROOT / "examples" / "step_in_backward.py"
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ordinary, inside = (float(peak) for peak in re.findall(r"at most +([\d.]+) MB", done.stdout))
    largest = re.search(r"gradient has ([\d.]+) MB", done.stdout)
    assert largest is not None
    assert inside * 20 < ordinary
    assert float(largest[1]) <= inside <= 1.05 * float(largest[1]) + 0.01


def test_offload() -> None:
    """The same losses in three ways; the device keeps the parameters, and at the end few of the gradients."""
    path = ROOT / "examples" / "offload.py"
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    device = [float(size) for size in re.findall(r"device +([\d.]+) MB", done.stdout)]
    host = [float(size) for size in re.findall(r"host +([\d.]+) MB", done.stdout)]
    assert host == [0.0, device[0], device[0]]
    assert device[2] * 1.9 < device[1] < device[0] / 3
