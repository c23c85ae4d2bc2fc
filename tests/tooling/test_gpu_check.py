"""scripts/gpu_check.sh with a fake python, tools and GPU that only print their arguments."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SCRIPT = PROJECT / "scripts" / "gpu_check.sh"
FIRST = ["build", "smoke", "short", "test", "memcheck", "racecheck"]
SECOND = ["build", "bench", "ncu", "synccheck", "initcheck", "cpu"]

# HANGING names a program that waits forever, and does not mind SIGINT.
PYTHON = """#!/bin/bash
if [[ -n ${HANGING:-} && "$*" == *"$HANGING"* ]]; then
    echo "interesting, so far"
    trap 'echo interrupted' INT
    while true; do sleep 0.1; done
fi
case "$*" in
*is_available*) exit "${NO_GPU:-0}" ;;
*_core.built*) [[ -f $PYTHONPATH/module ]] ;;
*xdist) exit 1 ;;
*"pip install"*)
    echo "$*"
    mkdir -p "$PYTHONPATH"
    touch "$PYTHONPATH/module"
    exit "${NO_BUILD:-0}"
    ;;
*--names) echo "one|two" ;;
*"-m bench"*)
    echo "$*"
    [[ "$*" == *--read* ]] || echo '{}' > "$6"
    trap 'echo interrupted; exit 1' INT
    [[ -z ${SLOW:-} || "$*" == *--read* ]] || sleep 60
    tables=$(sed 's/.*--markdown //; s/ .*//' <<<"$*")
    [[ -n ${SLOW:-} && "$*" != *--read* ]] || echo "| case of ${tables##*/} | us |" > "$tables"
    ;;
*) echo "test_cuda=${FASTOPT_TEST_CUDA:-} cached=${PYTORCH_NO_CUDA_MEMORY_CACHING:-0} $*" ;;
esac
"""
TOOLS = {
    "python": PYTHON,
    "compute-sanitizer": """#!/bin/bash
echo "sanitizer $*"
if [[ $2 == "${REFUSED:-}" ]]; then echo "========= Error: Device not supported. Please refer to ..."; exit 1; fi
while [[ $1 != python ]]; do shift; done
exec "$@"
""",
    "ncu": """#!/bin/bash
echo "ncu $*"
[[ -z ${NO_COUNTERS:-} ]] || echo "==ERROR== Failed to initialize the profiler: LibraryNotLoaded"
exec "${@: -2}"
""",
    "nvidia-smi": '#!/bin/bash\necho "a GPU, 580.1"\n',
}
Check = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a copy of the script, in a project that has nothing else."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    for name in ("csrc", "cmake", "python/fastopt"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("csrc/kernel.cu", "CMakeLists.txt", "pyproject.toml"):
        (tmp_path / name).write_text(name)
    (tmp_path / "tools").mkdir()
    for name, text in TOOLS.items():
        tool = tmp_path / "tools" / name
        tool.write_text(text)
        tool.chmod(0o755)
    return {"PATH": f"{tmp_path / 'tools'}:/usr/bin:/bin", "PYTHON": "python", "COMMIT": "abc123"}


@pytest.fixture
def check(tmp_path: Path, environment: dict[str, str]) -> Check:
    def call(*sections: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [str(tmp_path / "scripts" / SCRIPT.name), *sections]
        return subprocess.run(command, env={**environment, **more}, capture_output=True, text=True, check=False)

    return call


def results(summary: str) -> dict[str, str]:
    """The last table of a text."""
    rows = [line.split(" | ") for line in summary.splitlines() if line.startswith("| ")]
    return {row[0].removeprefix("| "): row[1] for row in rows if len(row) == 4 and row[0] not in ("| section", "| ---")}


def log(folder: Path) -> str:
    return (folder / "gpu_check" / "log.txt").read_text()


def test_all_sections(check: Check, tmp_path: Path) -> None:
    done = check()
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    assert list(results(done.stdout)) == FIRST + SECOND[1:]
    assert set(results(done.stdout).values()) == {"passed"}
    assert "fastopt abc123, GPU: a GPU, 580.1" in done.stdout
    out = tmp_path / "gpu_check"
    tables = (out / "tables.md").read_text()
    assert tables == "| case of short.md | us |\n| case of bench.md | us |\n"
    assert done.stdout.endswith(tables + (out / "summary.md").read_text())
    assert len(list(out.iterdir())) <= 8  # as many come back from a machine that is lent
    logged = log(tmp_path)
    assert "-C cmake.define.FASTOPT_CUDA=ON" in logged
    assert logged.index("-m fastopt\n") < logged.index("scripts/gpu_smoke.py\n") < logged.index("--part :24 ")
    assert "test_cuda=1 cached=0 -m pytest -q tests/cuda\n" in logged
    assert "test_cuda= cached=0 -m pytest -q tests/optim/test_bits.py" in logged
    for tool in ("memcheck", "racecheck", "synccheck", "initcheck"):
        assert f"sanitizer --tool {tool} --error-exitcode 9" in logged
    assert logged.count("cached=1 ") == 4
    assert "--device cuda --json gpu_check/bench.json --markdown " in logged
    assert "--part 24: " in logged
    assert "--kernel-name regex:^(one|two)$ python scripts/gpu_kernels.py" in logged


@pytest.mark.parametrize(("half", "sections"), [("first", FIRST), ("second", SECOND)])
def test_halves(half: str, sections: list[str], check: Check) -> None:
    done = check(half)
    assert done.returncode == 0
    assert list(results(done.stdout)) == sections


@pytest.mark.slow
def test_a_half_ends_in_its_time(check: Check) -> None:
    """The last sections get what is left, or are not run at all. Nothing runs longer than TOTAL."""
    started = time.monotonic()
    done = check("first", TOTAL="8", GRACE="1", HANGING="gpu_smoke")
    assert time.monotonic() - started < 10
    found = results(done.stdout)
    assert found["build"] == "passed"
    assert found["smoke"] == "out of time"
    assert found["racecheck"] == "not run"
    assert "no time is left of 8 s" in done.stdout


def test_limits_fit_the_time_that_is_lent() -> None:
    """Two halves of 400 s, and a machine that takes a minute to start: 15 minutes. A build takes half a minute."""
    text = SCRIPT.read_text()
    limits = {name: int(seconds) for name, seconds in re.findall(r"\[(\w+)\]=(\d+)", text)}
    for sections in (FIRST, SECOND):
        assert sum(limits[name] for name in sections if name != "build") <= 400 - 50
    assert text.count("TOTAL:-400") == 2


def test_the_files_it_names_are_there() -> None:
    named = re.findall(r"(?:tests|scripts)/[\w/]+\.(?:py|sh)", SCRIPT.read_text())
    assert len(named) > 5
    assert all((PROJECT / name).exists() for name in named)


def test_a_build_is_used_again(check: Check, tmp_path: Path) -> None:
    """One that was brought along, unless it is of other sources or cannot be imported."""
    assert results(check("prebuild").stdout) == {"prebuild": "passed"}
    assert "pip install" not in (check("build"), log(tmp_path))[1]
    assert re.search(r"\| build \| passed \| \d+ \| built before \|", check("build").stdout)
    (tmp_path / "csrc" / "kernel.cu").write_text("other")
    assert "pip install" in (check("build"), log(tmp_path))[1]
    assert "other sources" in log(tmp_path)
    (tmp_path / "build" / "gpu_check" / "site" / "module").unlink()
    assert "pip install" in (check("build"), log(tmp_path))[1]
    assert re.search(r"\| build \| passed \| \d+ \| built before \|", check("build").stdout)


def test_a_section_that_fails_does_not_stop_the_others(check: Check) -> None:
    done = check(NO_BUILD="1")
    assert done.returncode == 1
    found = results(done.stdout)
    assert found.pop("build") == "failed"
    assert set(found.values()) == {"passed"}


@pytest.mark.slow
def test_a_bench_that_takes_too_long_leaves_its_figures(check: Check) -> None:
    done = check("bench", "build", SLOW="1", LIMIT_BENCH="5")
    assert done.returncode == 1
    assert results(done.stdout) == {"bench": "out of time", "build": "passed"}
    assert "interrupted" in done.stdout
    assert "| case of bench.md | us |" in done.stdout


@pytest.mark.slow
def test_a_section_that_hangs_is_killed(check: Check) -> None:
    done = check("smoke", "build", HANGING="gpu_smoke", LIMIT_SMOKE="5", GRACE="1")
    assert done.returncode == 1
    assert results(done.stdout) == {"smoke": "out of time", "build": "passed"}
    assert "interesting, so far" in done.stdout


def test_rows_are_written_at_once(environment: dict[str, str], tmp_path: Path) -> None:
    """A script that is killed leaves the rows of all sections that have ended, and the log of the one that has not."""
    command = [str(tmp_path / "scripts" / SCRIPT.name), "build", "smoke"]
    running = subprocess.Popen(
        command, env={**environment, "HANGING": "gpu_smoke"}, stdout=subprocess.DEVNULL, start_new_session=True
    )
    summary = tmp_path / "gpu_check" / "summary.md"
    try:
        end = time.monotonic() + 30
        while time.monotonic() < end and not (summary.exists() and "interesting" in log(tmp_path)):
            time.sleep(0.05)
    finally:
        inside = subprocess.run(["ps", "-o", "pid=", "--ppid", str(running.pid)], capture_output=True, text=True)
        os.killpg(running.pid, signal.SIGKILL)
        for child in inside.stdout.split():  # timeout, the leader of a group
            os.killpg(int(child), signal.SIGKILL)
        running.wait()
    assert results(summary.read_text()) == {"build": "passed"}
    assert "interesting, so far" in log(tmp_path)


def test_without_a_gpu(check: Check) -> None:
    done = check("build", "test", "ncu", "bench", NO_GPU="1")
    assert done.returncode == 1
    assert results(done.stdout) == {"build": "passed", "test": "failed", "ncu": "failed", "bench": "failed"}
    assert done.stdout.count("| torch finds no GPU |") == 6  # as they end, and in the summary


@pytest.mark.parametrize(("tool", "section"), [("compute-sanitizer", "memcheck"), ("ncu", "ncu")])
def test_a_missing_tool_is_a_skip(tool: str, section: str, check: Check, tmp_path: Path) -> None:
    (tmp_path / "tools" / tool).unlink()
    done = check(section, "build")
    assert done.returncode == 0
    assert results(done.stdout) == {section: "skipped", "build": "passed"}
    assert f"| there is no {tool} |" in done.stdout


def test_a_tool_that_refuses_the_gpu_is_a_skip(check: Check) -> None:
    done = check("memcheck", "racecheck", "ncu", REFUSED="memcheck", NO_COUNTERS="1")
    assert done.returncode == 0
    assert results(done.stdout) == {"memcheck": "skipped", "racecheck": "passed", "ncu": "skipped"}
    assert "refused: ========= Error: Device not supported." in done.stdout
    assert "refused: ==ERROR== Failed to initialize the profiler: LibraryNotLoaded" in done.stdout


def test_an_unknown_section(check: Check) -> None:
    done = check("build", "rest")
    assert done.returncode == 2
    assert f"no section 'rest'; there are: first ({' '.join(FIRST)}), second (" in done.stderr


def test_it_only_asks_the_gpu() -> None:
    asked = [line for line in SCRIPT.read_text().splitlines() if "nvidia-smi" in line]
    assert all("nvidia-smi --query-gpu=" in line for line in asked)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="there is no shellcheck")
def test_shellcheck() -> None:
    subprocess.run(["shellcheck", str(SCRIPT)], check=True)
