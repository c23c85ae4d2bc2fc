"""scripts/gpu_check.sh with a fake python, compute-sanitizer and GPU that only print their arguments."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_check.sh"

PYTHON = """#!/bin/bash
case "$*" in
*is_available*) exit "${NO_GPU:-0}" ;;
*xdist) exit 1 ;;
*pip*) echo "$*"; exit "${NO_BUILD:-0}" ;;
*bench*)
    echo "$*"
    echo "| case | us |" > "${@: -1}"
    trap 'echo interrupted; exit 1' INT
    [[ -z ${SLOW:-} ]] || sleep 60
    ;;
*) echo "test_cuda=${FASTOPT_TEST_CUDA:-} cached=${PYTORCH_NO_CUDA_MEMORY_CACHING:-0} $*" ;;
esac
"""
TOOLS = {
    "python": PYTHON,
    "compute-sanitizer": '#!/bin/bash\necho "sanitizer $*"\nexec "${@: -2}"\n',
    "nvidia-smi": '#!/bin/bash\necho "a GPU, 580.1"\n',
}
Check = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Runs a copy of the script, in a project that has nothing else."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    (tmp_path / "tools").mkdir()
    for name, text in TOOLS.items():
        tool = tmp_path / "tools" / name
        tool.write_text(text)
        tool.chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'tools'}:/usr/bin:/bin", "PYTHON": "python", "COMMIT": "abc123"}

    def call(*sections: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [str(tmp_path / "scripts" / SCRIPT.name), *sections]
        return subprocess.run(command, env={**environment, **more}, capture_output=True, text=True, check=False)

    return call


def results(summary: str) -> dict[str, str]:
    rows = [line.split(" | ") for line in summary.splitlines() if line.startswith("| ")]
    return {row[0].removeprefix("| "): row[1] for row in rows if len(row) == 4 and row[0] not in ("| section", "| ---")}


def test_all_sections(check: Check, tmp_path: Path) -> None:
    done = check()
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    assert results(done.stdout) == dict.fromkeys(("build", "test", "sanitize", "bench"), "passed")
    assert "| case | us |" in done.stdout
    assert "fastopt abc123, GPU: a GPU, 580.1" in done.stdout
    assert done.stdout.endswith((tmp_path / "gpu_check" / "summary.md").read_text())
    logs = {path.stem: path.read_text() for path in (tmp_path / "gpu_check").glob("*.log")}
    assert "-C cmake.define.FASTOPT_CUDA=ON" in logs["build"]
    assert logs["build"].endswith("-m fastopt\n")
    assert "test_cuda=1 cached=0 -m pytest -q tests/cuda\n" in logs["test"]
    assert "tests/optim/test_bits.py" in logs["test"]
    for tool in ("memcheck", "racecheck", "synccheck", "initcheck"):
        assert f"sanitizer --tool {tool} --error-exitcode 9" in logs["sanitize"]
    assert logs["sanitize"].count("cached=1 scripts/gpu_smoke.py") == 4
    assert "--device cuda --json gpu_check/bench.json --markdown gpu_check/bench.md" in logs["bench"]


def test_the_tests_it_names_are_there() -> None:
    named = re.findall(r"tests/\w+/test_\w+\.py", SCRIPT.read_text())
    assert named
    assert all((SCRIPT.parent.parent / name).exists() for name in named)


def test_a_section_that_fails_does_not_stop_the_others(check: Check) -> None:
    done = check(NO_BUILD="1")
    assert done.returncode == 1
    assert results(done.stdout) == {"build": "failed", "test": "passed", "sanitize": "passed", "bench": "passed"}


def test_a_section_that_takes_too_long_ends(check: Check) -> None:
    done = check("bench", "build", SLOW="1", LIMIT_BENCH="1")
    assert done.returncode == 1
    assert results(done.stdout) == {"bench": "out of time", "build": "passed"}
    assert "interrupted" in done.stdout


def test_without_a_gpu(check: Check) -> None:
    done = check("build", "test", "bench", NO_GPU="1")
    assert done.returncode == 1
    assert results(done.stdout) == {"build": "passed", "test": "failed", "bench": "failed"}
    assert done.stdout.count("| torch finds no GPU |") == 2


def test_without_a_sanitizer(check: Check, tmp_path: Path) -> None:
    (tmp_path / "tools" / "compute-sanitizer").unlink()
    done = check("sanitize")
    assert done.returncode == 0
    assert results(done.stdout) == {"sanitize": "skipped"}
    assert "there is no compute-sanitizer" in done.stdout


def test_an_unknown_section(check: Check) -> None:
    done = check("build", "rest")
    assert done.returncode == 2
    assert "no section 'rest'; there are: build test sanitize bench" in done.stderr


def test_it_only_asks_the_gpu() -> None:
    asked = [line for line in SCRIPT.read_text().splitlines() if "nvidia-smi" in line]
    assert all("nvidia-smi --query-gpu=" in line for line in asked)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="there is no shellcheck")
def test_shellcheck() -> None:
    subprocess.run(["shellcheck", str(SCRIPT)], check=True)
