"""CMake's configuration of the project in a folder of its own, and the commands it would compile with."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pybind11

PROJECT = Path(__file__).parent.parent
# Tools may have been installed next to python.
SEARCHED = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
NO_NVCC = "no working nvcc of CUDA 12 or later was found"  # cmake/cuda.cmake says so
MACHINE = platform.machine()


def _cmake() -> str | None:
    """The program itself: what pip installs under its name is a script, which needs the packages of the environment."""
    try:
        from cmake import CMAKE_BIN_DIR
    except ImportError:
        return shutil.which("cmake", path=SEARCHED)
    return shutil.which("cmake", path=CMAKE_BIN_DIR)


CMAKE = _cmake()


@dataclass(frozen=True)
class Command:
    """How one file is compiled."""

    source: Path
    arguments: list[str]
    folder: Path  # where it is run


@dataclass(frozen=True)
class Configured:
    """What CMake made of the options."""

    status: int
    report: str
    folder: Path

    @property
    def words(self) -> str:
        """The report without the line breaks that CMake puts into errors."""
        return " ".join(self.report.split())

    def commands(self) -> list[Command]:
        entries = json.loads((self.folder / "compile_commands.json").read_text())
        return [Command(Path(e["file"]), shlex.split(e["command"]), Path(e["directory"])) for e in entries]


def configure(folder: Path, environment: dict[str, str] | None = None, **options: str | None) -> Configured:
    """Runs CMake's first step alone: nothing is compiled but its own trials. None leaves an option undefined."""
    assert CMAKE is not None
    defined = {
        "CMAKE_CXX_COMPILER_LAUNCHER": "",
        "CMAKE_EXPORT_COMPILE_COMMANDS": "ON",
        "SKBUILD_PROJECT_VERSION": "0.0",
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
        **options,
    }
    given = [f"-D{name}={value}" for name, value in defined.items() if value is not None]
    generator = ["-G", "Ninja"] if shutil.which("ninja", path=SEARCHED) else []
    done = subprocess.run(
        [CMAKE, "-S", str(PROJECT), "-B", str(folder), *generator, *given],
        env={**os.environ, "PATH": SEARCHED, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Configured(done.returncode, done.stdout, folder)
